"""An h5ad file looked over before anything reads it: only what an AnnData file needs may be in it.

HDF5 can name other files (external storage, external links, virtual datasets), ask for filters that
run foreign code, and claim sizes it does not have: readers follow all of that. Here the tree is
walked by its metadata alone and refused at the first such thing. A link in the file system to the
file is followed: data managers keep files so, and the file itself is what is audited.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MAX_OBJECTS = 100_000
MAX_DEPTH = 16
MAX_STRING = 1 << 20
"""Bytes of one fixed-length string."""
FREE_CLAIM = 64 << 20
"""Bytes that a dataset may claim whatever it stores."""
MAX_RATIO = 1100
"""Claimed over stored bytes beyond that: deflate reaches 1,032."""
# The registered number of the LZF filter, which h5py carries with it.
_LZF = 32000
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 5: "nbit", 6: "scaleoffset", _LZF: "lzf"}


class UnsafeFileError(ValueError):
    """A file holds something that no AnnData file needs; what and where is said."""


@dataclass(frozen=True)
class Limits:
    """What a file may claim: bytes of one dataset, and of all together."""

    dataset: int = 64 << 30
    whole: int = 256 << 30


def audit_h5ad(path: Path, limits: Limits | None = None, *, place: Path | None = None) -> Path:
    """Return the path of the file itself if it is fit to be read: that of a link's target.

    Args:
        path: of the file, or a link to it.
        limits: what it may claim.
        place: where it is opened in place of `path`, which is then a name for errors alone.

    Raises:
        UnsafeFileError: it is no HDF5 file, or an object in it is not fit; its name is given.
    """
    import h5py

    limits = limits or Limits()
    real = place or _real(path)
    _check_file(real, path)
    try:
        with h5py.File(real, "r") as file:
            # A claim is what a reader would allocate, not what the file holds; values are not read.
            claimed = sum(
                _claim(path, name, dataset, limits) for name, dataset in _walk(path, file)
            )
    except (OSError, RuntimeError, KeyError) as error:
        message = _unreadable(path, error)
        raise UnsafeFileError(message) from error
    if claimed > limits.whole:
        message = f"{path} claims {claimed:,} bytes in all; at most {limits.whole:,} are taken"
        raise UnsafeFileError(message)
    return real


def _real(path: Path) -> Path:
    """Return what a path leads to."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        message = f"{path} is a link that leads to no file: fetch the file that it stands for"
        raise UnsafeFileError(message) from error


def _check_file(real: Path, path: Path) -> None:
    """Refuse what is no HDF5 file that can be read."""
    import h5py

    if real.is_dir():
        message = (
            f"{path} is a folder, and an AnnData file (.h5ad) is needed. {_convert_folder(real)}"
        )
        raise UnsafeFileError(message)
    if not real.is_file():
        message = f"{path} is not a regular file: give the path of the h5ad file itself"
        raise UnsafeFileError(message)
    if not os.access(real, os.R_OK):
        message = f"{path} may not be read by this user: change its mode or copy it"
        raise UnsafeFileError(message)
    if not h5py.is_hdf5(real):
        message = (
            f"{path} is not an HDF5 file; an AnnData file (.h5ad) of raw counts is needed"
            f"{_convert_file(real, path)}"
        )
        raise UnsafeFileError(message)
    if how := _other_hdf5(real):
        message = f"{path} is {how}"
        raise UnsafeFileError(message)


# Endings of single-cell files that are no HDF5, and what reads them in Python.
_READERS = {
    ".csv": "anndata.io.read_csv(file)", ".tsv": "anndata.io.read_csv(file, '\\t')",
    ".txt": "anndata.io.read_text(file)", ".xlsx": "anndata.io.read_excel(file, sheet)",
    ".mtx": "scanpy.read_mtx(file).T", ".zarr": "anndata.read_zarr(file)",
}  # fmt: skip


def _convert_folder(folder: Path) -> str:
    """Say how a folder becomes an AnnData file."""
    names = {child.name.removesuffix(".gz") for child in folder.iterdir()}
    if "matrix.mtx" in names:
        return (
            "It holds a matrix of 10x: scanpy.read_10x_mtx(folder).write_h5ad(file), after adding "
            "the perturbation and the type of each cell to obs"
        )
    return "If it is a zarr store, write it as a file: anndata.read_zarr(folder).write_h5ad(file)"


def _convert_file(real: Path, path: Path) -> str:
    """Say how a file that is no HDF5 becomes an AnnData file; "" where that is not known."""
    with real.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    suffix = "".join(path.suffixes[-2:]).casefold().removesuffix(".gz")
    if packed and suffix.endswith((".h5ad", ".h5", ".h5mu")):
        return f": it is compressed as a whole; unpack it (gunzip {path.name})"
    if suffix.endswith((".rds", ".rdata", ".h5seurat")):
        return (
            ": an object of R is written as one with the package anndataR or zellkonverter "
            "(zellkonverter::writeH5AD)"
        )
    reader = next((r for ending, r in _READERS.items() if suffix.endswith(ending)), None)
    if reader is None:
        return ""
    return f": {reader}.write_h5ad(…) writes one, after adding the perturbation of each cell to obs"


def _other_hdf5(real: Path) -> str:
    """Say what an HDF5 file without the tables of AnnData is, where that is known."""
    import h5py

    try:
        with h5py.File(real, "r") as file:
            names = {*file}
            has_tables = {"obs", "var"} <= names
            mod: Any = file.get("mod")
            modalities = [*map(str, mod)] if isinstance(mod, h5py.Group) else []
    # What is damaged or in use is said by the walk.
    except (OSError, RuntimeError, KeyError, TypeError):
        return ""
    if has_tables:
        return ""
    if modalities:
        rna = next((m for m in modalities if m.casefold() in ("rna", "gex")), modalities[0])
        return (
            f"a file of several assays (MuData: {', '.join(modalities[:5])}): write that of the "
            f"RNA, mudata.read_h5mu(file)[{rna!r}].write_h5ad(…)"
        )
    if {"matrix", "row_attrs", "col_attrs"} <= names:
        return "a loom file: anndata.io.read_loom(file).write_h5ad(…) writes an AnnData file"
    if "matrix" in names:
        return (
            "a matrix of 10x, without labels of cells: scanpy.read_10x_h5(file).write_h5ad(…) "
            "writes an AnnData file, after adding the perturbation of each cell to obs"
        )
    if {"assays", "meta.data"} <= names:
        return "a file of Seurat (h5Seurat): convert it to AnnData in R (SeuratDisk::Convert)"
    return ""


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
        return (
            f"{path} is in use by another program, which has it open for writing: close it there, "
            "or read a copy of it"
        )
    return f"{path} is damaged: {error}"


def _walk(path: Path, file: Any) -> Iterator[tuple[str, Any]]:
    """Yield every dataset with its name, following hard links only, each object once."""
    import h5py

    library: Any = h5py
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", file, 0)]
    while waiting:
        name, group, depth = waiting.pop()
        _attributes(path, name, group)
        for child in group:
            full = f"{name}/{child}"
            link = group.get(child, getlink=True)
            if not isinstance(link, h5py.HardLink):
                _refuse(path, full, f"is a {type(link).__name__}, which may lead out of the file")
            member = group[child]
            address = library.h5o.get_info(member.id).addr
            if address in seen:
                _refuse(path, full, "is an object that the file names twice")
            seen.add(address)
            if len(seen) > MAX_OBJECTS or depth >= MAX_DEPTH:
                _refuse(path, full, f"is beyond {MAX_OBJECTS:,} objects or {MAX_DEPTH} levels")
            if isinstance(member, h5py.Dataset):
                _attributes(path, full, member)
                yield full, member
            elif isinstance(member, h5py.Group):
                waiting.append((full, member, depth + 1))
            else:
                _refuse(path, full, "is neither a group nor a dataset")


def _claim(path: Path, name: str, dataset: Any, limits: Limits) -> int:
    """Return the bytes a dataset claims, after refusing what it must not be."""
    if dataset.external:
        _refuse(path, name, "keeps its values in another file (external storage)")
    if dataset.is_virtual:
        _refuse(path, name, "takes its values from other files (a virtual dataset)")
    _check_type(path, name, dataset.dtype)
    properties = dataset.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        number = int(properties.get_filter(i)[0])
        if number not in _FILTERS:
            known = ", ".join(_FILTERS.values())
            _refuse(path, name, f"needs the HDF5 filter {number}; write it with one of {known}")
    claimed = prod(dataset.shape or (1,)) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if claimed > limits.dataset:
        _refuse(path, name, f"claims {claimed:,} bytes; at most {limits.dataset:,} are taken")
    if claimed > FREE_CLAIM and claimed > MAX_RATIO * max(stored, 1):
        _refuse(path, name, f"claims {claimed:,} bytes and stores {stored:,}")
    return claimed


def _attributes(path: Path, name: str, member: Any) -> None:
    for key in member.attrs:
        attribute = member.attrs.get_id(key)
        if key == "categories" and _names_its_categories(member):
            continue
        _check_type(path, f"{name}@{key}", attribute.dtype)


def _names_its_categories(member: Any) -> bool:
    """Return whether `categories` refers to `__categories/NAME` beside a column.

    anndata 0.7 writes categorical columns so. What the reference leads to is audited by its name.
    """
    import h5py

    library: Any = h5py
    reference = member.attrs["categories"]
    if not isinstance(reference, h5py.Reference) or not reference:
        return False
    leaf = member.name.rpartition("/")[2]
    beside = member.parent.get("__categories")
    if not isinstance(beside, h5py.Group) or leaf not in beside:
        return False
    if not isinstance(beside.get(leaf, getlink=True), h5py.HardLink):
        return False
    places = [library.h5o.get_info(m.id).addr for m in (beside[leaf], member.file[reference])]
    return places[0] == places[1]


def _check_type(path: Path, name: str, dtype: Any) -> None:
    import h5py

    if h5py.check_ref_dtype(dtype) is not None:
        _refuse(path, name, "holds references to other objects")
    if dtype.kind == "S" and dtype.itemsize > MAX_STRING:
        _refuse(path, name, f"holds strings of {dtype.itemsize:,} bytes")
    for field in dtype.names or ():
        _check_type(path, f"{name}.{field}", dtype[field])


def _refuse(path: Path, name: str, why: str) -> None:
    message = f"{path}: {name.lstrip('/') or 'the root'} {why}; such a file is not read"
    raise UnsafeFileError(message)
