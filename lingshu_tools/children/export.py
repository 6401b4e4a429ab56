"""The child that writes AnnData: cells of stored arms to one h5ad file.

Counts stay sparse and integer from the stored blob to the file, and go there a block of cells at a
time. Knows nothing of the ledger the blobs came from.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from lingshu_model.wire import Cells, decode_cells, digest_file

COUNTS_AT_ONCE = 1 << 22


def write_h5ad(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was written: digest, observations, variables, bytes.

    Args:
        job: `arms` (each `blob`, a path, and `obs`, values shared by its cells, `first_cell` among
            them), `var` (column name to values), `uns` (texts), and `out`, the file to write.
    """
    arms = [decode_cells(Path(arm["blob"])) for arm in job["arms"]]
    measured = np.logical_and.reduce([arm.measured for arm in arms])
    var = pd.DataFrame(job["var"]).set_index("symbol", drop=False)
    made = anndata.AnnData(
        obs=_obs(arms, [arm["obs"] for arm in job["arms"]]),
        var=var.assign(measured=measured).rename_axis(None),
        uns=dict(job["uns"]),
    )
    out = Path(job["out"])
    temporary = out.with_name(f".{out.name}.part")
    made.write_h5ad(temporary, compression="gzip")
    with h5py.File(temporary, "r+") as file:
        _write_counts(file, arms)
    temporary.replace(out)
    size = out.stat().st_size
    return {"digest": digest_file(out), "n_obs": made.n_obs, "n_vars": made.n_vars, "bytes": size}


def _write_counts(file: h5py.File, arms: Sequence[Cells]) -> None:
    if "X" in file:
        del file["X"]
    for block in (block for arm in arms for block in _blocks(arm)):
        found = (block.values[:], block.indices[:], block.indptr)
        counts = sparse.csr_matrix(found, shape=block.shape)
        if "X" in file:
            written: Any = file["X"]
            stored: Any = sparse_dataset(written)
            stored.append(counts)
        else:
            how = {"compression": "gzip", "indptr_dtype": np.dtype(np.int64)}
            write_elem(file, "X", counts, dataset_kwargs=how)


def _blocks(cells: Cells) -> Iterator[Cells]:
    start = 0
    while start < len(cells):
        end = int(np.searchsorted(cells.indptr, cells.indptr[start] + COUNTS_AT_ONCE, "right")) - 1
        yield cells[start : max(end, start + 1)]
        start = max(end, start + 1)


def _obs(arms: Sequence[Cells], shared: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frames: list[pd.DataFrame] = []
    for arm, told in zip(arms, shared, strict=True):
        values = dict(told)
        first = values.pop("first_cell")
        frame = pd.DataFrame({k: [v] * len(arm) for k, v in values.items()})
        frame.insert(1, "cell_index", np.arange(first, first + len(arm), dtype=np.int64))
        frame.index = [f"{values['experiment_id']}-{values['arm']}-{i}" for i in frame.cell_index]
        frames.append(frame)
    table = pd.concat(frames)
    texts = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    return table.astype(dict.fromkeys(texts, "category"))


def main() -> None:
    """Read a job on stdin, write the file, say on stdout what was written."""
    sys.stdout.write(json.dumps(write_h5ad(json.load(sys.stdin))))


if __name__ == "__main__":
    main()
