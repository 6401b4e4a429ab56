"""Cells of many perturbations and their control, checked once and laid out for scoring.

A side (the real cells, or a prediction of them) is the control's cells and one matrix with the
cells of all perturbations, rows of a perturbation together, perturbations in the order of their
names. Knows nothing of normalisation or metrics.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.evaluate.scoring.threads import each

Floats = NDArray[np.float64]
Matrix = Any
"""A scipy CSR matrix, [cells, genes]; scipy has no types to name it by."""
ENTRIES = 1 << 16
"""Entries in a piece of a matrix: temporaries this small stay in the processor's cache."""


@dataclass(frozen=True)
class Side:
    """Real or predicted cells.

    Attributes:
        genes: what the columns are.
        names: the perturbations, sorted; the control is none of them.
        label: what the control is called.
        control: its cells, float32 CSR without stored zeros.
        perturbed: the cells of all perturbations, as the control's.
        bounds: where each perturbation's rows begin, and the end of the last, [perturbations + 1].
    """

    genes: list[str]
    names: list[str]
    label: str
    control: Matrix
    perturbed: Matrix
    bounds: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Cells per perturbation."""
        return np.diff(self.bounds)

    def groups(self, matrix: Matrix | None = None) -> Iterator[Matrix]:
        """Yield the rows of each perturbation, of `perturbed` or of a matrix with its rows."""
        cells: Any = self.perturbed if matrix is None else matrix
        for first, last in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            yield cells[first:last]


def real_side(arms: Mapping[str, Any], genes: Sequence[str], control: str) -> Side:
    """Return the real cells.

    Args:
        arms: cells by condition, dense or sparse, [cells, genes], the control among them. The
            control is not copied if it is float32 CSR without zeros already.
        genes: the columns' names.
        control: the control's name in `arms`.

    Raises:
        ValueError: no control or no perturbation, no cells, wrong columns, values no counts have.
    """
    names = sorted(name for name in arms if name != control)
    if control not in arms or not names:
        raise ValueError(_absent(control, arms))
    return _side(arms, names, genes, control)


def predicted_side(arms: Mapping[str, Any], real: Side) -> Side:
    """Return predicted cells of the real side's perturbations; theirs is the control they lack.

    Raises:
        ValueError: other perturbations than the real ones, or as `real_side`.
    """
    control = real.label
    wrong = sorted({name for name in arms if name != control} ^ set(real.names))
    if wrong:
        message = (
            f"predicted and real perturbations differ in {', '.join(map(repr, wrong[:5]))}: "
            "predict exactly the real ones"
        )
        raise ValueError(message)
    return _side({control: real.control, **arms}, real.names, real.genes, control)


def as_csr(values: Any) -> Matrix:
    """Return float32 CSR with sorted, summed columns and no stored zeros.

    What is so already is not copied.
    """
    matrix = sparse.csr_matrix(values, dtype=np.float32)
    if matrix.has_canonical_format and matrix.data.all():
        return matrix
    if matrix is values or matrix.data is getattr(values, "data", None):
        matrix = matrix.copy()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


class Piece(NamedTuple):
    """Some rows of a CSR matrix, in its memory.

    Attributes:
        first: the first of them.
        last: the one after them.
        cells: each entry's row in the whole matrix.
        genes: each entry's column.
        data: each entry.
    """

    first: int
    last: int
    cells: NDArray[np.int64]
    genes: NDArray[np.integer[Any]]
    data: NDArray[np.floating[Any]]


def pieces(matrix: Matrix) -> Iterator[Piece]:
    """Yield the rows of a CSR matrix, some at a time."""
    n, starts = matrix.shape[0], matrix.indptr
    step = min(max(ENTRIES * n // max(matrix.nnz, 1), 1), ENTRIES)
    for first in range(0, n, step):
        last = min(first + step, n)
        cells = np.repeat(np.arange(first, last), np.diff(starts[first : last + 1]))
        held = slice(starts[first], starts[last])
        yield Piece(first, last, cells, matrix.indices[held], matrix.data[held])


def doubled(matrix: Matrix) -> Matrix:
    """Return a CSR matrix with float64 entries; scipy's own `astype` copies the columns too."""
    parts = matrix.data.astype(np.float64), matrix.indices, matrix.indptr
    return sparse.csr_matrix(parts, shape=matrix.shape)


def gene_sums(matrix: Matrix) -> Floats:
    """Return each column's sum; scipy's own would add float32 up in float32."""
    return np.ones(matrix.shape[0]) @ matrix


def cell_sums(matrix: Matrix) -> Floats:
    """Return each row's sum, added up in float64."""
    return matrix @ np.ones(matrix.shape[1])


def _side(arms: Mapping[str, Any], names: list[str], genes: Sequence[str], label: str) -> Side:
    checked = each(lambda name: _checked(arms[name], name, len(genes)), [label, *names])
    control, *blocks = checked
    bounds = np.concatenate([[0], np.cumsum([block.shape[0] for block in blocks])])
    return Side(
        genes=list(genes),
        names=names,
        label=label,
        control=control,
        perturbed=sparse.vstack(blocks, format="csr"),
        bounds=bounds.astype(np.int64),
    )


def _checked(values: Any, name: str, n_genes: int) -> Matrix:
    matrix = as_csr(values)
    cells, columns = matrix.shape
    if not cells or columns != n_genes:
        message = f"{name!r} is {cells} cells × {columns} genes; needed: 1 or more × {n_genes}"
        raise ValueError(message)
    lowest = matrix.data.min(initial=0.0)
    if lowest < 0 or not np.isfinite(matrix.data).all():
        message = f"{name!r} holds {lowest if lowest < 0 else 'values not finite'}: give counts"
        raise ValueError(message)
    return matrix


def _absent(control: str, arms: Mapping[str, Any]) -> str:
    held = ", ".join(map(repr, sorted(arms)[:8])) or "nothing"
    return f"needed: the control {control!r} and one or more perturbations; there is {held}"
