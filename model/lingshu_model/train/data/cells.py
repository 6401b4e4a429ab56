"""Training cells: sparse tokens, which genes each source measures, which condition a cell has.

Counts are in compressed rows (CSR): of 18,080 genes most are 0 in a cell, and only the others take
memory. A gene that a source lacks is unmeasured, which is not zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from lingshu_model.contracts import Intervention
from lingshu_model.network import tokens
from lingshu_model.train.data.store import Rows

BLOCK = 1024
"""Cells processed at a time where all of them might not fit in memory."""


@dataclass(frozen=True)
class Condition:
    """One (context, interventions) pair of the training cells."""

    context: tuple[tuple[str, str], ...]
    interventions: tuple[Intervention, ...] = ()

    def is_about(self, context: dict[str, str], target: str) -> bool:
        """Return whether this is `target` alone in a context that has the fields `context`."""
        fields = dict(self.context)
        targets = [intervention.target for intervention in self.interventions]
        return targets == [target] and all(fields.get(k) == v for k, v in context.items())


@dataclass(frozen=True)
class TrainingCells:
    """Cells of all sources over one panel.

    Attributes:
        panel: gene symbols.
        tokens: uint16 [rows, genes] in compressed rows; 0 where zero or unmeasured.
        index: int64 [cells], each cell's row of `tokens`; a row may occur more than once.
        source: int64 [cells], an index into `measured`.
        measured: bool [sources, genes].
        condition: int64 [cells], an index into `conditions`.
        conditions: control conditions first, then perturbed ones, sorted.
        replicate: str [cells], the replicate of each; "" where none is named. None = no replicates.
    """

    panel: tuple[str, ...]
    tokens: Rows
    index: NDArray[np.int64]
    source: NDArray[np.int64]
    measured: NDArray[np.bool_]
    condition: NDArray[np.int64]
    conditions: tuple[Condition, ...]
    replicate: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, condition: int) -> NDArray[np.int64]:
        """Return the row numbers of the cells of one condition."""
        return np.flatnonzero(self.condition == condition)

    def take(self, rows: NDArray[np.int64]) -> "TrainingCells":
        """Return the cells `rows`, with the same conditions."""
        # The tokens are shared, not copied: a part of the cells takes 24 bytes a cell.
        return replace(
            self,
            index=self.index[rows],
            source=self.source[rows],
            condition=self.condition[rows],
            replicate=None if self.replicate is None else self.replicate[rows],
        )

    def blocks(self) -> Iterator["TrainingCells"]:
        """Yield all cells in order, `BLOCK` at a time."""
        for rows in np.array_split(np.arange(len(self)), -(-len(self) // BLOCK) or 1):
            yield self.take(rows)

    @property
    def matrix(self) -> Rows:
        """The cells' tokens, uint16 [cells, genes], read into memory."""
        return self.tokens[self.index]

    def dense(self, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return tokens uint16 [rows, genes], MASK where unmeasured."""
        # Sparse rows have 0 both for a count of 0 and for an unmeasured gene.
        out = self.tokens[self.index[rows]].toarray()
        out[~self.measured[self.source[rows]]] = tokens.MASK
        return out

    def counts(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int32]:
        """Return decoded UMI [rows, genes], 0 where unmeasured; all cells by default."""
        return (self if rows is None else self.take(rows)).umi(np.int32).toarray()

    def umi(self, dtype: DTypeLike = np.float32) -> Rows:
        """Return decoded UMI [cells, genes] in compressed rows."""
        rows = self.matrix
        # Token 0 decodes to 0, so the same entries are non-zero.
        data = tokens.LOWER_EDGES.astype(dtype)[rows.data]
        return sparse.csr_matrix((data, rows.indices, rows.indptr), rows.shape)

    def depth(self) -> NDArray[np.float64]:
        """Return UMI per cell over its measured genes, float64 [cells], at least 1."""
        totals = [np.asarray(b.umi().sum(axis=1), np.float64).ravel() for b in self.blocks()]
        # ln of it is a condition of the network, and an empty cell has none.
        return np.maximum(np.concatenate(totals), 1.0)

    def capped(self) -> NDArray[np.int64]:
        """Return in how many cells a gene's count is above the largest token, [genes]."""
        above = np.zeros(len(self.panel), np.int64)
        # Block by block: a mask of all stored counts would be as large as they are.
        for block in self.blocks():
            rows = block.matrix
            over = rows.indices[rows.data == tokens.OVERFLOW]
            above += np.bincount(over, minlength=len(above))
        return above

    def measured_by(self, condition: int) -> NDArray[np.bool_]:
        """Return which genes any cell of a condition measures, bool [genes]."""
        sources = np.unique(self.source[self.rows(condition)])
        return np.asarray(self.measured[sources].any(axis=0), bool)


def controls(cells: TrainingCells) -> dict[tuple[tuple[str, str], ...], int]:
    """Return the control condition of each context that has one."""
    return {c.context: i for i, c in enumerate(cells.conditions) if not c.interventions}


def add_shams(cells: TrainingCells, count: int, seed: int) -> TrainingCells:
    """Return the cells and, after them, `count` random control subsets under null labels.

    Each subset is as large as the median perturbed condition and is drawn without replacement from
    the control cells of one context: of the perturbed contexts the one with the most control cells.
    The effects that a model gives to null labels are its null distribution.

    Args:
        cells: training cells.
        count: number of subsets; 0 = return `cells`.
        seed: of the draw.
    """
    if not count:
        return cells
    sizes = [len(cells.rows(i)) for i, c in enumerate(cells.conditions) if c.interventions]
    perturbed = {c.context for c in cells.conditions if c.interventions}
    by_context = controls(cells)
    candidates = [i for context, i in by_context.items() if context in perturbed]
    candidates = candidates or [*by_context.values()]
    # Of equal numbers of cells the first condition, so that the choice is a function of the cells.
    chosen = max(candidates, key=lambda i: (len(cells.rows(i)), -i))
    control = cells.rows(chosen)
    # At most half of the control cells: a larger subset would hardly differ from all of them.
    size = min(int(np.median(sizes)) if sizes else len(control) // 2, len(control) // 2)
    # Of its own purpose; the split of the same seed uses 1.
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    subsets = [generator.choice(control, size, replace=False) for _ in range(count)]
    shams = [
        Condition(cells.conditions[chosen].context, (Intervention(kind="sham", target=name),))
        for name in (f"sham-{i:02d}" for i in range(count))
    ]
    # New conditions are numbered after those of the cells.
    labels = [np.full(size, len(cells.conditions) + i) for i in range(count)]
    rows = np.concatenate([np.arange(len(cells)), *subsets])
    return replace(
        cells.take(rows),
        condition=np.concatenate([cells.condition, *labels]),
        conditions=(*cells.conditions, *shams),
    )
