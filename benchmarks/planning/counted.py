"""A sampler that writes down every tile that it begins and ends, for `benchmarks.planning.killed`.

`LINGSHU_COUNTED_TILES` names the file; a line is `begin` or `end`, the digest of the arm (its
condition, seed and cell range) and the number of the tile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lingshu_model.contracts import ArmRequest
from lingshu_model.sampling.load import load_sampler

VARIABLE = "LINGSHU_COUNTED_TILES"


class CountedSampler:
    """The real sampler, counted."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._sampler = load_sampler(*arguments, **more)
        self._file = Path(os.environ[VARIABLE])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def sample_tile(self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool]) -> Any:
        self._write("begin", arm, tile_index)
        counts = self._sampler.sample_tile(arm, tile_index, should_stop)
        self._write("end", arm, tile_index)
        return counts

    def _write(self, what: str, arm: ArmRequest, tile_index: int) -> None:
        # One short write to a file that is opened to append: lines of threads are not mixed.
        with self._file.open("ab", buffering=0) as file:
            file.write(f"{what} {arm.digest} {tile_index}\n".encode())
