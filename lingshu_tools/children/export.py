"""The child that writes AnnData: cells of stored arms to one h5ad file.

Counts stay sparse and integer from the stored blob to the file. Knows nothing of the ledger the
blobs came from.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy import sparse

from lingshu_model.wire import digest_file


def write_h5ad(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was written: digest, observations, variables, bytes.

    Args:
        job: `arms` (each `blob`, a path, and `obs`, values shared by its cells, `first_cell` among
            them), `var` (column name to values), `uns` (texts), and `out`, the file to write.
    """
    arms = [_Arm(arm) for arm in job["arms"]]
    measured = np.logical_and.reduce([arm.measured for arm in arms])
    var = pd.DataFrame(job["var"]).set_index("symbol", drop=False)
    made = anndata.AnnData(
        X=sparse.vstack([arm.counts for arm in arms], format="csr"),
        obs=_obs(arms),
        var=var.assign(measured=measured).rename_axis(None),
        uns=dict(job["uns"]),
    )
    out = Path(job["out"])
    temporary = out.with_name(f".{out.name}.part")
    made.write_h5ad(temporary, compression="gzip")
    temporary.replace(out)
    size = out.stat().st_size
    return {"digest": digest_file(out), "n_obs": made.n_obs, "n_vars": made.n_vars, "bytes": size}


class _Arm:
    def __init__(self, arm: Mapping[str, Any]) -> None:
        found = load_file(arm["blob"])
        self.measured: NDArray[np.bool_] = found["measured"].astype(bool)
        shape = (len(found["indptr"]) - 1, len(self.measured))
        self.counts = sparse.csr_matrix(
            (found["counts"], found["indices"], found["indptr"]), shape=shape
        )
        self.obs: dict[str, Any] = dict(arm["obs"])


def _obs(arms: Sequence[_Arm]) -> pd.DataFrame:
    frames: list[pd.DataFrame] = []
    for arm in arms:
        cells: int = arm.counts.shape[0]  # pyright: ignore[reportOptionalSubscript]
        first = arm.obs.pop("first_cell")
        frame = pd.DataFrame({k: [v] * cells for k, v in arm.obs.items()})
        frame.insert(1, "cell_index", np.arange(first, first + cells, dtype=np.int64))
        frame.index = [f"{arm.obs['experiment_id']}-{arm.obs['arm']}-{i}" for i in frame.cell_index]
        frames.append(frame)
    table = pd.concat(frames)
    texts = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    return table.astype(dict.fromkeys(texts, "category"))


def main() -> None:
    """Read a job on stdin, write the file, say on stdout what was written."""
    sys.stdout.write(json.dumps(write_h5ad(json.load(sys.stdin))))


if __name__ == "__main__":
    main()
