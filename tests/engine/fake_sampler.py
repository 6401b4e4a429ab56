"""A sampler without torch for the engine's tests; a gate folder can hold its tiles back."""

import os
import time
from pathlib import Path

import numpy as np

from lingshu_model.contracts import ArmRequest, Checkpoint, digest_json


class StoppedError(Exception):
    pass


class FakeSampler:
    tile = 8

    def __init__(self, checkpoint: Checkpoint, *, dtype: str, threads: int) -> None:
        self.genes, self.dtype, self.threads = len(checkpoint.panel), dtype, threads
        self.gate = Path(os.environ["FAKE_GATE"])

    def profile(self):
        return {"device": "fake", "dtype": self.dtype, "threads": self.threads}

    def measured(self, arm: ArmRequest):
        return np.arange(self.genes) != 1

    def sample_tile(self, arm: ArmRequest, tile_index: int, should_stop):
        with (self.gate / "tiles.log").open("a") as log:
            log.write(f"{os.getpid()} {arm.digest} {tile_index}\n")
        if arm.seed == 13:
            raise RuntimeError("seed 13 always fails")
        while (self.gate / f"hold-{arm.seed}").exists():
            if should_stop():
                raise StoppedError
            time.sleep(0.005)
        digest = digest_json(arm.model_copy(update={"first_cell": 0, "n_cells": 1}).model_dump())
        key = np.array([int(digest[-16:], 16), tile_index], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        return rng.poisson(2.0, (self.tile, self.genes)).astype(np.int32)
