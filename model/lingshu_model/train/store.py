"""Compressed rows gathered block by block, in memory or in files, and read back by row.

Rows in files are mapped, so that a matrix larger than memory takes what its rows in use take. Knows
nothing of what the numbers mean.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Rows = Any
"""A scipy CSR matrix; scipy ships no types that fit."""
_PARTS = {"data": np.uint16, "indices": np.int32}


def gathered(blocks: Iterable[Rows], columns: int, folder: Path | None) -> Rows:
    """Return the blocks, one below the other, uint16 [rows, columns].

    Args:
        blocks: with sorted columns and no stored zeros.
        columns: how many there are.
        folder: where to keep the rows; None = in memory.
    """
    if folder is None:
        return sparse.csr_matrix(sparse.vstack([*blocks], "csr"), dtype=np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    with (folder / "data").open("wb") as data, (folder / "indices").open("wb") as indices:
        for block in blocks:
            data.write(block.data.astype(_PARTS["data"]).tobytes())
            indices.write(block.indices.astype(_PARTS["indices"]).tobytes())
            lengths.append(np.diff(block.indptr).astype(np.int64))
    indptr = np.cumsum(np.concatenate(lengths))
    if not indptr[-1]:
        return sparse.csr_matrix((len(indptr) - 1, columns), dtype=np.uint16)
    data, indices = (np.memmap(folder / name, kind, "r") for name, kind in _PARTS.items())
    return _unchecked(data, indices, indptr, (len(indptr) - 1, columns))


def _unchecked(
    data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[np.int64], shape: tuple[int, int]
) -> Rows:
    """Return a matrix over the arrays as they are: the constructor would read or copy them."""
    matrix: Rows = sparse.csr_matrix(shape, dtype=np.uint16)
    matrix.data, matrix.indices = data, indices
    matrix.indptr = indptr if indptr[-1] > np.iinfo(np.int32).max else indptr.astype(np.int32)
    matrix.has_sorted_indices = matrix.has_canonical_format = True
    return matrix
