"""The cells that peers hand over, from the arrays their scripts leave.

Counts become the blobs in which all cells travel (`lingshu_model.contracts.cells`). A peer without
counts hands over log1p_cp10k, in a blob of its own kind: `log1p_cp10k` float32 [cells, genes] and
`measured` uint8 [genes]. `lingshu evaluate --peer` reads both.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from scipy import sparse

from lingshu_model.contracts import Cells, encode_cells

CONTINUOUS = "lingshu-log1p-cp10k-1"
COUNTS_SUFFIX = ".safetensors"
CONTINUOUS_SUFFIX = ".log1p.safetensors"


def convert(path: Path, measured: NDArray[np.bool_]) -> Path:
    """Replace the arrays of one condition by its blob, unmeasured genes emptied; return where."""
    with np.load(path, allow_pickle=False) as arrays:
        if "log1p_cp10k" in arrays:
            values = np.where(measured, arrays["log1p_cp10k"], np.float32(0))
            blob = save(
                {"log1p_cp10k": values, "measured": measured.astype(np.uint8)},
                metadata={"encoding": CONTINUOUS},
            )
            suffix = CONTINUOUS_SUFFIX
        else:
            parts = (arrays["data"], arrays["indices"], arrays["indptr"])
            counts = sparse.csr_matrix(parts, shape=tuple(arrays["shape"])).toarray()
            blob = encode_cells(Cells(np.where(measured, counts, 0).astype(np.int32), measured))
            suffix = COUNTS_SUFFIX
    out = path.with_name(path.name.removesuffix(".npz") + suffix)
    out.write_bytes(blob)
    path.unlink()
    return out
