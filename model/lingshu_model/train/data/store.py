"""Compressed rows gathered block by block, in memory or in files, and read back by row.

Files are memory-mapped, so a matrix larger than memory takes only the memory of its rows in use.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Rows = Any
"""A scipy CSR matrix, which scipy ships no types for, or `Stored`, of which rows are taken."""
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
    # An empty file cannot be mapped.
    if not indptr[-1]:
        return sparse.csr_matrix((len(indptr) - 1, columns), dtype=np.uint16)
    parts: list[Any] = [np.memmap(folder / name, kind, "r") for name, kind in _PARTS.items()]
    # Half the memory where positions fit.
    if indptr[-1] <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    return Stored(parts[0], parts[1], indptr, columns)


@dataclass(frozen=True)
class Stored:
    """Compressed rows in files; indexing copies the chosen rows into memory.

    Beyond 2^31 counts scipy's own class would copy all column numbers at every indexing.
    """

    data: NDArray[np.uint16]
    indices: NDArray[np.int32]
    indptr: NDArray[np.integer[Any]]
    columns: int

    def __getitem__(self, rows: NDArray[np.int64]) -> Rows:
        begin, end = self.indptr[rows].astype(np.int64), self.indptr[rows + 1]
        # One slice per row: the pages that are touched are those of these rows alone.
        places = [slice(*place) for place in zip(begin.tolist(), end.tolist(), strict=True)]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(end - begin)])
        parts = _joined(self.data, places), _joined(self.indices, places), ends
        return sparse.csr_matrix(parts, (len(rows), self.columns))


def _joined(column: NDArray[Any], places: Sequence[slice]) -> NDArray[Any]:
    plain = np.asarray(column)
    return np.concatenate([plain[:0], *(plain[place] for place in places)])
