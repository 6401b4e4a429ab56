"""Checkpoints in memory: one sampler each, loaded at first use.

Knows nothing of jobs; what a sampler must offer is the `TileSampler` protocol.
"""

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lingshu_model.wire import ArmRequest, Catalogue, Checkpoint, digest_json

DEFAULT = "lingshu_model.sampler:Sampler.load"
Counts = NDArray[np.int32]


class TileSampler(Protocol):
    """One loaded checkpoint; cell i always sits in tile `i // tile` at row `i % tile`.

    Several threads may sample at a time.
    """

    tile: int

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile."""
        ...

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return which genes get a count, bool [genes]."""
        ...

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool]
    ) -> Counts:
        """Return the counts of a whole tile, int32 [tile, genes]; raise `Stopped` if told to."""
        ...


Factory = Callable[..., TileSampler]


@dataclass(frozen=True)
class Loaded:
    """A sampler with its numerics profile."""

    sampler: TileSampler
    profile: dict[str, Any]
    profile_digest: str


class Samplers:
    """The samplers of a catalogue, each loaded once; safe for several threads."""

    def __init__(self, factory: Factory, *, dtype: str, threads: int) -> None:
        """Prepare; nothing is loaded yet."""
        self.catalogue = Catalogue()
        self._factory, self._dtype, self._threads = factory, dtype, threads
        self._loaded: dict[str, Loaded] = {}
        self._loading = threading.Lock()

    def there(self, name: str) -> Loaded | None:
        """Return a checkpoint's sampler if it is in memory."""
        return self._loaded.get(name)

    def load(self, name: str) -> Loaded:
        """Return a checkpoint's sampler, loaded at first use."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = self._load(self.catalogue.load(name))
            return self._loaded[name]

    def _load(self, checkpoint: Checkpoint) -> Loaded:
        sampler = self._factory(checkpoint, dtype=self._dtype, threads=self._threads)
        profile = sampler.profile()
        return Loaded(sampler, profile, digest_json(profile))


def find_factory(name: str) -> Factory:
    """Return the callable that `module:dotted.name` names."""
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))
