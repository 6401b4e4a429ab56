"""Cells of an h5ad file brought onto a checkpoint's panel, without torch.

The file is opened by its name once. What is checked, digested and read is what that descriptor
leads to: another file that is put in its place meanwhile, for however short a time, is not read.
"""

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import Cells, Checkpoint
from lingshu_model.contracts.canonical import HASH_PREFIX
from lingshu_model.contracts.streams import Purpose, raw
from lingshu_model.train.data.compressed import DataError
from lingshu_model.train.data.features import are_ids, features_of, id_column
from lingshu_model.train.data.gene_names import SHIPPED_NAMES, names_file
from lingshu_model.train.data.h5ad import H5ad, opened, repeated_names, table
from lingshu_model.train.data.labels import counted, nearest, texts
from lingshu_model.train.inspect.counts import matrix_values
from lingshu_model.train.inspect.genes import gene_names
from lingshu_model.user_cells.genes import GeneReport, bare, report

MOST_BYTES = 8 << 30
"""Size of a file that is read."""
_SPECIES_COLUMNS = ("organism", "species")
_HUMAN = ("homo sapiens", "human", "ncbitaxon:9606", "h. sapiens")


@dataclass(frozen=True)
class Selection:
    """Which cells of a file, and where its counts and gene names are.

    Attributes:
        where: obs column to the label that chosen cells have.
        n_cells: at most so many; of more, a random part, the same for equal seeds.
        seed: of that choice.
        counts: the matrix of raw counts; None = the first that holds such.
    """

    where: Mapping[str, str] = field(default_factory=dict[str, str])
    n_cells: int = 1000
    seed: int = 0
    counts: str | None = None


@dataclass(frozen=True)
class UserCells:
    """Chosen cells of a file.

    Attributes:
        cells: counts over the panel; genes that the file lacks are unmeasured.
        genes: what became of its genes.
        counts: the matrix that they come from.
        n_matching: cells of the file that the selection fits.
        n_file: cells of the file.
        labels: of the chosen cells, the commonest of some obs columns.
    """

    cells: Cells
    genes: GeneReport
    counts: str
    n_matching: int
    n_file: int
    labels: Mapping[str, str]


def open_inside(path: Path, folders: Sequence[Path]) -> tuple[int, str]:
    """Return a descriptor of a regular file and the digest of its bytes.

    Args:
        path: without links in it: a link put in the place of the file or a folder is refused.
        folders: it must be in one of them.

    Raises:
        DataError: it is not there, not a regular file, too large, or elsewhere.
    """
    # Compared with itself resolved: a link anywhere in the path is refused.
    if path.resolve() != path or not any(path.is_relative_to(folder) for folder in folders):
        message = f"{path} is not in an allowed folder, or was replaced by a link meanwhile"
        raise DataError(message)
    try:
        # O_NONBLOCK: a FIFO must not make the process wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        message = f"{path} cannot be opened ({error.strerror}): check its name and its mode"
        raise DataError(message) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            message = f"{path} is not a regular file: give the path of the h5ad file itself"
            raise DataError(message)
        if status.st_size > MOST_BYTES:
            message = (
                f"{path} has {status.st_size:,} bytes; at most {MOST_BYTES:,} are read. Write the "
                "cells that you want to a smaller file: adata[rows].write_h5ad(…)"
            )
            raise DataError(message)
        # The copy shares the position; `check_unchanged` goes back to the start.
        with os.fdopen(os.dup(descriptor), "rb") as handle:
            digest = HASH_PREFIX + hashlib.file_digest(handle, "sha256").hexdigest()
        # The name may have been pointed elsewhere between resolving and opening.
        if not _same(path, descriptor):
            message = f"{path} was replaced while it was opened: call again"
            raise DataError(message)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, digest


def check_unchanged(path: Path, descriptor: int, digest: str) -> None:
    """Return if a file still has the bytes that it was opened with.

    Raises:
        DataError: it was replaced or written to while it was read.
    """
    with os.fdopen(os.dup(descriptor), "rb") as handle:
        handle.seek(0)
        now = HASH_PREFIX + hashlib.file_digest(handle, "sha256").hexdigest()
    if now != digest or not _same(path, descriptor):
        message = f"{path} was changed while it was read: call again when nothing writes to it"
        raise DataError(message)


def read_cells(
    path: Path, checkpoint: Checkpoint, selection: Selection, descriptor: int | None = None
) -> UserCells:
    """Return the chosen cells of a file.

    Args:
        path: of the file.
        checkpoint: whose panel the cells are brought onto.
        selection: which cells.
        descriptor: of the open file, which is read whatever has its name by now; None = the file
            that has the name is read.

    Raises:
        DataError: the file is unsafe or damaged, has no raw counts, no cell fits, or its genes are
            not those of the panel.
    """
    # HDF5 opens names only. This one leads to the file that is open, not to its name.
    place = None if descriptor is None else Path(f"/dev/fd/{descriptor}")
    if place is not None and not place.exists():
        message = f"{path} cannot be read safely: this system has no /dev/fd; mount /proc"
        raise DataError(message)
    counts, column = _layout(path, selection, place)
    with opened(path, counts, column, place=place) as file:
        rows = _chosen(file, selection)
        _check_species(file, rows)
        # Versions of ids differ between annotations of one genome.
        ids = [bare(name) for name in _ids(file.var) or file.genes]
        genes = report(checkpoint.panel_entries, file.genes, ids, _known_genes())
        matching = len(_fitting(file, selection))
        cells = _cells(file, rows, genes, len(checkpoint.panel))
        labels = _labels(file, rows)
        return UserCells(cells, genes, counts, matching, len(file.obs), labels)


def _layout(path: Path, selection: Selection, link: Path | None) -> tuple[str, str | None]:
    """Return the names of the matrix of counts and of the var column of gene names."""
    from lingshu_model.contracts.h5ad import UnsafeFileError, audit_h5ad

    try:
        real = audit_h5ad(path, place=link)
    except UnsafeFileError as error:
        raise DataError(str(error)) from error
    with h5py.File(real, "r") as file:
        values = matrix_values(file, path)
        wanted = selection.counts
        named = (wanted, f"layers/{wanted}")
        # A matrix that the user names is judged alone, and refused below with what it holds.
        usable = [v for v in values if (v.name in named if wanted else v.raw)]
        if not usable:
            shown = "; ".join(f"{v.name}: {v.words}" for v in values) or "no matrix"
            place = f" in {wanted!r}" if wanted else ""
            message = (
                f"{path} has no raw counts{place} ({shown}): save the file with them in "
                'adata.layers["counts"]'
            )
            raise DataError(message)
        if not usable[0].raw:
            message = (
                f"{path}: {usable[0].name} holds {usable[0].words}; raw counts are needed. Save "
                'the file with them in adata.layers["counts"]'
            )
            raise DataError(message)
        place = "raw/var" if usable[0].name == "raw/X" else "var"
        var = table(file, place, path)
        var = features_of(var).of(var)
        names = gene_names(var, None)
        # Names of two genes each are common in files of 10x; ids are unique.
        twice = names.column is None and repeated_names([str(n).strip() for n in var.index])
        return usable[0].name, (id_column(var) if twice else None) or names.column


def _ids(var: pd.DataFrame) -> list[str] | None:
    """Return the Ensembl ids of a file's genes; None where it has none."""
    index = [str(name) for name in var.index]
    if are_ids(index):
        return index
    column = id_column(var)
    return None if column is None else texts(pd.Series(var[column])).values.tolist()


def _fitting(file: H5ad, selection: Selection) -> NDArray[np.int64]:
    """Return the rows of the cells that fit, ascending."""
    fits = np.ones(len(file.obs), bool)
    for name, label in selection.where.items():
        values = file.column(name)
        mine = values == label.strip()
        if not mine.any():
            known = nearest(label, np.unique(values).tolist())
            message = (
                f"{file.path} has no cells with {name}={label!r}{known}; obs[{name!r}] has "
                f"{counted(values.tolist())}"
            )
            raise DataError(message)
        fits &= mine
    return np.flatnonzero(fits)


def _chosen(file: H5ad, selection: Selection) -> NDArray[np.int64]:
    rows = _fitting(file, selection)
    if not len(rows):
        shown = ", ".join(f"{k}={v!r}" for k, v in selection.where.items())
        message = f"no cell of {file.path} has {shown} together; leave a condition out"
        raise DataError(message)
    if len(rows) <= selection.n_cells:
        return rows
    # Keys by row of the file: a further label in `where` leaves the order of the rest as it is.
    keys = raw(selection.seed, 0, Purpose.SUBSET, len(file.obs))[rows]
    # Back in the order of the file, in which blocks are read.
    return np.sort(rows[np.argsort(keys, kind="stable")[: selection.n_cells]])


def _cells(file: H5ad, rows: NDArray[np.int64], genes: GeneReport, n_panel: int) -> Cells:
    positions = np.fromiter(genes.columns.keys(), np.int64, len(genes.columns))
    columns = np.fromiter(genes.columns.values(), np.int64, len(genes.columns))
    measured = np.zeros(n_panel, bool)
    measured[positions] = True
    # Columns of the file to positions of the panel, as one sparse product.
    to_panel = sparse.csr_matrix(
        (np.ones(len(columns)), (columns, positions)), (len(file.genes), n_panel)
    )
    parts: list[Any] = []
    for block in file.blocks(rows):
        _check_counts(file, block.data)
        # [rows, file genes] @ [file genes, panel]: each panel gene has one column or none.
        parts.append(sparse.csr_matrix(block @ to_panel))
    whole = sparse.csr_matrix(sparse.vstack(parts, "csr"))
    whole.eliminate_zeros()
    whole.sort_indices()
    # A cell without counts has no level: its depth is 0.
    empty = int((np.diff(whole.indptr) == 0).sum())
    if empty:
        message = (
            f"{empty:,} of the {len(rows):,} chosen cells of {file.path} have no count of a gene "
            "of the panel: leave empty cells out of the file"
        )
        raise DataError(message)
    return Cells.from_csr(
        whole.indptr.astype(np.int64),
        whole.indices.astype(np.int32),
        np.rint(whole.data).astype(np.int32),
        measured,
    )


def _check_counts(file: H5ad, values: NDArray[Any]) -> None:
    bad = values[~np.isfinite(values) | (values < 0) | (values != np.rint(values))]
    if len(bad):
        message = (
            f"{file.path}: {file.counts} holds {bad[0]:g}, which is no count (the file has "
            f'{", ".join(file.matrices)}); save it with raw counts in adata.layers["counts"]'
        )
        raise DataError(message)
    # Cells are stored as int32.
    if len(values) and values.max() > np.iinfo(np.int32).max:
        message = f"{file.path}: {file.counts} holds {values.max():g}, which is too large"
        raise DataError(message)


def _check_species(file: H5ad, rows: NDArray[np.int64]) -> None:
    for name in _SPECIES_COLUMNS:
        for column in [c for c in file.obs.columns if str(c).casefold() == name]:
            values = {
                v.casefold() for v in texts(pd.Series(file.obs[column])).values[rows].tolist() if v
            }
            others = sorted(values.difference(_HUMAN))
            if others:
                message = (
                    f"obs[{str(column)!r}] of {file.path} says {others[0]!r}, and the checkpoint's "
                    "genes are human: replace each gene by its human ortholog in a new file "
                    f"without that column, or choose human cells with `where`"
                )
                raise DataError(message)


def _labels(file: H5ad, rows: NDArray[np.int64]) -> dict[str, str]:
    """Return columns with few labels, and the labels of the chosen cells with their numbers."""
    result: dict[str, str] = {}
    for column in [str(c) for c in file.obs.columns][:40]:
        values = file.column(column)
        n = len(np.unique(values))
        if 1 < n <= min(40, len(values) // 2):
            result[column] = counted(values[rows].tolist(), 4)
    return dict(list(result.items())[:8])


def _known_genes() -> list[dict[str, Any]]:
    import json

    path = names_file(SHIPPED_NAMES, Path())
    return json.loads(path.read_text("utf-8"))["genes"] if path and path.exists() else []


def _same(path: Path, descriptor: int) -> bool:
    try:
        named, opened_as = path.lstat(), os.fstat(descriptor)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (opened_as.st_dev, opened_as.st_ino)
