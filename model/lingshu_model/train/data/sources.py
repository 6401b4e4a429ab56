"""Training cells read from h5ad files, and which of them are kept out.

Raw integer counts in `X`, genes in `var_names`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import Intervention
from lingshu_model.network import tokens
from lingshu_model.train.data.cells import Condition, TrainingCells
from lingshu_model.train.data.gene_names import Hgnc, match
from lingshu_model.train.data.h5ad import DataError, H5ad, existing, opened
from lingshu_model.train.data.store import Rows, gathered
from lingshu_model.train.spec import Source, TrainingSpec

__all__ = ["DataError", "Parts", "read_cells", "split"]


@dataclass(frozen=True)
class Parts:
    """Row numbers of the cells of each part, ascending.

    Attributes:
        train: what the weights are learned from.
        validation: what settings are chosen on, stratified by condition.
        test: what nothing is chosen on, stratified by condition.
        unseen: the cells of conditions that are never trained on.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    unseen: NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """What is taken of one open file."""

    file: H5ad
    rows: NDArray[np.int64]
    labels: list[Condition]
    genes: dict[int, int]
    replicate: NDArray[np.str_]

    @property
    def measured(self) -> NDArray[np.int64]:
        return np.array([*self.genes], np.int64)

    def tokens(self, panel: Sequence[str]) -> Iterator[Rows]:
        """Yield tokens [rows, panel] in compressed rows, a block at a time."""
        columns = np.full(len(self.file.genes), -1, np.int64)
        columns[[*self.genes.values()]] = self.measured
        for block in self.file.blocks(self.rows):
            counts = block.tocoo()
            wanted = columns[counts.col] >= 0
            data = _encoded(counts.data[wanted], self.file.path)
            place = (counts.row[wanted], columns[counts.col[wanted]])
            out: Rows = sparse.csr_matrix((data, place), (block.shape[0], len(panel)))
            out.eliminate_zeros()
            out.sort_indices()
            yield out


def read_cells(spec: TrainingSpec, folder: Path, store: Path | None = None) -> TrainingCells:
    """Return the cells of all sources of `spec`, whose files lie in `folder`.

    The files are read a block of rows at a time; with `store`, a folder, the cells are kept there
    and not in memory.

    Raises:
        DataError: a file, column or value is missing, or the counts are not raw UMI.
    """
    hgnc = Hgnc.read(existing(folder / spec.aliases)) if spec.aliases else None
    panel = _panel(spec, folder)
    with ExitStack() as files:
        parts = [
            _part(spec, source, files.enter_context(opened(folder / source.file)), panel, hgnc)
            for source in spec.sources
        ]
        blocks = (block for part in parts for block in part.tokens(panel))
        matrix = gathered(blocks, len(panel), store)
    labels = [label for part in parts for label in part.labels]
    replicate = np.concatenate([part.replicate for part in parts])
    if spec.replicate and not (replicate != "").any():
        message = f"no file has an obs column {spec.replicate!r}: name another as `replicate`"
        raise DataError(message)
    order = sorted(set(labels), key=lambda c: (c.interventions != (), repr(c)))
    number = {condition: i for i, condition in enumerate(order)}
    measured = np.zeros((len(parts), len(panel)), bool)
    for i, part in enumerate(parts):
        measured[i, part.measured] = True
    return TrainingCells(
        panel=tuple(panel),
        tokens=matrix,
        index=np.arange(len(labels)),
        source=np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts]),
        measured=measured,
        condition=np.array([number[label] for label in labels], np.int64),
        conditions=tuple(order),
        replicate=replicate if spec.replicate else None,
    )


def split(cells: TrainingCells, spec: TrainingSpec) -> Parts:
    """Return the parts, a function of the spec's fractions, its seed and the cells alone."""
    generator = np.random.Generator(np.random.Philox(key=[spec.seed, 1]))
    found: dict[str, list[NDArray[np.int64]]] = {"validation": [], "test": [], "unseen": []}
    for index, condition in enumerate(cells.conditions):
        rows = cells.rows(index)
        if any(condition.is_about(one.context, one.target) for one in spec.unseen):
            found["unseen"].append(rows)
            continue
        shuffled = generator.permutation(rows)
        tested, chosen = round(spec.test * len(rows)), round(spec.validation * len(rows))
        found["test"].append(shuffled[:tested])
        found["validation"].append(shuffled[tested : tested + chosen])
    out = {n: np.sort(np.concatenate([*p, np.zeros(0, np.int64)])) for n, p in found.items()}
    held = np.concatenate([*out.values()])
    if len(held) == len(cells):
        message = "no cell is left to train on: lower `test` or `validation`, or name less `unseen`"
        raise DataError(message)
    return Parts(train=np.setdiff1d(np.arange(len(cells)), held), **out)


def _panel(spec: TrainingSpec, folder: Path) -> tuple[str, ...]:
    if spec.panel is None:
        with opened(folder / spec.sources[0].file) as file:
            return tuple(file.genes)
    lines = existing(folder / spec.panel).read_text("utf-8").splitlines()
    return tuple(line.split(",")[0].strip() for line in lines if line.strip())


def _part(
    spec: TrainingSpec, source: Source, file: H5ad, panel: Sequence[str], hgnc: Hgnc | None
) -> _Part:
    rows = np.flatnonzero(_wanted(file, source))
    if not len(rows):
        message = f"{file.path}: no cell has {source.where} and a name for {[*source.rename]}"
        raise DataError(message)
    found = match(panel, file.genes, hgnc)
    if not found:
        message = (
            f"{file.path} has none of the panel's {len(panel)} genes; it names {file.genes[:3]} …"
        )
        raise DataError(message)
    labels = _conditions(file, source, spec)
    return _Part(file, rows, [labels[i] for i in rows], found, _replicates(file, spec)[rows])


def _replicates(file: H5ad, spec: TrainingSpec) -> NDArray[np.str_]:
    """Return the replicate of every cell of a file; "" where the file names none."""
    if spec.replicate is None or spec.replicate not in file.obs:
        return np.full(len(file.obs), "", dtype="U1")
    values = file.column(spec.replicate)
    return np.where(values == "nan", "", values)


def _wanted(file: H5ad, source: Source) -> NDArray[np.bool_]:
    keep = np.ones(len(file.obs), bool)
    for column, values in source.where.items():
        keep &= np.isin(file.column(column), values)
    for field, names in source.rename.items():
        keep &= np.isin(file.column(source.context[field].removeprefix("obs:")), [*names])
    for combination in source.without:
        keep &= ~np.logical_and.reduce([file.column(c) == v for c, v in combination.items()])
    return keep


def _encoded(counts: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    if not np.isfinite(counts).all():
        message = f"{path}: X holds values that are no numbers; raw UMI counts are needed"
        raise DataError(message)
    broken = counts[counts != np.rint(counts)]
    if len(broken):
        message = (
            f"{path}: counts must be whole numbers (raw UMI), and X holds {broken[0]:.6g}; what "
            "was normalised or logged cannot be undone: put the raw counts into X (some files keep "
            "them in layers['counts'] or raw.X)"
        )
        raise DataError(message)
    try:
        return tokens.encode(counts).astype(np.uint16)
    except ValueError as error:
        message = f"{path}: {error}"
        raise DataError(message) from error


def _conditions(file: H5ad, source: Source, spec: TrainingSpec) -> list[Condition]:
    """Return the condition of every cell of the file, wanted or not."""
    if spec.time:
        source = source.model_copy(
            update={"context": {**source.context, "time": f"obs:{spec.time}"}}
        )
    fields = {f: _values(file, source, f) for f in sorted(source.context)}

    @cache  # Cells are many and conditions few.
    def condition(done: tuple[Intervention, ...], *values: str) -> Condition:
        return Condition(tuple(zip(fields, map(str, values), strict=True)), done)

    done = _interventions(file, source)
    if spec.dose:
        done = _dosed(done, file, spec.dose)
    return [*map(condition, done, *fields.values())]


def _values(file: H5ad, source: Source, field: str) -> Sequence[str]:
    value = source.context[field]
    if not value.startswith("obs:"):
        return [value] * len(file.obs)
    names: Mapping[str, str] = source.rename.get(field, {})
    found: list[str] = file.column(value.removeprefix("obs:")).tolist()
    return [names.get(v, v) for v in found]


def _interventions(file: H5ad, source: Source) -> list[tuple[Intervention, ...]]:
    rule = source.perturbation
    if rule is None:
        return [()] * len(file.obs)
    labels = file.column(rule.column).tolist()
    if rule.control not in labels:
        message = f"{file.path}: obs[{rule.column!r}] has no control cells called {rule.control!r}"
        raise DataError(message)

    def done(label: str) -> tuple[Intervention, ...]:
        targets = label.split(rule.separator) if rule.separator else [label]
        named = [rule.targets.get(t, t) for t in targets if t != rule.control]
        return tuple(Intervention(kind=rule.kind, target=t) for t in sorted(named))

    made = {label: done(label) for label in set(labels)}
    return [made[label] for label in labels]


def _dosed(
    done: list[tuple[Intervention, ...]], file: H5ad, column: str
) -> list[tuple[Intervention, ...]]:
    """Return the interventions with the doses of an obs column; control cells need none.

    Raises:
        DataError: the dose of a perturbed cell is no number above 0.
    """
    labels = file.column(column).tolist()

    @cache  # Cells are many and doses few.
    def dosed(interventions: tuple[Intervention, ...], label: str) -> tuple[Intervention, ...]:
        try:
            dose = float(label)
        except ValueError:
            dose = 0.0
        if not 0 < dose < np.inf:
            message = (
                f"{file.path}: obs[{column!r}] is {label!r} for a perturbed cell; a dose is a "
                "number above 0. Correct the column, or train without `dose`"
            )
            raise DataError(message)
        return tuple(one.model_copy(update={"dose": dose}) for one in interventions)

    return [dosed(d, label) if d else d for d, label in zip(done, labels, strict=True)]
