"""How cells travel and are stored: one safetensors blob, CSR counts, equal cells equal bytes.

Tensors: `indptr` int64 [n + 1], `indices` int32 [nnz], `counts` int32 [nnz], `measured` uint8
[genes]. A gene whose `measured` is 0 was left [MASK]: it has no count, which is not a count of
zero. A blob may be larger than memory: it is written in pieces and read a block of cells at a time.

The header can hold the cells' origin: the digest of the request they answer, and that of the
numerics profile they were computed under. A reader of a blob can so tell its cells from another
request's, wherever the bytes came from.
"""

import json
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

ENCODING = "lingshu-cells-1"
BLOCK_COUNTS = 4096 * 299
"""Cells x genes that are dense at a time. The last bits of stored sums depend on it: it stays."""
# Values of a dense array at most: 1 GiB of int32.
DENSE_COUNTS = 1 << 28
# Bytes written or read at a time; a file up to this size is read whole.
PIECE = 1 << 20
# Bytes. The length of a header is read from the file, so it is bounded before it is believed.
_MAX_HEADER = 1 << 16
_WIDTHS = {"I64": 8, "I32": 4, "U8": 1}
# In the order in which safetensors lays them: by width, the widest first, then by name.
_TENSORS = {"indptr": "I64", "counts": "I32", "indices": "I32", "measured": "U8"}


@dataclass(frozen=True)
class Origin:
    """What cells are an answer to.

    Attributes:
        request: `ArmRequest.digest` of the arm.
        profile: digest of the numerics profile; None where a blob does not say.
    """

    request: str
    profile: str | None = None


class Cells:
    """Counts of n cells over a panel, in rows of a sparse matrix (CSR).

    Attributes:
        indptr: int64 [cells + 1], where each cell's counts begin.
        indices: int32 [counts], the genes that are not zero, in order within a cell.
        values: int32 [counts], UMI of those genes. It and `indices` may lie in a file; a slice of
            them is read.
        measured: bool [genes].
        origin: what all these cells together answer; None for a part, and where it is unknown.
    """

    indptr: NDArray[np.int64]
    indices: "NDArray[np.int32] | _Stored"
    values: "NDArray[np.int32] | _Stored"
    measured: NDArray[np.bool_]
    origin: Origin | None = None

    def __init__(
        self,
        counts: NDArray[np.integer[Any]],
        measured: NDArray[np.bool_],
        origin: Origin | None = None,
    ) -> None:
        """Take dense counts [cells, genes]; 0 where a gene is unmeasured."""
        self.origin = origin
        rows, columns = np.nonzero(counts)
        self.indptr = np.zeros(len(counts) + 1, np.int64)
        # indptr[i + 1] = counts of cells 0 to i.
        np.cumsum(np.bincount(rows, minlength=len(counts)), out=self.indptr[1:])
        self.indices = columns.astype(np.int32)
        self.values = counts[rows, columns].astype(np.int32)
        self.measured = measured.astype(bool)

    @classmethod
    def from_csr(
        cls,
        indptr: NDArray[np.int64],
        indices: "NDArray[np.int32] | _Stored",
        values: "NDArray[np.int32] | _Stored",
        measured: NDArray[np.bool_],
    ) -> Self:
        """Return cells of these arrays, which are not copied.

        Raises:
            ValueError: they contradict each other.
        """
        steps = np.diff(indptr)
        if indptr[0] != 0 or indptr[-1] != len(indices) or len(indices) != len(values):
            message = f"{indptr[0]} to {indptr[-1]} of {len(indices)} genes, {len(values)} counts"
            raise ValueError(message)
        if (steps < 0).any():
            message = f"the cell {int(steps.argmin())} ends before it begins"
            raise ValueError(message)
        self = cls.__new__(cls)
        self.indptr, self.indices, self.values, self.measured = indptr, indices, values, measured
        return self

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return len(self), len(self.measured)

    @property
    def counts(self) -> NDArray[np.int32]:
        """Dense int32 [cells, genes], made anew each time; many cells go through `row_blocks`.

        Raises:
            ValueError: more than fit in memory, or a gene beyond the panel.
        """
        if len(self) * len(self.measured) > DENSE_COUNTS:
            message = f"{self.shape} counts are too many at once: take a slice of the cells"
            raise ValueError(message)
        # Reads the file once, and checks that genes are on the panel before they are used as
        # columns.
        result = self[:]
        dense = np.zeros(self.shape, np.int32)
        dense[result.row_of_each, result.indices[:]] = result.values[:]
        return dense

    @property
    def row_of_each(self) -> NDArray[np.int64]:
        """The cell of each count, int64 [counts]."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def __getitem__(self, rows: slice) -> "Cells":
        """Return some cells, their arrays in memory.

        Raises:
            ValueError: a gene beyond the panel, or a file that is shorter than it was.
        """
        start, stop, step = rows.indices(len(self))
        if step != 1:
            message = f"{rows} leaves cells out: take them one after the other"
            raise ValueError(message)
        # An empty slice keeps one boundary, so that it has zero cells and not minus one.
        indptr = self.indptr[start : max(start, stop) + 1]
        part = slice(int(indptr[0]), int(indptr[-1]))
        indices, values = self.indices[part], self.values[part]
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self.measured)):
            message = f"genes {indices.min()} to {indices.max()} on a panel of {len(self.measured)}"
            raise ValueError(message)
        # The origin is left out: a part is no answer to the request for the whole.
        return Cells.from_csr(indptr - indptr[0], indices, values, self.measured)


def row_blocks(n_cells: int, n_genes: int, first: int = 0) -> Iterator[slice]:
    """Yield slices over cells `first` to `first + n_cells - 1`, each as large as can be dense."""
    step, end = max(1, BLOCK_COUNTS // max(1, n_genes)), first + n_cells
    for start in range(first, end, step):
        yield slice(start, min(start + step, end))


class Blob:
    """The bytes of cells, in pieces, as often as they are asked for.

    Equal cells of one origin have equal bytes.
    """

    def __init__(self, parts: Iterable[Cells], origin: Origin | None = None) -> None:
        """Join the cells of `parts`, which are gone through several times, in order.

        `origin` is written into the header. The origins of the parts are not looked at.
        """
        self._parts, self._origin = parts, origin

    def __iter__(self) -> Iterator[bytes]:
        n_cells, n_counts, measured = 0, 0, None
        # First pass: the header comes before the tensors and has their lengths.
        for part in self._parts:
            if measured is not None and not np.array_equal(measured, part.measured):
                message = "cells that measure different genes do not go into one blob"
                raise ValueError(message)
            measured = part.measured
            n_cells, n_counts = n_cells + len(part), n_counts + len(part.values)
        if measured is None:
            message = "a blob is made of at least one part"
            raise ValueError(message)
        yield _header(n_cells, n_counts, len(measured), self._origin)
        yield from self._indptr()
        # Tensor by tensor, not part by part, so the parts are gone through once for each.
        yield from chain.from_iterable(_pieces(part.values) for part in self._parts)
        yield from chain.from_iterable(_pieces(part.indices) for part in self._parts)
        yield measured.astype(np.uint8).tobytes()

    def _indptr(self) -> Iterator[bytes]:
        end = np.zeros(1, np.int64)
        yield end.astype("<i8").tobytes()
        for part in self._parts:
            # Each part counts from 0; in the blob its counts follow those of the parts before it.
            following = part.indptr[1:] + end[-1]
            yield following.astype("<i8", copy=False).tobytes()
            end = following if len(following) else end


def encode_cells(cells: Cells) -> bytes:
    """Return the blob of `cells`, with their origin; equal cells of one origin, equal bytes."""
    return b"".join(Blob([cells], cells.origin))


def read_origin(path: Path) -> Origin | None:
    """Return what a blob's header says its cells answer; None where it does not say.

    Raises:
        ValueError: the file is not a blob of cells.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return read_origin_at(file)


def read_origin_at(file: IO[bytes], offset: int = 0) -> Origin | None:
    """Return the origin of the blob that begins at `offset` of an open file, as `read_origin`."""
    try:
        described, _ = _described(_File(file.fileno(), offset))
        return _origin(described["__metadata__"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"not a {ENCODING} blob: {error}"
        raise ValueError(message) from error


def decode_cells(source: bytes | Path | IO[bytes]) -> Cells:
    """Return the cells of a blob; those of a large file stay in it.

    They are read by position, not mapped: a mapped file that is cut short, or whose disk fails,
    ends the process. The file stays open as long as the cells are there; it may be deleted.

    Args:
        source: the bytes, or a file of them; one that is open is read from its start.

    Raises:
        ValueError: the blob is truncated or its arrays contradict each other.
    """
    if isinstance(source, bytes):
        return _decoded(_Bytes(source))
    opened = source.open("rb") if isinstance(source, Path) else nullcontext(source)
    with opened as file:
        stored = _File(file.fileno())
    return _decoded(_Bytes(stored.read(0, stored.size)) if stored.size <= PIECE else stored)


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def column(self, offset: int, length: int) -> NDArray[np.int32]:
        return np.frombuffer(self._data, "<i4", length, offset)


class _File:
    """A file read by position, from `start`; closed when nothing refers to it any more."""

    def __init__(self, descriptor: int, start: int = 0) -> None:
        # A descriptor of its cells alone: the caller may close the file.
        self._descriptor, self._start = os.dup(descriptor), start
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size - start

    def read(self, offset: int, length: int) -> bytes:
        pieces: list[bytes] = []
        offset += self._start
        while length:
            # By position, so that several threads can read one file. It may return less than
            # wanted.
            piece = os.pread(self._descriptor, length, offset)
            if not piece:
                message = f"the file ends at {offset}, {length} bytes early"
                raise ValueError(message)
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def column(self, offset: int, length: int) -> "_Stored":
        return _Stored(self, offset, length)


class _Stored:
    """An int32 tensor that stays in its file: a slice of it is read."""

    def __init__(self, file: _File, offset: int, length: int) -> None:
        self._file, self._offset, self._length = file, offset, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> NDArray[np.int32]:
        start, stop, _ = part.indices(self._length)
        data = self._file.read(self._offset + 4 * start, 4 * (stop - start))
        return np.frombuffer(data, "<i4")


def _decoded(blob: _Bytes | _File) -> Cells:
    try:
        at, origin = _layout(blob)
        indptr = np.frombuffer(blob.read(at["indptr"][0], 8 * at["indptr"][1]), "<i8")
        measured = np.frombuffer(blob.read(*at["measured"]), np.uint8).astype(bool)
        cells = Cells.from_csr(
            indptr, blob.column(*at["indices"]), blob.column(*at["counts"]), measured
        )
        # Checks the genes of cells in memory at once; those in a file are checked slice by slice.
        if isinstance(blob, _Bytes):
            cells = cells[:]
        cells.origin = origin
    # Whatever a damaged header leads to (KeyError, IndexError, OverflowError) means one thing.
    except Exception as error:
        message = f"these {blob.size} bytes are not a {ENCODING} blob: {error}"
        raise ValueError(message) from error
    return cells


def _header(n_cells: int, n_counts: int, n_genes: int, origin: Origin | None) -> bytes:
    """Return what safetensors writes before the tensors, which it orders by width, then name."""
    lengths = {"indptr": n_cells + 1, "counts": n_counts, "indices": n_counts, "measured": n_genes}
    said = {} if origin is None else {"profile": origin.profile, "request": origin.request}
    metadata = {"encoding": ENCODING, **{k: v for k, v in said.items() if v is not None}}
    described: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, dtype in _TENSORS.items():
        begin, end = end, end + lengths[name] * _WIDTHS[dtype]
        described[name] = {"dtype": dtype, "shape": [lengths[name]], "data_offsets": [begin, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    # The tensors begin at a multiple of 8, as safetensors aligns them.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _described(blob: _Bytes | _File) -> tuple[dict[str, Any], int]:
    """Return the header's JSON and its length in bytes."""
    length = int.from_bytes(blob.read(0, 8), "little")
    if length > min(_MAX_HEADER, blob.size - 8):
        message = f"a header of {length} bytes"
        raise ValueError(message)
    described: dict[str, Any] = json.loads(blob.read(8, length))
    result = described.get("__metadata__", {}).get("encoding")
    if result != ENCODING:
        message = f"the encoding is {result!r}"
        raise ValueError(message)
    return described, length


def _origin(metadata: dict[str, Any]) -> Origin | None:
    request, profile = metadata.get("request"), metadata.get("profile")
    return None if request is None else Origin(str(request), profile and str(profile))


def _layout(blob: _Bytes | _File) -> tuple[dict[str, tuple[int, int]], Origin | None]:
    """Return where each tensor begins and how many values it has, and the origin."""
    described, length = _described(blob)
    origin = _origin(described.pop("__metadata__"))
    at: dict[str, tuple[int, int]] = {}
    for name, dtype in _TENSORS.items():
        tensor = described[name]
        (n_values,), (begin, end) = tensor["shape"], tensor["data_offsets"]
        if tensor["dtype"] != dtype or begin < 0 or end - begin != n_values * _WIDTHS[dtype]:
            message = f"the tensor {name} is {tensor}"
            raise ValueError(message)
        at[name] = 8 + length + begin, n_values
    # Bytes behind the last tensor would be no part of the cells, yet of their digest.
    if 8 + length + max(tensor["data_offsets"][1] for tensor in described.values()) != blob.size:
        message = "its tensors end elsewhere"
        raise ValueError(message)
    return at, origin


def _pieces(column: NDArray[np.int32] | _Stored) -> Iterator[bytes]:
    step = PIECE // 4
    for start in range(0, len(column), step):
        yield column[start : start + step].astype("<i4", copy=False).tobytes()
