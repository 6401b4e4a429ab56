"""Cells of other models, read from folders, so that they are judged by the same numbers.

A folder holds one folder per seed (`seed-0`, `seed-1` …) with a file per condition over the
checkpoint's panel: `CONDITION.safetensors`, counts as `wire.cells.encode_cells` writes them, or
`CONDITION.log1p.safetensors`, `log1p_cp10k` float32 [cells, genes], of a peer that has no counts.
Knows nothing of how the peers made them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import load

from lingshu_model.evaluate.sparse import csr
from lingshu_model.wire import decode_cells

COUNTS, EXPRESSION = ".safetensors", ".log1p.safetensors"


@dataclass(frozen=True)
class Peers:
    """Cells over the panel by peer, then seed, then condition; floats are log1p_cp10k."""

    arms: Mapping[str, Sequence[Mapping[str, Any]]] = field(
        default_factory=dict[str, Sequence[Mapping[str, Any]]]
    )


def file_key(name: str) -> str:
    """Return what the names of a condition and of its file have in common: their words."""
    return " ".join(re.findall(r"[\w+]+", name.lower()))


def read_peers(folders: Mapping[str, Path], sizes: Mapping[str, int], genes: int) -> Peers:
    """Return the peers' cells of the conditions that are asked for.

    Args:
        folders: by the peer's name.
        sizes: how many cells the model samples of each condition; more are cut off.
        genes: of the panel.

    Raises:
        ValueError: a folder holds no seed, seeds hold different conditions, none of the conditions
            asked for is there, or cells are over another panel.
    """
    return Peers({name: _read(name, folder, sizes, genes) for name, folder in folders.items()})


def _read(name: str, folder: Path, sizes: Mapping[str, int], genes: int) -> list[dict[str, Any]]:
    wanted = {file_key(condition): condition for condition in sizes}
    seeds = [
        {
            wanted[key]: path
            for path in sorted(seed.glob(f"*{COUNTS}"))
            if (key := file_key(path.name.removesuffix(EXPRESSION).removesuffix(COUNTS))) in wanted
        }
        for seed in sorted(path for path in folder.glob("*") if path.is_dir())
    ]
    if not seeds or not seeds[0] or any(each.keys() != seeds[0].keys() for each in seeds):
        found = ", ".join(str(len(each)) for each in seeds)
        message = (
            f"{name}: {folder} has {found or 'no'} known conditions in its seed folders; expected "
            f"the same in every seed, among {', '.join([*sizes][:5])} …"
        )
        raise ValueError(message)
    return [{c: _cells(path, sizes[c], genes) for c, path in each.items()} for each in seeds]


def _cells(path: Path, n: int, genes: int) -> Any:
    blob = path.read_bytes()
    is_counts = not path.name.endswith(EXPRESSION)
    cells = decode_cells(blob).counts if is_counts else load(blob)["log1p_cp10k"]
    if cells.shape[1] != genes:
        message = f"{path} has {cells.shape[1]} genes; the panel has {genes}"
        raise ValueError(message)
    return csr(cells[:n])
