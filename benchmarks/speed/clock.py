"""Work and matrix products timed in turn, on the same threads, so that a busy machine hits both.

Wall time is what a user waits; processor time (CPU only) leaves out what other processes took, so
it tells what the code costs even on a machine that is not quiet.
"""

import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils.flop_counter import FlopCounterMode

BURST_S = 0.4


@dataclass
class Clock:
    """Times a unit of work done by `workers` threads at once, with products in between.

    Attributes:
        dtype: of the products; the work's own.
        workers: threads side by side, each with its own unit.
    """

    device: torch.device
    dtype: torch.dtype
    workers: int = 1
    size: int = 2048
    products: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            self.size = 8192
        shape = (self.workers, self.size, self.size)
        self._a = torch.randn(shape, device=self.device).to(self.dtype)
        self._out = torch.empty_like(self._a)
        self.product()  # warm up; not kept
        self.products.clear()

    def product(self) -> None:
        """Measure the product's rate once: FLOP/s of wall and of processor time, all threads."""
        counts = [0] * self.workers
        end = time.perf_counter() + BURST_S

        def burst(worker: int) -> None:
            while time.perf_counter() < end or not counts[worker]:
                torch.mm(self._a[worker], self._a[worker], out=self._out[worker])
                counts[worker] += 1
                if counts[worker] % 16 == 0:
                    self.wait()

        wall, used = self.timed(burst)
        flops = 2.0 * self.size**3 * sum(counts)
        self.products.append((flops / wall, flops / used * self.workers))

    def timed(self, work: Callable[[int], object]) -> tuple[float, float]:
        """Return wall seconds of all workers together, and processor seconds of all of them."""
        used = [0.0] * self.workers
        # On an accelerator the host's time says nothing of the work.
        clock = time.thread_time if self.device.type == "cpu" else time.perf_counter

        def run(worker: int) -> None:
            begun = clock()
            work(worker)
            self.wait()
            used[worker] = clock() - begun

        threads = [threading.Thread(target=run, args=(i,)) for i in range(self.workers)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun, sum(used)

    def wait(self) -> None:
        """Wait until an accelerator has computed what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Measured:
    """Medians over rounds; `share` is of the product's rate in the same round."""

    rounds: int
    units_per_s: float
    flops_per_s: float
    product_flops_per_s: float
    share: float
    share_of_processor_time: float
    processor_s_per_unit: float
    faults_per_unit: float
    peak_mib: float


def measure(
    clock: Clock, work: Callable[[int, int], object], *, units: int, flops: float, rounds: int
) -> Measured:
    """Return how fast `work(round, worker)` is, each call `units` units of `flops` FLOP."""
    rows: list[tuple[float, float]] = []
    faults = 0
    clock.product()
    for number in range(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        rows.append(clock.timed(lambda worker, n=number: work(n, worker)))
        faults += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        clock.product()
    finished = units * clock.workers
    around = list(zip(clock.products[-rounds - 1 :], clock.products[-rounds:], strict=False))
    beside = [tuple((a + b) / 2 for a, b in zip(*pair, strict=True)) for pair in around]
    rates = [flops * finished / wall for wall, _ in rows]
    of_processor = [flops * finished / used * clock.workers for _, used in rows]
    return Measured(
        rounds=rounds,
        units_per_s=statistics.median(finished / wall for wall, _ in rows),
        flops_per_s=statistics.median(rates),
        product_flops_per_s=statistics.median(wall for wall, _ in beside),
        share=statistics.median(r / b[0] for r, b in zip(rates, beside, strict=True)),
        share_of_processor_time=statistics.median(
            r / b[1] for r, b in zip(of_processor, beside, strict=True)
        ),
        processor_s_per_unit=statistics.median(used / finished for _, used in rows),
        faults_per_unit=faults / finished / rounds,
        peak_mib=peak_mib(clock.device),
    )


def counted(work: Callable[[], object]) -> float:
    """Return the FLOP of the matrix products that `work` runs, counted as they are dispatched."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def peak_mib(device: torch.device) -> float:
    """Return the most memory held so far: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
