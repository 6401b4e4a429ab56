"""Checkpoints in memory: one sampler for each digest, loaded at first use.

Requests name the digest, so a checkpoint that is trained again, moved or removed while the engine
runs changes nothing for those that ask for the old one, as long as it is in memory. What a sampler
must offer is the `TileSampler` protocol.
"""

import importlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint, digest_json
from lingshu_model.contracts.user_cells import UserCellsStore
from lingshu_model.engine.user_cells import UserCellsSampler

DEFAULT = "lingshu_model.sampling.load:load_sampler"
KEPT = 8
"""Checkpoints in memory at most."""
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
    """A sampler with its checkpoint and its numerics profile."""

    checkpoint: Checkpoint
    sampler: TileSampler
    profile: dict[str, Any]
    profile_digest: str


class Samplers:
    """Samplers by checkpoint digest, each loaded once; safe for several threads."""

    def __init__(
        self, factory: Factory, *, dtype: str, threads: int, home: Path | None = None
    ) -> None:
        """Prepare; nothing is loaded yet. `home` is where users' cells are stored."""
        self.user_cells = None if home is None else UserCellsStore.of(home)
        self.catalogue = Catalogue()
        self._factory, self._dtype, self._threads = factory, dtype, threads
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        # Kept when a sampler is dropped: job views name the profile of finished arms.
        self._profiles: dict[str, dict[str, Any]] = {}
        self._loading = threading.Lock()

    def find(self, name: str, digest: str, roots: Sequence[str] = ()) -> Checkpoint:
        """Return the checkpoint of a digest, from memory or from the folders.

        Args:
            name: its name, in messages and where to look first.
            digest: of its files.
            roots: further folders to look in.

        Raises:
            CheckpointError: there is none; what is there is said.
        """
        there = self.there(digest)
        return there.checkpoint if there else self._catalogue(roots).find(name, digest)

    def named(self, name: str, roots: Sequence[str] = ()) -> Checkpoint:
        """Return the checkpoint that a client with these folders means by a name.

        Raises:
            CheckpointError: there is none.
        """
        return self._catalogue(roots).load(name)

    def there(self, digest: str) -> Loaded | None:
        """Return a checkpoint's sampler if it is in memory."""
        # Another thread may drop it between a test and the move.
        with suppress(KeyError):
            self._loaded.move_to_end(digest)
        return self._loaded.get(digest)

    def any(self) -> Loaded | None:
        """Return the sampler that was used last; None where none is in memory."""
        return next(reversed(list(self._loaded.values())), None)

    def profile(self, digest: str) -> dict[str, Any] | None:
        """Return the numerics profile of a digest; None where no sampler here had it."""
        return self._profiles.get(digest)

    def load(self, checkpoint: Checkpoint) -> Loaded:
        """Return a checkpoint's sampler, loaded at first use.

        Raises:
            CheckpointError: its files are not what they were.
        """
        # One at a time: two threads would load the same weights twice.
        with self._loading:
            if (there := self.there(checkpoint.digest)) is not None:
                return there
            loaded = self._loaded[checkpoint.digest] = self._load(checkpoint)
            # The least recently used: threads at work keep theirs until they are done.
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return loaded

    def of(self, arm: ArmRequest, roots: Sequence[str] = ()) -> Loaded:
        """Return the sampler of an arm's checkpoint, loaded if need be.

        Raises:
            CheckpointError: it is neither in memory nor in the folders.
        """
        there = self.there(arm.checkpoint_digest)
        return there or self.load(self.find(arm.checkpoint, arm.checkpoint_digest, roots))

    def _catalogue(self, roots: Sequence[str]) -> Catalogue:
        # The client's first: they are in the order in which it looks for a name.
        more = [root for root in map(Path, roots) if root not in self.catalogue.roots]
        return Catalogue([*more, *self.catalogue.roots]) if more else self.catalogue

    def _load(self, checkpoint: Checkpoint) -> Loaded:
        sampler = self._factory(checkpoint, dtype=self._dtype, threads=self._threads)
        if self.user_cells is not None:
            sampler = UserCellsSampler(checkpoint, sampler, self.user_cells)
        profile = sampler.profile()
        digest = digest_json(profile)
        self._profiles[digest] = profile
        return Loaded(checkpoint, sampler, profile, digest)


def find_factory(name: str) -> Factory:
    """Return the callable that `module:dotted.name` names."""
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))
