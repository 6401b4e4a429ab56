"""An h5ad file read a block of rows at a time: labels, gene names, raw counts.

The file is looked over first (`lingshu_model.contracts.h5ad`). Only `obs`, one `var` and one matrix
are read: `X`, `layers/NAME`, or `raw/X` with the genes of `raw/var`.
"""

import re
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata._io.specs.registry import IORegistryError  # pyright: ignore[reportPrivateUsage]
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts.h5ad import UnsafeFileError, audit_h5ad
from lingshu_model.train.data.compressed import (
    DataError,
    check_kind,
    compressed,
    shape_of,
    wide,
)
from lingshu_model.train.data.features import Features, features_of, id_column
from lingshu_model.train.data.labels import Texts, nearest, texts
from lingshu_model.train.data.store import Rows

# Ensembl gene ids of any species with a version, such as ENSG00000141510.18.
_VERSION = re.compile(r"^(ENS[A-Z]*G\d{8,})\.\d+$")
BLOCK = 1024
"""Rows read at a time: what is made of 18,080 genes of them on the way takes 0.4 GB."""


__all__ = [
    "BLOCK",
    "DataError",
    "H5ad",
    "check_shape",
    "existing",
    "matrices",
    "matrix",
    "opened",
    "table",
]


@dataclass(frozen=True)
class H5ad:
    """An open file.

    Attributes:
        path: where it is.
        counts: the name of the matrix within it.
        genes: gene names, each its own.
        var: annotations of the genes.
        obs: labels of the cells.
        x: the stored matrix, with columns of all features.
        features: which of its columns are genes.
        matrices: the names of all matrices in which counts may be.
        notes: what is unusual about the genes, a sentence each.
    """

    path: Path
    counts: str
    genes: list[str]
    var: pd.DataFrame
    obs: pd.DataFrame
    x: Any
    features: Features
    matrices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def texts(self, name: str) -> Texts:
        """Return a label of every cell as trimmed text, and which are missing."""
        if name not in self.obs:
            known = ", ".join(map(str, self.obs.columns)) or "none"
            near = nearest(name, map(str, self.obs.columns))
            message = f"{self.path} has no obs column {name!r}{near}; it has {known}"
            raise DataError(message)
        return texts(pd.Series(self.obs[name]))

    def column(self, name: str) -> NDArray[np.str_]:
        """Return a label of every cell as trimmed text, "" where it is missing."""
        return self.texts(name).values

    def blocks(self, rows: NDArray[np.int64]) -> Iterator[Rows]:
        """Yield the values of `rows`, ascending, a block of the file at a time.

        What a sparse matrix stores twice for one place is added up, as every reader understands it.
        """
        for first in range(0, len(self.obs), BLOCK):
            last = min(first + BLOCK, len(self.obs))
            # `rows` ascends, so those of a block of the file are one slice of it.
            wanted = rows[np.searchsorted(rows, first) : np.searchsorted(rows, last)] - first
            if len(wanted):
                yield self._block(first, last)[wanted]

    def _block(self, first: int, last: int) -> Rows:
        stored = self.x[first:last]
        if sparse.issparse(stored):
            # Sums of narrow integers would wrap around.
            parts = wide(stored.data), stored.indices, stored.indptr
            block = sparse.csr_matrix(parts, stored.shape)
            block.sum_duplicates()
        else:
            block = sparse.csr_matrix(wide(np.asarray(stored)))
        # What is no gene is no part of the depth either.
        return block if self.features.column is None else block[:, self.features.genes]


@contextmanager
def opened(
    path: Path, counts: str = "X", gene_names: str | None = None, *, place: Path | None = None
) -> Generator[H5ad]:
    """Open an h5ad file that passed its audit.

    Args:
        path: of the file, or a link to it.
        counts: the matrix: `X`, `layers/NAME` or `raw/X`.
        gene_names: the var column with the names of genes; None = the index of var.
        place: where it is opened in place of `path`, which is then a name for errors alone.

    Raises:
        DataError: it is missing, unsafe or damaged, or genes have no name of their own.
    """
    try:
        real = audit_h5ad(existing(path) if place is None else path, place=place)
    except UnsafeFileError as error:
        raise DataError(str(error)) from error
    with h5py.File(real, "r") as file:
        obs = table(file, "obs", path)
        # `raw` has its own genes, often more than `var`.
        var = table(file, "raw/var" if counts.startswith("raw/") else "var", path)
        x = matrix(file, counts, path)
        features = features_of(var)
        # An antibody may have the name of a gene.
        kept = features.of(var)
        genes, notes = _names(_named(kept, gene_names, path), path, gene_names, kept)
        if x.shape != (len(obs), len(var)):
            message = (
                f"{path}: {counts} is {x.shape}, obs and var are {len(obs)} and {len(var)} long"
            )
            raise DataError(message)
        said = [f"{path}: {each}" for each in (features.words, notes) if each]
        # Names of cells, 100 bytes each, are of no use here.
        obs, every = obs.reset_index(drop=True), tuple(matrices(file))
        yield H5ad(path, counts, genes, kept, obs, x, features, every, tuple(said))


def existing(path: Path) -> Path:
    """Return `path` if it leads to something."""
    if not path.exists() and not path.is_symlink():
        message = (
            f"{path} does not exist: check the name; the files of a specification are looked for "
            "in the folder that `lingshu train --data` names"
        )
        raise DataError(message)
    return path


def table(file: h5py.File, name: str, path: Path) -> pd.DataFrame:
    """Return `obs` or a `var` of an open file.

    Raises:
        DataError: there is none, or it is no table.
    """
    try:
        stored: Any = file[name]
        with warnings.catch_warnings():
            # Files of anndata 0.7 and before say less of how they are encoded.
            warnings.simplefilter("ignore", anndata.OldFormatWarning)
            frame: Any = anndata.io.read_elem(stored)
    except (KeyError, ValueError, TypeError, AttributeError, IORegistryError) as error:
        message = f"{path} is no AnnData file with obs, var and X: {name}: {error}"
        raise DataError(message) from error
    if isinstance(frame, np.ndarray) and frame.dtype.names:
        try:
            frame = _from_records(file, name, frame)
        # Codes beyond the categories, for example.
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            message = f"{path}: {name} is damaged: {error}"
            raise DataError(message) from error
    if not isinstance(frame, pd.DataFrame):
        message = f"{path}: {name} is no table; write the file with a current anndata"
        raise DataError(message)
    # A column listed twice is one stored column.
    return frame.loc[:, ~frame.columns.duplicated()]


def _from_records(file: h5py.File, name: str, records: NDArray[Any]) -> pd.DataFrame:
    """Return the table that anndata 0.6 stored as records, with categories in `uns`."""
    frame = pd.DataFrame.from_records(records).map(_decoded)
    index = "index" if "index" in frame else frame.columns[0]
    for column in frame.columns:
        known: Any = file.get(f"uns/{column}_categories")
        if known is not None and name == "obs":
            categories = [_decoded(value) for value in known[:]]
            frame[column] = pd.Categorical.from_codes(frame[column], categories)
    return frame.set_index(index)


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def matrices(file: h5py.File) -> list[str]:
    """Return the names of the matrices of an open file in which counts may be."""
    layers: Any = file.get("layers")
    names = ["X", *(f"layers/{name}" for name in layers or ()), "raw/X"]
    return [name for name in names if name in file and not _is_null(file[name])]


def matrix(file: h5py.File, name: str, path: Path) -> Any:
    """Return a stored matrix, of which rows can be taken.

    Raises:
        DataError: there is none of this name; those that there are are named.
    """
    there = matrices(file)
    if name not in there:
        state = f"{name} is empty" if name in file else f"there is no {name}"
        known = ", ".join(there) or "no matrix at all"
        message = f"{path}: {state}; the file has {known}. Say which with `counts`"
        raise DataError(message)
    stored: Any = file[name]
    place = f"{path}: {name}"
    if isinstance(stored, h5py.Dataset):
        check_kind(stored.dtype, place)
        return stored
    try:
        check_shape(file, name, path)
        return compressed(stored, place)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        message = f"{place} is no matrix that can be read: {error}"
        raise DataError(message) from error


def check_shape(file: h5py.File, name: str, path: Path) -> None:
    """Refuse a sparse matrix that claims another size than its tables have.

    Its size is an attribute, which no audit measures: readers would allocate what it says.

    Raises:
        DataError: the numbers of rows or columns differ.
    """
    shape = shape_of(file[name])
    tables = ("obs", "raw/var" if name == "raw/X" else "var")
    sizes = tuple(_length(file[table]) for table in tables)
    if shape != sizes:
        message = f"{path}: {name} is {shape}, obs and var are {sizes[0]} and {sizes[1]} long"
        raise DataError(message)


def _length(stored: Any) -> int:
    """Return the rows of a stored table, by its index alone."""
    if isinstance(stored, h5py.Dataset):
        # Records of anndata 0.6.
        return int(stored.shape[0])
    index: Any = stored.attrs["_index"]
    return int(stored[index.decode() if isinstance(index, bytes) else index].shape[0])


def _is_null(stored: Any) -> bool:
    """Return whether a matrix is stored as nothing: `X = None`."""
    if not isinstance(stored, h5py.Dataset):
        # An empty group, written for a missing matrix.
        return "data" not in stored
    return stored.shape is None or len(stored.shape) != 2


def _named(var: pd.DataFrame, column: str | None, path: Path) -> pd.Series:
    if column is None:
        return var.index.to_series()
    if column not in var:
        known = ", ".join(map(str, var.columns)) or "none"
        near = nearest(column, map(str, var.columns))
        message = f"{path} has no var column {column!r}{near}; it has {known}"
        raise DataError(message)
    return pd.Series(var[column])


def _names(
    column: pd.Series, path: Path, source: str | None, var: pd.DataFrame
) -> tuple[list[str], str]:
    """Return the names of genes, each its own, and what is unusual about them."""
    labels = texts(column)
    names = without_versions(labels.values.tolist())
    place = "var_names" if source is None else f"var[{source!r}]"
    note = ""
    if source is not None:
        names = unique_names(names, [str(name).strip() for name in column.index])
    elif repeated := repeated_names(names):
        names, note = _by_ids(names, repeated, var)
    nameless = [i for i, name in enumerate(names) if not name or name.lower() == "nan"]
    if nameless:
        message = f"{path} has no name for the gene in column {nameless[0]}; fill {place}"
        raise DataError(message)
    if repeated := repeated_names(names):
        message = f"{path} names the gene {repeated[0]!r} twice; make {place} unique"
        raise DataError(message)
    return names, note


def _by_ids(names: list[str], repeated: Sequence[str], var: pd.DataFrame) -> tuple[list[str], str]:
    column = id_column(var)
    if column is None:
        return names, ""
    ids = without_versions(texts(pd.Series(var[column])).values.tolist())
    return unique_names(names, ids), words_of_repeated(repeated, column)


def repeated_names(names: Sequence[str]) -> list[str]:
    """Return the names that several genes have."""
    return [name for name, times in Counter(names).items() if times > 1]


def words_of_repeated(repeated: Sequence[str], column: str) -> str:
    """Say that genes whose name an earlier gene has go by their ids."""
    number = f"{len(repeated):,} names of genes, such as {repeated[0]!r},"
    return f"{number} occur twice or more: all but the first go by their ids in var[{column!r}]"


def without_versions(names: list[str]) -> list[str]:
    """Return Ensembl ids without their versions, unless two would become the same."""
    bare = [_VERSION.sub(r"\1", name) for name in names]
    # Two versions of one gene in a file keep their versions, or two columns would have one name.
    return bare if len(set(bare)) == len(set(names)) else names


def unique_names(names: list[str], ids: list[str]) -> list[str]:
    """Return names with the id instead where a name is missing or was used by an earlier gene."""
    seen: set[str] = set()
    out: list[str] = []
    for name, identity in zip(names, ids, strict=True):
        out.append(identity if not name or name in seen else name)
        seen.add(name)
    return out
