"""Training cells read from h5ad files, and their split into parts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.network import tokens
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.gene_names import SHIPPED_NAMES, Hgnc, match, names_file, symbols_of
from lingshu_model.train.data.h5ad import DataError, H5ad, existing, opened
from lingshu_model.train.data.labelled import Context, Labelled, label_cells, without_control
from lingshu_model.train.data.store import Rows, gathered
from lingshu_model.train.spec import Source, TrainingSpec

__all__ = ["DataError", "Parts", "read_cells", "split"]

FEWEST_GENES = 2
FEW_CELLS = 10
GENETIC = ("knockout", "crispri", "crispra")
LARGEST = 10_000_000
"""Largest count: no cell has as many molecules of a gene."""
ROUNDING = 1e-9
"""Share of the mean square below which a variance is rounding, not variation."""


@dataclass(frozen=True)
class Parts:
    """Row numbers of the cells of each part, ascending.

    Attributes:
        train: cells that weights and effects are computed from.
        validation: cells that settings are chosen on, stratified by condition.
        test: cells that nothing is chosen on, stratified by condition.
        unseen: the cells of conditions that are kept out of training.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    unseen: NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """One open file: its cells, and panel index -> column of its genes."""

    file: H5ad
    cells: Labelled
    genes: dict[int, int]

    @property
    def measured(self) -> NDArray[np.int64]:
        return np.array([*self.genes], np.int64)

    def tokens(self, panel: Sequence[str]) -> Iterator[Rows]:
        """Yield tokens [rows, panel] in compressed rows, a block at a time."""
        # File column to panel position; -1 where the panel lacks the gene.
        columns = np.full(len(self.file.genes), -1, np.int64)
        columns[[*self.genes.values()]] = self.measured
        for block in self.file.blocks(self.cells.rows):
            counts = block.tocoo()
            wanted = columns[counts.col] >= 0
            data = encoded(counts.data[wanted], self.file)
            place = (counts.row[wanted], columns[counts.col[wanted]])
            out: Rows = sparse.csr_matrix((data, place), (block.shape[0], len(panel)))
            # `gathered` takes blocks without stored zeros, their columns in order.
            out.eliminate_zeros()
            out.sort_indices()
            yield out


def read_cells(
    spec: TrainingSpec,
    folder: Path,
    store: Path | None = None,
    note: Callable[[str], object] = len,
) -> TrainingCells:
    """Return the cells of all sources of `spec`, whose files lie in `folder`.

    The files are read a block of rows at a time.

    Args:
        spec: which files, and what of them.
        folder: where they are.
        store: a folder to keep the cells in; None = in memory.
        note: is called with what was left out and what looks odd, a sentence each.

    Raises:
        DataError: a file, column or value is missing, or the counts are not raw UMI.
    """
    named = names_file(spec.aliases, folder)
    hgnc = Hgnc.read(existing(named)) if named else None
    panel = _panel(spec, folder, hgnc)
    with ExitStack() as files:
        parts = [
            _part(spec, source, files.enter_context(_opened(source, folder)), panel, hgnc)
            for source in spec.sources
        ]
        blocks = (block for part in parts for block in part.tokens(panel))
        matrix = gathered(blocks, len(panel), store)
    labels = [label for part in parts for label in part.cells.conditions]
    replicate = np.concatenate([part.cells.replicate for part in parts])
    if spec.replicate and not (replicate != "").any():
        message = f"no file has an obs column {spec.replicate!r}: name another as `replicate`"
        raise DataError(message)
    # Control conditions first; sorted, so that numbers do not depend on the order of cells.
    order = sorted(set(labels), key=lambda c: (c.interventions != (), repr(c)))
    number = {condition: i for i, condition in enumerate(order)}
    measured = np.zeros((len(parts), len(panel)), bool)
    for i, part in enumerate(parts):
        measured[i, part.measured] = True
    cells = TrainingCells(
        panel=tuple(panel),
        tokens=matrix,
        index=np.arange(len(labels)),
        source=np.repeat(np.arange(len(parts)), [len(part.cells.rows) for part in parts]),
        measured=measured,
        condition=np.array([number[label] for label in labels], np.int64),
        conditions=tuple(order),
        replicate=replicate if spec.replicate else None,
    )
    _check(cells, ", ".join(str(folder / source.file) for source in spec.sources))
    cells, left = _comparable(cells)
    for sentence in [s for part in parts for s in part.cells.notes] + left + _remarks(cells):
        note(sentence)
    return cells


def split(cells: TrainingCells, spec: TrainingSpec) -> Parts:
    """Return the parts, a function of the spec's fractions, its seed and the cells alone."""
    # Conditions draw in their order from one stream: cells alone decide the parts.
    generator = np.random.Generator(np.random.Philox(key=[spec.seed, 1]))
    matches: dict[str, list[NDArray[np.int64]]] = {"validation": [], "test": [], "unseen": []}
    for index, condition in enumerate(cells.conditions):
        rows = cells.rows(index)
        # Held out whole, and without using the stream.
        if any(
            condition.is_about(intervention.context, intervention.target)
            for intervention in spec.unseen
        ):
            matches["unseen"].append(rows)
            continue
        shuffled = generator.permutation(rows)
        # Of each condition, so that all parts have the same mixture of conditions.
        tested, chosen = round(spec.test * len(rows)), round(spec.validation * len(rows))
        matches["test"].append(shuffled[:tested])
        matches["validation"].append(shuffled[tested : tested + chosen])
    out = {n: np.sort(np.concatenate([*p, np.zeros(0, np.int64)])) for n, p in matches.items()}
    held = np.concatenate([*out.values()])
    if len(held) == len(cells):
        message = "no cell is left to train on: lower `test` or `validation`, or name less `unseen`"
        raise DataError(message)
    return Parts(train=np.setdiff1d(np.arange(len(cells)), held), **out)


def _panel(spec: TrainingSpec, folder: Path, hgnc: Hgnc | None) -> tuple[str, ...]:
    if spec.panel is None:
        with _opened(spec.sources[0], folder) as file:
            if hgnc is not None and spec.aliases == SHIPPED_NAMES:
                return tuple(symbols_of(file.genes, hgnc))
            return tuple(file.genes)
    lines = existing(folder / spec.panel).read_text("utf-8").splitlines()
    return tuple(line.split(",")[0].strip() for line in lines if line.strip())


def _opened(source: Source, folder: Path) -> AbstractContextManager[H5ad]:
    return opened(folder / source.file, source.counts, source.gene_names)


def _part(
    spec: TrainingSpec, source: Source, file: H5ad, panel: Sequence[str], hgnc: Hgnc | None
) -> _Part:
    matches = match(panel, file.genes, hgnc)
    if not matches:
        message = (
            f"{file.path} has none of the panel's {len(panel)} genes; it names {file.genes[:3]} …"
        )
        raise DataError(message)
    labelled = label_cells(file, source, spec)
    # Genes first: what is left out of the matrix, then which cells.
    return _Part(file, replace(labelled, notes=[*file.notes, *labelled.notes]), matches)


def encoded(counts: NDArray[Any], file: H5ad) -> NDArray[np.uint16]:
    """Return the tokens of raw counts.

    Raises:
        DataError: a value is no count; where else the file may have counts is said.
    """
    place = f"{file.path}: {file.counts}"
    if not np.isfinite(counts).all():
        message = f"{place} holds values that are no numbers; raw UMI counts are needed"
        raise DataError(message)
    if len(counts) and (largest := counts.max()) > LARGEST:
        message = f"{place} holds {largest:.6g}, and no cell has so many molecules of a gene"
        raise DataError(message)
    broken = counts[counts != np.rint(counts)]
    if len(broken):
        others = [name for name in file.matrices if name != file.counts]
        elsewhere = f'; the file also has {", ".join(others)}: say "counts" if one is raw' * any(
            others
        )
        message = (
            f"{file.path}: counts must be whole numbers (raw UMI), and {file.counts} holds "
            f"{broken[0]:.6g}; what was normalised or logged cannot be undone: give the raw "
            f"counts{elsewhere}"
        )
        raise DataError(message)
    try:
        return tokens.encode(counts).astype(np.uint16)
    except ValueError as error:
        message = f"{place}: {error}"
        raise DataError(message) from error


def _check(cells: TrainingCells, names: str) -> None:
    """Refuse cells that no model can be trained on: with nothing in them, or nothing to learn."""
    if len(cells.panel) < FEWEST_GENES:
        message = (
            f"{names}: {len(cells.panel)} gene is too few: a model of cells needs at least "
            f"{FEWEST_GENES} genes"
        )
        raise DataError(message)
    held = (block.umi(np.float64) for block in cells.blocks())
    totals = sum((np.stack([_sums(b), _sums(b.multiply(b))]) for b in held), np.zeros((2, 1)))
    if not totals[0].any():
        message = f"{names}: the counts are 0 everywhere"
        raise DataError(message)
    mean, square = totals / len(cells)
    # Variance of each gene, [genes], compared with what rounding leaves of it.
    # E x^2 - (E x)^2 of equal counts is 0 but for rounding in proportion to E x^2.
    if not (square - mean**2 > ROUNDING * square).any():
        message = f"{names}: all cells have the same counts, so that there is nothing to learn"
        raise DataError(message)


def _sums(matrix: Rows) -> NDArray[np.float64]:
    return np.asarray(matrix.sum(axis=0), np.float64).ravel()


def _comparable(cells: TrainingCells) -> tuple[TrainingCells, list[str]]:
    """Return the cells of contexts that have control cells, if any is perturbed, and notes."""
    contexts: dict[Context, tuple[int, int]] = {}
    for index, condition in enumerate(cells.conditions):
        control, perturbed = contexts.get(condition.context, (0, 0))
        number = len(cells.rows(index))
        here = (0, number) if condition.interventions else (number, 0)
        contexts[condition.context] = control + here[0], perturbed + here[1]
    bare, words = without_control(contexts)
    if not bare:
        return cells, []
    kept = [i for i, c in enumerate(cells.conditions) if c.context not in bare]
    chosen = cells.take(np.flatnonzero(np.isin(cells.condition, kept)))
    conditions = tuple(cells.conditions[i] for i in kept)
    # `kept` ascends, so the place of an old number in it is the new number.
    number = np.searchsorted(kept, chosen.condition)
    return replace(chosen, condition=number, conditions=conditions), [words]


def _remarks(cells: TrainingCells) -> list[str]:
    """Return warnings about the cells of all sources together, a sentence each."""
    notes = _remarks_on_counts(cells)
    few = [c for i, c in enumerate(cells.conditions) if 0 < len(cells.rows(i)) < FEW_CELLS]
    perturbed = any(c.interventions for c in cells.conditions)
    if few and not perturbed:
        named = "; ".join(", ".join(value for _, value in c.context) for c in few[:5])
        notes.append(
            f"{len(few)} of {len(cells.conditions)} contexts have fewer than {FEW_CELLS} cells "
            f"({named}{' …' if len(few) > 5 else ''}): the network learns little of them"
        )
    elif few:
        named = ", ".join("+".join(i.target for i in c.interventions) or "control" for c in few[:5])
        notes.append(
            f"{len(few)} of {len(cells.conditions)} conditions have fewer than {FEW_CELLS} cells "
            f"({named}{' …' if len(few) > 5 else ''}): their effects are hardly told from nothing"
        )
    genes = {*cells.panel}
    interventions = {
        i.target for c in cells.conditions for i in c.interventions if i.kind in GENETIC
    }
    if interventions and not interventions & genes:
        names, genes_shown = ", ".join(sorted(interventions)[:3]), ", ".join(cells.panel[:3])
        notes.append(
            f"none of the {len(interventions)} targets ({names} …) is a gene of the panel "
            f"({genes_shown} …), so that what a perturbation does to its own target cannot be "
            "checked; if a column of var has the names that targets are called by, say so with "
            "`gene_names`"
        )
    return notes


def _remarks_on_counts(cells: TrainingCells) -> list[str]:
    """Return warnings about cells without counts, and about counts that have no token."""
    above = cells.capped()
    # Zeros are not stored: an empty row is a cell without a count.
    empty = sum(int((np.diff(b.matrix.indptr) == 0).sum()) for b in cells.blocks())
    notes: list[str] = []
    if empty:
        notes.append(
            f"{empty:,} of {len(cells):,} cells have no count of any gene: their levels count as "
            "0; leave them out (scanpy.pp.filter_cells)"
        )
    if above.any():
        names = ", ".join(cells.panel[i] for i in np.argsort(-above, kind="stable")[:5] if above[i])
        number = int((above > 0).sum())
        notes.append(
            f"{number:,} of {len(above):,} genes have counts above {tokens.CAP:,} in some cells "
            f"({names}{' …' if number > 5 else ''}), which enter as {tokens.CAP + 1:,}: their "
            "changes are underestimated, and those of the others are relative to that depth. For "
            "deep reads, sample counts down first (scanpy.pp.downsample_counts)"
        )
    return notes
