"""Rows of a sparse matrix in an HDF5 group, read a slice at a time.

Written here because scipy knows no half-precision values, and because positions in a file are not
to be trusted: scipy's own code would write outside its arrays at a position beyond the matrix.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.train.data.store import Rows

_FORMATS = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}


class DataError(ValueError):
    """A training file is not what its spec says; the file and the value are named."""


@dataclass(frozen=True)
class Compressed:
    """A matrix stored by rows, of which slices are taken.

    Attributes:
        place: the file and the name of the matrix, for errors.
        data: the stored values.
        indices: the column of each.
        indptr: where each row begins, [rows + 1].
        shape: of the matrix.
    """

    place: str
    data: Any
    indices: Any
    indptr: NDArray[np.int64]
    shape: tuple[int, int]

    def __getitem__(self, rows: slice) -> Rows:
        first, last, _ = rows.indices(self.shape[0])
        begin, end = int(self.indptr[first]), int(self.indptr[last])
        data = scipy_values(self.data[begin:end])
        # Positions in the slice count from its first value.
        parts = data, self.indices[begin:end], self.indptr[first : last + 1] - begin
        check_positions(parts[1], self.shape[1], self.place)
        return sparse.csr_matrix(parts, (last - first, self.shape[1]))


def compressed(group: Any, place: str) -> Rows:
    """Return a matrix whose rows can be sliced: of a group stored by rows, on disk still.

    Rows of a matrix stored by columns cannot be had without all of it.

    Raises:
        DataError: positions lie outside of the matrix, or values are no real numbers.
    """
    attributes = group.attrs
    stored = str(attributes.get("encoding-type", attributes.get("h5sparse_format", "")))
    # A KeyError of another encoding is reported by the caller, with the file's name.
    form = _FORMATS[stored]
    rows, columns = shape_of(group)
    check_kind(group["data"].dtype, place)
    _check_whole(group["indptr"].dtype, place)
    # All of it: 8 bytes a row, and every slice needs two of its entries.
    indptr: NDArray[np.int64] = group["indptr"][:].astype(np.int64)
    length = (rows if form == "csr" else columns) + 1
    size = min(len(group["data"]), len(group["indices"]))
    # Falling pointers would read the same values twice, or backwards.
    if len(indptr) != length or indptr[0] or indptr[-1] > size or (np.diff(indptr) < 0).any():
        message = f"{place} is damaged: its row pointers do not fit its {size:,} values"
        raise DataError(message)
    if form == "csr":
        return Compressed(place, group["data"], group["indices"], indptr, (rows, columns))
    indices = group["indices"][:]
    check_positions(indices, rows, place)
    data = scipy_values(group["data"][:])
    return sparse.csc_matrix((data, indices, indptr), (rows, columns)).tocsr()


def shape_of(group: Any) -> tuple[int, int]:
    """Return the rows and columns that a stored sparse matrix claims.

    Raises:
        KeyError, TypeError, ValueError: it claims none.
    """
    attributes = group.attrs
    rows, columns = map(int, attributes.get("shape", attributes.get("h5sparse_shape")))
    return rows, columns


def check_kind(dtype: Any, place: str) -> None:
    """Refuse values that are no real numbers."""
    if dtype.kind not in "biuf":
        message = f"{place} holds {dtype} values; counts are real numbers"
        raise DataError(message)


def wide(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in a type that sums of counts fit in."""
    if values.dtype.kind == "f":
        return scipy_values(values)
    # Beyond 63 bits no count is meant; doubles keep its size for the message.
    return values.astype(np.float64 if values.dtype == np.uint64 else np.int64)


def scipy_values(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in a type that scipy has matrices of."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def check_positions(indices: NDArray[Any], size: int, place: str) -> None:
    """Refuse positions that are no whole numbers from 0 to `size` - 1.

    Raises:
        DataError: one is not; NumPy and scipy would fail on it, or allocate up to it.
    """
    _check_whole(indices.dtype, place)
    if len(indices) and (indices.min() < 0 or indices.max() >= size):
        message = f"{place} is damaged: a value lies outside of its {size:,} columns or rows"
        raise DataError(message)


def _check_whole(dtype: Any, place: str) -> None:
    if dtype.kind not in "iu":
        message = f"{place} is damaged: its positions are {dtype} values, not whole numbers"
        raise DataError(message)
