"""The other ranks: each waits for one tile at a time from rank 0 and sends its counts back.

Every order and answer goes point to point over a gloo group of its own, in host memory, so GPU
ranks need nothing else. Tensors are never split: a tile is computed whole by one rank, which is why
the number of ranks changes no bit.
"""

import logging
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch.distributed.distributed_c10d import PrefixStore

from lingshu_model.contracts import JobRequest
from lingshu_model.engine.compute import RankLostError
from lingshu_model.engine.errors import StartError
from lingshu_model.engine.samplers import Counts, Samplers
from lingshu_model.engine.work import Task
from lingshu_model.system.launcher import too_few

_log = logging.getLogger(__name__)
# A rank waits for its next tile as long as the engine is idle; gloo would give up after minutes.
_FOREVER = timedelta(days=3650)
STOPS = 1024
"""Stopped works that the store of the ranks keeps; each is a key in memory."""


class _Kind(IntEnum):
    TILE = 0
    END = 1
    COUNTS = 2
    ERROR = 3


@dataclass(frozen=True)
class RankGroup:
    """This rank's place among the others; made on every rank, in the same order."""

    rank: int
    ranks: int
    group: Any
    store: Any
    stops: deque[int] = field(default_factory=deque[int], compare=False)
    """Works that were stopped, the oldest first; of rank 0 alone."""

    def stop(self, serial: int) -> None:
        """Tell every rank that nobody wants work `serial` any more."""
        # Through the store and not a message: the rank is computing and receives nothing.
        self.store.set(f"stop/{serial}", "1")
        self.stops.append(serial)
        # A rank that still computes a work of so long ago ends its tile; nobody waits for it.
        while len(self.stops) > STOPS:
            self.store.delete_key(f"stop/{self.stops.popleft()}")

    def stopped(self, serial: int) -> bool:
        """Return whether work `serial` was stopped."""
        return self.store.check([f"stop/{serial}"])

    def send(self, to: int, kind: _Kind, payload: bytes, *numbers: int) -> None:
        """Send one message of a kind, up to three numbers and some bytes."""
        # int64 [5]: kind, length of the payload, and up to three numbers, 0 where there are fewer.
        head = torch.zeros(5, dtype=torch.int64)
        head[: 2 + len(numbers)] = torch.tensor([kind, len(payload), *numbers])
        with _losing(to):
            dist.send(head, to, group=self.group)
            if payload:
                dist.send(torch.frombuffer(bytearray(payload), dtype=torch.uint8), to, self.group)

    def receive(self, source: int) -> tuple[_Kind, bytes, list[int]]:
        """Return the next message of a rank."""
        head = torch.zeros(5, dtype=torch.int64)
        with _losing(source):
            dist.recv(head, source, group=self.group)
            kind, length, *numbers = head.tolist()
            body = torch.empty(length, dtype=torch.uint8)
            if length:
                dist.recv(body, source, group=self.group)
        return _Kind(kind), body.numpy().tobytes(), numbers


def join(expected: int | None) -> RankGroup:
    """Return this rank's group, after all ranks have joined.

    Raises:
        StartError: there are not as many processes as `expected`.
    """
    # Unlike Accelerator, PartialState does not look at the variable itself.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    state = PartialState(cpu=cpu)
    if expected is not None and state.num_processes != expected:
        raise StartError(too_few(expected, state.num_processes, "lingshu_model.engine"))
    if state.num_processes == 1:
        return RankGroup(0, 1, None, None)
    if state.device and state.device.type == "cuda":
        torch.cuda.set_device(state.device)
    # gloo for host memory: NCCL would need the counts on the GPU.
    group = dist.new_group(backend="gloo", timeout=_FOREVER)
    # There is no public way to the store that the ranks met through.
    store = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
    return RankGroup(
        state.process_index, state.num_processes, group, PrefixStore("lingshu-engine", store)
    )


def sample_there(group: RankGroup, rank: int, samplers: Samplers, task: Task) -> Counts:
    """Return one tile's counts, sampled by `rank`, which must have this rank's numerics profile."""
    work = task.work
    loaded = samplers.of(work.arm)
    # The other rank may have been started without the folder in which the client found it.
    order = JobRequest(arm=work.arm, roots=(str(loaded.checkpoint.path.parent),))
    group.send(rank, _Kind.TILE, order.model_dump_json().encode(), work.serial, task.tile_index)
    kind, body, numbers = group.receive(rank)
    if kind is _Kind.ERROR:
        message = f"rank {rank}: {body.decode()}"
        raise RuntimeError(message)
    # "sha256:" and 64 hex digits, then int32 [tile, columns] in the byte order of the machine.
    digest, counts = body[:71].decode(), np.frombuffer(body[71:], np.int32)
    # Other hardware or another dtype gives other bits: cells would depend on the rank.
    if digest != loaded.profile_digest:
        message = f"rank {rank} has the numerics profile {digest}, rank 0 has another: use one kind"
        raise RankLostError(message)
    return counts.reshape(numbers[0], numbers[1])


def serve_rank(group: RankGroup, samplers: Samplers) -> None:
    """Compute what rank 0 orders until it says end."""
    while True:
        kind, body, numbers = group.receive(0)
        if kind is _Kind.END:
            return
        try:
            digest, counts = _sample(
                group, samplers, JobRequest.model_validate_json(body), *numbers
            )
        # It may be one arm's failure; a rank that ended for it would end the engine.
        except Exception as error:  # noqa: BLE001 - rank 0 decides what it means
            group.send(0, _Kind.ERROR, f"{type(error).__name__}: {error}".encode())
        else:
            group.send(0, _Kind.COUNTS, digest.encode() + counts.tobytes(), *counts.shape)


def dismiss(group: RankGroup) -> None:
    """Tell the other ranks to end; one that is gone already does not matter."""
    for rank in range(1, group.ranks):
        try:
            group.send(rank, _Kind.END, b"")
        except RankLostError:
            _log.info("rank %d had gone already", rank)


def _sample(
    group: RankGroup, samplers: Samplers, order: JobRequest, serial: int, tile_index: int, *_: int
) -> tuple[str, Counts]:
    loaded = samplers.of(order.arm, order.roots)
    counts = loaded.sampler.sample_tile(order.arm, tile_index, lambda: group.stopped(serial))
    return loaded.profile_digest, np.ascontiguousarray(counts, np.int32)


@contextmanager
def _losing(rank: int) -> Generator[None]:
    # gloo reports a closed connection as RuntimeError, without a type of its own.
    try:
        yield
    except RuntimeError as error:
        message = f"rank {rank} is gone ({str(error).splitlines()[0]})"
        raise RankLostError(message) from error
