"""How cells travel and are stored: one safetensors blob, CSR counts, equal cells equal bytes.

Tensors: `indptr` int64 [n + 1], `indices` int32 [nnz], `counts` int32 [nnz], `measured` uint8
[genes]. A gene whose `measured` is 0 was left [MASK]: it has no count, which is not a count of
zero. Knows nothing of where the cells came from.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

ENCODING = "lingshu-cells-1"


@dataclass(frozen=True)
class Cells:
    """Counts of n cells over a panel.

    Attributes:
        counts: int32 [cells, genes], UMI; 0 where a gene is unmeasured.
        measured: bool [genes].
    """

    counts: NDArray[np.int32]
    measured: NDArray[np.bool_]

    def __len__(self) -> int:
        return self.counts.shape[0]


def encode_cells(cells: Cells) -> bytes:
    """Return the blob of `cells`; the same cells always give the same bytes."""
    rows, columns = np.nonzero(cells.counts)
    indptr = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(cells)), out=indptr[1:])
    return save(
        {
            "counts": np.ascontiguousarray(cells.counts[rows, columns], np.int32),
            "indices": columns.astype(np.int32),
            "indptr": indptr,
            "measured": cells.measured.astype(np.uint8),
        },
        metadata={"encoding": ENCODING},
    )


def decode_cells(blob: bytes) -> Cells:
    """Return the cells of a blob.

    Raises:
        ValueError: the blob is truncated or its arrays contradict each other.
    """
    try:
        arrays = load(blob)
        indptr, indices, values = arrays["indptr"], arrays["indices"], arrays["counts"]
        measured = arrays["measured"].astype(bool)
        counts = np.zeros((len(indptr) - 1, len(measured)), np.int32)
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        counts[rows, indices] = values
    except Exception as error:
        message = f"these {len(blob)} bytes are not a {ENCODING} blob: {error}"
        raise ValueError(message) from error
    return Cells(counts, measured)
