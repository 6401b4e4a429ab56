"""An h5ad file read a block of rows at a time: labels, gene names, raw counts.

The file is looked over first (`lingshu_model.contracts.h5ad`); only `obs`, `var` and `X` are read.
"""

from collections import Counter
from collections.abc import Generator, Iterator
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
from lingshu_model.train.data.store import Rows

BLOCK = 1024
"""Rows read at a time: what is made of 18,080 genes of them on the way takes 0.4 GB."""


class DataError(ValueError):
    """A training file is not what its spec says; the file and the value are named."""


@dataclass(frozen=True)
class H5ad:
    """An open file.

    Attributes:
        path: where it is.
        genes: gene names, each its own.
        obs: labels of the cells.
        x: the stored matrix.
    """

    path: Path
    genes: list[str]
    obs: pd.DataFrame
    x: Any

    def column(self, name: str) -> NDArray[np.str_]:
        """Return a label of every cell as text."""
        if name not in self.obs:
            known = ", ".join(map(str, self.obs.columns))
            message = f"{self.path} has no obs column {name!r}; it has {known}"
            raise DataError(message)
        labels = self.obs[name]
        if labels.ndim != 1:
            message = (
                f"{self.path} has {labels.shape[1]} obs columns called {name!r}; rename all but one"
            )
            raise DataError(message)
        return labels.astype(str).to_numpy(dtype=str)

    def blocks(self, rows: NDArray[np.int64]) -> Iterator[Rows]:
        """Yield the counts of `rows`, ascending, a block of the file at a time."""
        for first in range(0, len(self.obs), BLOCK):
            last = min(first + BLOCK, len(self.obs))
            wanted = rows[np.searchsorted(rows, first) : np.searchsorted(rows, last)] - first
            if len(wanted):
                yield sparse.csr_matrix(self.x[first:last])[wanted]


@contextmanager
def opened(path: Path) -> Generator[H5ad]:
    """Open an h5ad file that passed its audit.

    Raises:
        DataError: it is missing, unsafe or damaged, or genes have no name of their own.
    """
    try:
        audit_h5ad(existing(path))
    except UnsafeFileError as error:
        raise DataError(str(error)) from error
    with h5py.File(path, "r") as file:
        try:
            parts: list[Any] = [file[name] for name in ("obs", "var", "X")]
            obs: Any = anndata.io.read_elem(parts[0])
            var: Any = anndata.io.read_elem(parts[1])
            x = _matrix(parts[2])
        except (KeyError, ValueError, TypeError, IORegistryError) as error:
            message = f"{path} is no AnnData file with obs, var and X: {error}"
            raise DataError(message) from error
        genes = _names(var, path)
        if x.shape != (len(obs), len(genes)):
            message = f"{path}: X is {x.shape}, obs and var are {len(obs)} and {len(genes)} long"
            raise DataError(message)
        # Names of cells, 100 bytes each, are of no use here.
        yield H5ad(path, genes, obs.reset_index(drop=True), x)


def existing(path: Path) -> Path:
    """Return `path` if it is a file."""
    if not path.is_file():
        message = f"{path} does not exist; give the folder of the data files with --data"
        raise DataError(message)
    return path


def _matrix(stored: Any) -> Any:
    if isinstance(stored, h5py.Dataset):
        return stored
    matrix: Any = anndata.io.sparse_dataset(stored)
    # Rows of a matrix stored by columns cannot be had without all of it.
    return matrix if matrix.format == "csr" else sparse.csr_matrix(matrix.to_memory())


def _names(var: pd.DataFrame, path: Path) -> list[str]:
    names = [str(name).strip() for name in var.index]
    nameless = [i for i, name in enumerate(names) if not name or name.lower() == "nan"]
    if nameless:
        message = f"{path} has no name for the gene in column {nameless[0]}; fill var_names"
        raise DataError(message)
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        message = f"{path} names the gene {twice!r} twice; make var_names unique"
        raise DataError(message)
    return names
