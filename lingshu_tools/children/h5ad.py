"""The elements of an h5ad file, written with h5py alone.

anndata writes text as whatever its own and pandas' versions prefer (`nullable-string-array` since
anndata 0.13 with pandas 3), which older readers refuse. The encodings here are those of anndata
0.8, which every later release reads:
https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

_TEXT = h5py.string_dtype("utf-8")
_COMPRESSION = {"compression": "gzip", "compression_opts": 4}
_CHUNK = 1 << 16

Column = NDArray[Any] | Sequence[str]
"""Numbers or booleans as an array, or texts."""


class Categories:
    """A column of texts that repeat: `codes` point into `names`, -1 where there is no text."""

    def __init__(self, texts: Iterable[str | None]) -> None:
        given = list(texts)
        self.names = sorted({text for text in given if text is not None})
        place = {name: code for code, name in enumerate(self.names)}
        dtype = np.min_scalar_type(-max(len(self.names), 1))
        self.codes = np.array([-1 if t is None else place[t] for t in given], dtype=dtype)


def begin(file: h5py.File) -> None:
    """Mark a new file as AnnData, with the parts that every reader expects, empty."""
    _encode(file, "anndata", "0.1.0")
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        _encode(file.create_group(name), "dict", "0.1.0")


def write_table(
    file: h5py.File, name: str, index: Sequence[str], columns: Mapping[str, Column | Categories]
) -> None:
    """Write `obs` or `var`: one row for each text of the index."""
    table = file.create_group(name)
    _encode(table, "dataframe", "0.2.0")
    table.attrs["_index"] = "_index"
    table.attrs.create("column-order", list(columns), dtype=_TEXT, shape=(len(columns),))
    _write_texts(table, "_index", index)
    for title, column in columns.items():
        if isinstance(column, Categories):
            group = table.create_group(title)
            _encode(group, "categorical", "0.2.0")
            group.attrs["ordered"] = False
            _write_array(group, "codes", column.codes)
            _write_texts(group, "categories", column.names)
        elif isinstance(column, np.ndarray):
            _write_array(table, title, column)
        else:
            _write_texts(table, title, column)


def write_texts_of_uns(file: h5py.File, texts: Mapping[str, str]) -> None:
    """Write `uns`: one text for each key."""
    group = file.create_group("uns")
    _encode(group, "dict", "0.1.0")
    for key, text in texts.items():
        _encode(group.create_dataset(key, data=text, dtype=_TEXT), "string", "0.2.0")


class CountsWriter:
    """Writes `X`, a sparse matrix of int32 counts, block by block of rows."""

    def __init__(self, file: h5py.File, n_vars: int) -> None:
        self._group = file.create_group("X")
        _encode(self._group, "csr_matrix", "0.1.0")
        self._n_obs, self._n_vars = 0, n_vars
        # Row i holds the values from indptr[i] to indptr[i + 1]; 64 bits, as there may be many.
        for name, dtype, size in (("data", "i4", 0), ("indices", "i4", 0), ("indptr", "i8", 1)):
            self._group.create_dataset(
                name, (size,), dtype, maxshape=(None,), chunks=(_CHUNK,), **_COMPRESSION
            )
        self._set_shape()

    def append(
        self, data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[np.integer[Any]]
    ) -> None:
        """Append rows: values [n], their columns [n], and where each row begins [rows + 1]."""
        begin = self._dataset("data").shape[0]
        self._extend("data", data)
        self._extend("indices", indices)
        self._extend("indptr", indptr[1:].astype(np.int64) - int(indptr[0]) + begin)
        self._n_obs += len(indptr) - 1
        self._set_shape()

    def _set_shape(self) -> None:
        self._group.attrs["shape"] = np.array([self._n_obs, self._n_vars], np.int64)

    def _extend(self, name: str, values: NDArray[Any]) -> None:
        dataset = self._dataset(name)
        size = dataset.shape[0]
        dataset.resize((size + len(values),))
        dataset[size:] = values

    def _dataset(self, name: str) -> h5py.Dataset:
        return cast("h5py.Dataset", self._group[name])


def _write_array(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    packed = _COMPRESSION if len(values) else {}
    _encode(group.create_dataset(name, data=values, **packed), "array", "0.2.0")


def _write_texts(group: h5py.Group, name: str, texts: Sequence[str]) -> None:
    packed = _COMPRESSION if texts else {}
    dataset = group.create_dataset(name, data=np.array(texts, object), dtype=_TEXT, **packed)
    _encode(dataset, "string-array", "0.2.0")


def _encode(element: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    element.attrs["encoding-type"] = kind
    element.attrs["encoding-version"] = version
