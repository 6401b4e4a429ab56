"""Which matrix of a file holds raw counts.

Rows are taken from all over the file, since files are joined from parts. Training itself looks at
every value again.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lingshu_model.network import tokens
from lingshu_model.train.data.compressed import (
    DataError,
    check_kind,
    check_positions,
    scipy_values,
    shape_of,
)
from lingshu_model.train.data.features import features_of
from lingshu_model.train.data.h5ad import check_shape, matrices, matrix, table

# Blocks of rows that are read, and rows of each.
_BLOCKS, _ROWS = 16, 64
# Values looked at, about; and stored values of a matrix by columns read at a time.
_VALUES = 200_000
_CHUNK = 4_000_000
_FIRST = ("X", "layers/counts", "layers/raw_counts", "layers/raw", "layers/count", "layers/umi")
"""Where counts usually are, in the order in which they are preferred."""
_COUNTS = re.compile(r"count|umi|(?<![a-z])raw(?![a-z])", re.IGNORECASE)
_PART = re.compile(
    r"unspliced|ambiguous|intron|antisense|background|soup|mask|binar", re.IGNORECASE
)
"""Layers that hold a part of a cell's counts, or no counts."""
# Median counts of a cell above which they are taken for reads.
_DEEPEST_UMI = 200_000
# Genes of a cell from which counts of 1 alone are not what is drawn of a transcriptome.
_PRESENCE = 50
# Share of whole numbers from which fractions among them are corrections.
_MOSTLY = 0.5


@dataclass(frozen=True)
class Values:
    """What one matrix holds, of the rows looked at.

    Attributes:
        name: of the matrix.
        kind: `raw`, `normalised`, `logged`, `scaled`, `corrected`, `empty` or `broken`.
        words: the same as text.
        depth: median sum of a row; NaN where it was not looked at.
        largest: the largest value; 0 where it was not looked at.
    """

    name: str
    kind: str
    words: str
    depth: float = float("nan")
    largest: float = 0.0

    @property
    def raw(self) -> bool:
        """Whether these are counts."""
        return self.kind == "raw"


def matrix_values(file: h5py.File, path: Path) -> list[Values]:
    """Return what each matrix of a file holds of genes, those most likely to be counts first."""
    values = [_values(file, name, path) for name in sorted(matrices(file), key=_preference)]
    # Of counts alone can another matrix say that ones are all that is left of them.
    largest = max((v.largest for v in values if v.raw), default=0.0)
    return sorted(values, key=lambda v: v.raw and v.largest == 1 and largest > 1)


def _preference(name: str) -> tuple[int, int, str]:
    """Return the place of a matrix by its name: usual ones, then the least partial."""
    if name in _FIRST:
        return 0, _FIRST.index(name), name
    if _PART.search(name):
        return 4, 0, name
    if name == "raw/X":
        return 2, 0, name
    return (1 if _COUNTS.search(name) else 3), 0, name


def _values(file: h5py.File, name: str, path: Path) -> Values:
    try:
        stored, sums = _sample(file, name, path)
    except DataError as error:
        return Values(name, "broken", str(error).removeprefix(f"{path}: "))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        return Values(name, "broken", f"{name} is no matrix that can be read: {error}")
    kind, words = describe(stored, sums)
    depth = float(np.median(sums)) if len(sums) else float("nan")
    return Values(name, kind, words, depth, float(stored.max()) if len(stored) else 0.0)


def _sample(
    file: h5py.File, name: str, path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values other than 0 and sums of rows, both of some rows and of genes alone."""
    stored: Any = file[name]
    features = features_of(table(file, "raw/var" if name == "raw/X" else "var", path))
    # [columns], None where all are genes: the common case is not slowed.
    genes = None if features.column is None else features.genes
    if isinstance(stored, h5py.Group) and _by_column(stored):
        check_shape(file, name, path)
        return _sample_columns(stored, f"{path}: {name}", genes)
    stored_matrix = matrix(file, name, path)
    values: list[NDArray[np.float64]] = []
    sums: list[NDArray[np.float64]] = []
    for block in _row_blocks(stored_matrix, stored_matrix.shape[0]):
        dense = np.asarray(block.toarray() if hasattr(block, "toarray") else block, np.float64)
        dense = dense if genes is None else dense[:, genes]
        sums.append(dense.sum(axis=1))
        kept = dense[dense != 0]
        # Every so many of a block's values, so that each block counts alike.
        values.append(kept[:: max(1, len(kept) * _BLOCKS // _VALUES)])
    none = np.zeros(0)
    return np.concatenate([none, *values]), np.concatenate([none, *sums])


def _row_blocks(stored_matrix: Any, rows: int) -> Iterator[Any]:
    # From the first to the last row: files joined from parts differ along their length.
    starts = np.unique(np.linspace(0, max(0, rows - _ROWS), _BLOCKS).astype(int))
    for first in starts.tolist():
        yield stored_matrix[first : min(first + _ROWS, rows)]


def _by_column(group: h5py.Group) -> bool:
    named = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", ""))
    return str(named).startswith("csc")


def _sample_columns(
    group: Any, place: str, genes: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the same of a matrix stored by columns, whose rows are summed in one pass."""
    rows, _ = shape_of(group)
    data, indices = group["data"], group["indices"]
    check_kind(data.dtype, place)
    sums = np.zeros(rows)
    values: list[NDArray[np.float64]] = []
    pointers = np.asarray(group["indptr"][:], np.int64)
    size = min(len(data), len(indices))
    for first in range(0, size, _CHUNK):
        part = scipy_values(data[first : first + _CHUNK]).astype(np.float64)
        positions = indices[first : first + len(part)]
        # bincount fails below 0 and allocates up to the largest position.
        check_positions(positions, rows, place)
        if genes is not None:
            # The column of each value: the last one that begins at or before it.
            column = np.searchsorted(pointers, np.arange(first, first + len(part)), "right") - 1
            # Values beyond the last column belong to none.
            part = np.where(genes[np.minimum(column, len(genes) - 1)], part, 0.0)
        sums += np.bincount(positions.astype(np.int64), part, rows)
        kept = part[part != 0]
        values.append(kept[:: max(1, len(kept) * (size // _CHUNK + 1) // _VALUES)])
    return np.concatenate([np.zeros(0), *values]), sums


def describe(values: NDArray[np.float64], sums: NDArray[np.float64]) -> tuple[str, str]:
    """Return the kind of a matrix and words for it, from values other than 0 and sums of rows."""
    if not len(values):
        return "empty", "0 everywhere"
    if not np.isfinite(values).all():
        return "broken", "values that are no numbers (NaN or infinite)"
    low, high = values.min(), values.max()
    whole = values == np.rint(values)
    # Counts have another sum in each cell; scaling to a fixed sum takes that away.
    even = len(sums) > 1 and np.ptp(sums) < 1e-3 * max(abs(sums.mean()), 1)
    if low < 0:
        return "scaled", f"negative values (down to {low:.3g}): scaled or centred"
    if whole.all() and not even:
        return "raw", f"whole numbers up to {high:,.0f}, median {np.median(sums):,.0f} a cell"
    if whole.all():
        return "normalised", f"whole numbers, but every cell sums to {sums.mean():,.0f}: scaled"
    if whole.mean() >= _MOSTLY:
        part = 1 - whole.mean()
        return "corrected", f"{part:.0%} fractions among whole numbers: corrected or estimated"
    if even:
        return "normalised", f"fractions, and every cell sums to {sums.mean():,.0f}: normalised"
    return (
        ("logged", f"fractions up to {high:.3g}: logged")
        # e^20 counts of a gene are impossible, so such fractions are logarithms.
        if high < 20
        else (
            "normalised",
            f"fractions up to {high:,.0f}: normalised or estimated",
        )
    )


def remark(values: Values) -> str | None:
    """Return what is unusual about raw counts, if anything is."""
    said: list[str] = []
    # By chance alone all counts of cells of so many are not 1.
    if values.largest == 1 and values.depth > _PRESENCE:
        said.append(
            f"every count of {values.name} is 1, in {values.depth:,.0f} genes of a cell: it says "
            "which genes a cell has, not how much of them, and effects are changes of that"
        )
    if values.depth > _DEEPEST_UMI:
        said.append(
            f"{values.name} has a median of {values.depth:,.0f} counts a cell: these look like "
            "reads and not like molecules (UMI)"
        )
    if values.largest > tokens.CAP:
        said.append(
            f"{values.name} has counts up to {values.largest:,.0f}; those above {tokens.CAP:,} "
            f"enter as {tokens.CAP + 1:,}, so that changes of such genes are underestimated"
        )
    return "; ".join(said) or None


def other_counts(chosen: Values, matrices: Sequence[Values]) -> list[Values]:
    """Return further matrices of raw counts of another depth than the one that is used."""
    return [
        m for m in matrices if m.raw and m is not chosen and abs(m.depth / chosen.depth - 1) > 0.01
    ]
