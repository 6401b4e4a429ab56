"""Real cells, trained on and held out, as a checkpoint's own training specification has it.

Two ways of holding out are known. A specification may keep out conditions and a fraction of all
cells (`unseen`, `test`); or it uses the values of one obs column that `where` names, and the cells
with another value are held out. Knows nothing of networks; the only module here that reads AnnData.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.evaluate.arms import Condition
from lingshu_model.evaluate.distribution import single_pools
from lingshu_model.evaluate.observed import CONTROL, Observed, choose_sets
from lingshu_model.evaluate.sparse import csr
from lingshu_model.evaluate.study import Population, Side, Sides, Study, contexts_study
from lingshu_model.train import data as training
from lingshu_model.train.cells import TrainingCells
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.wire import Checkpoint, Intervention, digest_file

DEFAULT = Path("../shared/data")
VALIDATION, TEST = "validation", "test"
Families = Sequence[Sequence[str]]
RELATED = (
    ("B cell", "CD4 T cell", "CD8 T cell", "natural killer cell"),
    ("CD14 monocyte", "FCGR3A monocyte", "dendritic cell"),
)
"""Families of contexts, lymphoid and myeloid; named before anything was measured."""


@dataclass(frozen=True)
class Split:
    """Which cells are held out, and where the perturbation is written.

    Attributes:
        field: obs column that decides.
        value: its value in held-out cells; all other cells were trained on.
        label: obs column with the perturbation.
        control: its value in control cells.
    """

    field: str = "bio_rep"
    value: str = "rep_3"
    label: str = "perturbation"
    control: str = "non-targeting"


def load_study(
    checkpoint: Checkpoint, data: Path, held_out: str | None, related: Families = RELATED
) -> Study:
    """Return what a checkpoint is to be judged by.

    Args:
        checkpoint: whose training specification decides.
        data: the folder of the data files, or the specification's first file.
        held_out: `validation`, `test`, FIELD=VALUE, or None for what the specification holds out.
        related: families of contexts, by how their names begin.

    Raises:
        ValueError: the specification holds nothing out, or not what is asked for.
    """
    spec = TrainingSpec.model_validate(checkpoint.config["training"])
    folder = _folder(data, spec)
    if held_out is None:
        held_out = TEST if spec.test or spec.unseen else _other_value(spec, folder)
    if held_out not in (VALIDATION, TEST):
        return _by_field(checkpoint, spec, folder, held_out)
    if held_out == VALIDATION and not spec.validation:
        message = f"{checkpoint.name} kept no validation slice; use --held-out FIELD=VALUE"
        raise ValueError(message)
    if held_out == TEST and not (spec.test or spec.unseen):
        message = f"{checkpoint.name} kept no test cells; use --held-out FIELD=VALUE"
        raise ValueError(message)
    cells = training.read_cells(spec, folder)
    if len({condition.context for condition in cells.conditions}) == 1:
        return _one_context(spec, cells)
    sides = _sides(spec, cells, held_out)
    return contexts_study(sides, _said(spec, held_out), lambda n, o: _related(n, o, related))


def data_files(checkpoint: Checkpoint, data: Path) -> dict[str, Any]:
    """Return the names and digests of the files a checkpoint was made from."""
    spec = TrainingSpec.model_validate(checkpoint.config["training"])
    folder = _folder(data, spec)
    files = [folder / source.file for source in spec.sources]
    return {"files": {path.name: digest_file(path) for path in files}}


def read_gene_sets(path: Path, wanted: Iterable[str]) -> dict[str, list[str]]:
    """Return gene sets of a GMT file by name; one that it lacks is an error that lists some."""
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    known = {row[0]: row[2:] for row in rows if len(row) > 2}
    for name in wanted:
        if name not in known:
            message = f"{path.name} has no gene set {name!r}; it has {', '.join([*known][:5])} …"
            raise ValueError(message)
    return {name: known[name] for name in wanted}


def load_observed(path: Path, panel: Sequence[str], split: Split) -> Observed:
    """Return the training and held-out cells of every condition that has both.

    Raises:
        ValueError: the file lacks a panel gene, an obs column or the control; what it has is named.
    """
    data = anndata.read_h5ad(path)
    labels, fields = (_column(data, path, name) for name in (split.label, split.field))
    counts = _counts(data, path, panel)
    held_out = fields == split.value
    shared = sorted(set(labels[held_out]) & set(labels[~held_out]))
    if split.control not in shared:
        message = (
            f"{path.name} has no {split.label} {split.control!r} on both sides of "
            f"{split.field} = {split.value!r}; it has {', '.join(shared[:8]) or 'nothing there'}"
        )
        raise ValueError(message)
    names = {label: CONTROL if label == split.control else label for label in shared}
    train, test = (
        {name: counts[side & (labels == label)] for label, name in names.items()}
        for side in (~held_out, held_out)
    )
    return Observed(list(panel), train, test)


def _by_field(checkpoint: Checkpoint, spec: TrainingSpec, folder: Path, held_out: str) -> Study:
    field, _, value = held_out.partition("=")
    rule = spec.sources[0].perturbation
    labels = {"label": rule.column, "control": rule.control} if rule else {}
    split = Split(field=field, value=value, **labels)
    observed = load_observed(folder / spec.sources[0].file, checkpoint.panel, split)
    kind = rule.kind if rule else "knockout"
    context = checkpoint.contexts[0]
    conditions = {
        name: Condition(context, (Intervention(kind=kind, target=name),))
        for name in observed.perturbations
    }
    said = {"field": field, "value": value}
    return _single_study({CONTROL: Condition(context), **conditions}, observed, said)


def _one_context(spec: TrainingSpec, cells: TrainingCells) -> Study:
    """Return the study of the validation slice of cells of one context."""
    parts = training.split(cells, spec)
    names = {
        i: "+".join(each.target for each in condition.interventions) or CONTROL
        for i, condition in enumerate(cells.conditions)
    }
    parts = training.split(cells, spec)
    train, test = (
        {name: part.counts(part.rows(i)) for i, name in names.items()}
        for part in map(cells.take, (parts.train, parts.validation))
    )
    conditions = {
        name: Condition(dict(cells.conditions[i].context), cells.conditions[i].interventions)
        for i, name in names.items()
    }
    return _single_study(conditions, Observed(list(cells.panel), train, test), VALIDATION)


def _single_study(conditions: dict[str, Condition], observed: Observed, held_out: object) -> Study:
    """Return the study of several interventions in one context."""
    columns = np.arange(len(observed.genes))
    population = Population("all", observed, columns, single_pools(observed))
    return Study(
        conditions=conditions,
        populations=[population],
        held_out=held_out,
        sets=choose_sets,
        headline="twelve strongest",
    )


def _sides(spec: TrainingSpec, cells: TrainingCells, held_out: str) -> Sides:
    parts = training.split(cells, spec)
    judging = held_out == TEST
    test = np.sort(np.concatenate([parts.test, parts.unseen])) if judging else parts.validation
    counts = cells.umi()

    def side(rows: NDArray[np.int64]) -> Side:
        return Side(csr(counts[rows].astype(np.int32)), cells.condition[rows], cells.source[rows])

    return Sides(
        panel=cells.panel,
        conditions=[Condition(dict(c.context), c.interventions) for c in cells.conditions],
        sources=[Path(source.file).stem for source in spec.sources],
        measured=cells.measured,
        train=side(parts.train),
        test=side(test),
        rest=side(parts.validation) if judging else None,
        never_trained=np.unique(cells.condition[parts.unseen]).tolist(),
    )


def _said(spec: TrainingSpec, held_out: str) -> object:
    """Return what was held out, as JSON."""
    if held_out == VALIDATION:
        return VALIDATION
    unseen = [one.model_dump(mode="json") for one in spec.unseen]
    return {"fraction": spec.test, "unseen": unseen, "seed": spec.seed}


def _related(name: str, others: Iterable[str], families: Families) -> list[str]:
    """Return the contexts among others that are of the family of `name`; none without one."""
    own = next((f for f in families if name.startswith(tuple(f))), ())
    return sorted(o for o in others if own and o.startswith(tuple(own)))


def _other_value(spec: TrainingSpec, folder: Path) -> str:
    """Return FIELD=VALUE of the cells that the specification leaves out of its file."""
    source = spec.sources[0]
    if len(source.where) != 1:
        message = f"{spec.name} holds nothing out; use --held-out FIELD=VALUE or `validation`"
        raise ValueError(message)
    (field, used), path = next(iter(source.where.items())), folder / source.file
    values = sorted(set(_column(_opened(path), path, field)) - set(used))
    if len(values) != 1:
        message = (
            f"{path.name} has {len(values)} values of {field!r} besides {', '.join(used)}: "
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
    return data.resolve().parents[len(Path(spec.sources[0].file).parts) - 1]


def _opened(path: Path) -> anndata.AnnData:
    return anndata.read_h5ad(path, backed="r")


def _column(data: anndata.AnnData, path: Path, name: str) -> NDArray[np.str_]:
    if name not in data.obs:
        known = ", ".join(map(str, data.obs.columns))
        message = f"{path.name} has no obs column {name!r}; it has {known}"
        raise ValueError(message)
    return data.obs[name].to_numpy().astype(str)


def _counts(data: anndata.AnnData, path: Path, panel: Sequence[str]) -> NDArray[np.int32]:
    missing = [gene for gene in panel if gene not in data.var_names]
    if missing:
        message = (
            f"{path.name} does not measure {len(missing)} panel genes, {', '.join(missing[:5])}: "
            "evaluate on a file that measures the whole panel"
        )
        raise ValueError(message)
    chosen = data[:, list(panel)].X
    dense = chosen.toarray() if sparse.issparse(chosen) else np.asarray(chosen)  # pyright: ignore
    return dense.astype(np.int32)
