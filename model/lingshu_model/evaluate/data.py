"""Real cells, trained on and held out, as a checkpoint's own training specification says.

A specification may hold out conditions and a fraction of all cells (`unseen`, `test`), or use only
some values of one obs column (`where`); then the cells with another value are held out. Cells are
read as training reads them, so counts of 100 and more are those of the count quantiser on both
sides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lingshu_model.contracts import Checkpoint, digest_file
from lingshu_model.evaluate.metrics.matrices import Indices, csr
from lingshu_model.evaluate.study import Side, Split
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.h5ad import opened
from lingshu_model.train.data.sources import read_cells, split
from lingshu_model.train.spec import Source, TrainingSpec

DEFAULT = Path("../shared/data")
VALIDATION, TEST = "validation", "test"


def load_split(checkpoint: Checkpoint, data: Path, held_out: str | None) -> Split:
    """Return the cells that a checkpoint was trained on and those that it is evaluated on.

    Args:
        checkpoint: whose training specification decides.
        data: the folder of the data files, or the specification's first file.
        held_out: `validation`, `test`, FIELD=VALUE, or None for what the specification holds out.

    Raises:
        ValueError: the specification does not hold out what is named, or holds out nothing.
    """
    spec = TrainingSpec.model_validate(checkpoint.config["training"])
    folder, panel = _folder(data, spec), checkpoint.panel
    tested = _tested(spec)
    if held_out is None:
        held_out = TEST if tested else _other_value(spec, folder)
    if held_out not in (VALIDATION, TEST):
        return by_field(spec, checkpoint.panel, folder, held_out)
    if not (spec.validation if held_out == VALIDATION else tested):
        kind = "validation slice" if held_out == VALIDATION else "test cells"
        message = f"{checkpoint.name} kept no {kind}; use --held-out FIELD=VALUE"
        raise ValueError(message)
    cells = read_cells(spec, folder)
    parts = split(cells, spec)
    held = [parts.test, parts.unseen] if held_out == TEST else [parts.validation]
    # JSON for the evidence: what a reader needs to hold out the same cells.
    unseen = [each.model_dump(mode="json") for each in spec.unseen]
    described = {"fraction": spec.test, "unseen": unseen, "seed": spec.seed}
    return Split(
        panel=panel,
        sources=_names(spec),
        measured=cells.measured[:, columns_of(cells, panel)],
        train=side(cells, parts.train, panel),
        test=side(cells, np.sort(np.concatenate(held)), panel),
        held_out=VALIDATION if held_out == VALIDATION else described,
        fold=held_out,
    )


def holds_out(checkpoint: Checkpoint) -> bool:
    """Return whether the specification of a checkpoint keeps cells out of everything."""
    spec = TrainingSpec.model_validate(checkpoint.config["training"])
    return _tested(spec) or any(source.where for source in spec.sources)


def _tested(spec: TrainingSpec) -> bool:
    """Return whether a specification keeps test cells; also of conditions that are held out."""
    return bool(spec.test or spec.unseen)


def side(cells: TrainingCells, rows: Indices, panel: Sequence[str]) -> Side:
    """Return the counts of some cells over a panel, by source and condition."""
    counts = cells.take(rows).umi(np.int32)[:, columns_of(cells, panel)]
    source, condition = cells.source[rows], cells.condition[rows]
    return {
        (int(s), cells.conditions[c]): csr(counts[np.flatnonzero((source == s) & (condition == c))])
        # Pairs that occur: a condition without cells in a source has no entry.
        for s, c in np.unique(np.stack([source, condition]), axis=1).T.tolist()
    }


def columns_of(cells: TrainingCells, panel: Sequence[str]) -> list[int]:
    """Return the columns of cells that are the genes of a checkpoint's panel.

    Raises:
        ValueError: the data lack some of them.
    """
    places = {gene: i for i, gene in enumerate(cells.panel)}
    missing = [gene for gene in panel if gene not in places]
    if missing:
        message = (
            f"the data do not have {len(missing)} genes of the panel, {', '.join(missing[:5])}: "
            "evaluate on the files that the checkpoint was trained on"
        )
        raise ValueError(message)
    return [places[gene] for gene in panel]


def data_files(checkpoint: Checkpoint, data: Path) -> dict[str, Any]:
    """Return the names and digests of the files that a checkpoint was trained on."""
    spec = TrainingSpec.model_validate(checkpoint.config["training"])
    folder = _folder(data, spec)
    files = [folder / source.file for source in spec.sources]
    return {"files": {path.name: digest_file(path) for path in files}}


def by_field(spec: TrainingSpec, panel: Sequence[str], folder: Path, held_out: str) -> Split:
    """Return the split by the value of one obs column.

    Sources whose `where` names the column are read with that value; the others hold out nothing.

    Args:
        spec: of the training.
        panel: gene symbols.
        folder: of the data files.
        held_out: FIELD=VALUE.

    Raises:
        ValueError: no source is restricted by the column, or the value was trained on.
    """
    field, _, value = held_out.partition("=")
    sources = [source for source in spec.sources if field in source.where]
    used = sorted({v for source in sources for v in source.where[field]})
    if not sources or value in used:
        every = f"cells of every {field!r}; choose a column of its `where`"
        this = f"cells with {field} = {value!r}; choose another value"
        message = f"{spec.name} was trained on {this if sources else every}"
        raise ValueError(message)
    cells = read_cells(spec, folder)
    parts = split(cells, spec)
    others = [_with(source, field, value) for source in sources]
    held = read_cells(spec.model_copy(update={"sources": others}), folder)
    # `others` counts from 0; the study's sources are those of the whole specification.
    numbers = [spec.sources.index(source) for source in sources]
    test = side(held, np.arange(len(held)), panel)
    return Split(
        panel=panel,
        sources=_names(spec),
        measured=cells.measured[:, columns_of(cells, panel)],
        # The validation slice chose settings, but the weights' data are what predictors may use.
        train=side(cells, np.sort(np.concatenate([parts.train, parts.validation])), panel),
        test={(numbers[s], condition): counts for (s, condition), counts in test.items()},
        held_out={"field": field, "value": value},
        fold=held_out,
    )


def _with(source: Source, field: str, value: str) -> Source:
    return source.model_copy(update={"where": {**source.where, field: [value]}})


def _names(spec: TrainingSpec) -> list[str]:
    """Return a name per source: the file's, numbered where a file is several sources."""
    stems = [Path(source.file).stem for source in spec.sources]
    return [s if stems.count(s) == 1 else f"{s} {i + 1}" for i, s in enumerate(stems)]


def _other_value(spec: TrainingSpec, folder: Path) -> str:
    """Return FIELD=VALUE of the cells that the specification leaves out of its first file."""
    source = spec.sources[0]
    if len(source.where) != 1:
        message = f"{spec.name} holds nothing out; use --held-out FIELD=VALUE or `validation`"
        raise ValueError(message)
    field, used = next(iter(source.where.items()))
    with opened(folder / source.file, source.counts, source.gene_names) as file:
        values: Sequence[str] = sorted({*file.column(field).tolist()} - {*used, ""})
        name = file.path.name
    if len(values) != 1:
        message = (
            f"{name} has {len(values)} values of {field!r} besides {', '.join(used)}: "
            f"choose with --held-out {field}=VALUE among {', '.join(values[:8]) or 'none'}"
        )
        raise ValueError(message)
    return f"{field}={values[0]}"


def _folder(data: Path, spec: TrainingSpec) -> Path:
    """Return the folder of the data files, also where one of them was given."""
    if data.is_dir():
        return data
    if not data.is_file():
        message = f"{data} does not exist; give the folder of the data files with --data"
        raise ValueError(message)
    # Files may lie in folders below the data folder: as many parents up as the path has parts.
    return data.resolve().parents[len(Path(spec.sources[0].file).parts) - 1]
