"""Measures what a large ledger costs: `python -m benchmarks.ledger.scale --help`.

Makes ledgers of growing size with `generate.py`, one at a time, and measures on each a page of 20
experiments by every filter, one experiment with all that is known of it, and a whole `verify`.
Every question opens the file anew, as the tools do. Of several tries [least, median, processor] are
reported: the least and the median time that passed, and the least processor time. On a busy machine
the median measures the others.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ledger.generate import generate
from lingshu_tools.ledger import Ledger
from lingshu_tools.ledger.liveness import FileLocks
from lingshu_tools.ledger.search import Search

TRIES = 15
FILTERS: dict[str, dict[str, Any]] = {
    "time": {},
    "tool": {"tool": "sample_cells"},
    "checkpoint": {"checkpoint": "pbmc"},
    "context": {"context": "cell_line=THP-1, stimulus=LPS"},
    "perturbation": {"perturbation": "GENE07 knockout"},
    "tag": {"tag": "pilot"},
    "rare tag": {"tag": "to repeat"},
    "succeeded": {"status": "succeeded"},
    "failed": {"status": "failed"},
    "cancelled": {"status": "cancelled"},
    "interrupted": {"status": "interrupted"},
    "queued": {"status": "queued"},
    "failed, perturbation": {"status": "failed", "perturbation": "GENE07 knockout"},
    "tag, failed": {"tag": "pilot", "status": "failed"},
}


def times_ms(work: Callable[[], object], tries: int = TRIES) -> list[float]:
    """Return the least and the median time of some work, and the processor's, in milliseconds."""
    taken: list[float] = []
    worked: list[float] = []
    for _ in range(tries):
        started, before = time.perf_counter(), time.process_time()
        work()
        worked.append((time.process_time() - before) * 1000)
        taken.append((time.perf_counter() - started) * 1000)
    return [round(t, 1) for t in (min(taken), statistics.median(taken), min(worked))]


def pages(ledger: Ledger) -> dict[str, list[float]]:
    """Return milliseconds per page of 20, by filter; `deep` is a page half-way down by time."""
    result = {name: times_ms(lambda f=f: ledger.find(**f)) for name, f in FILTERS.items()}
    screen = ledger.find_screens(limit=2)[-1].id
    with at_work(ledger):
        result["running"] = times_ms(lambda: ledger.find(status="running"))
    result["screen"] = times_ms(lambda: ledger.find(parent=screen))
    result["deep"] = times_ms(lambda: ledger.find(before=str(ledger.head().seq // 2)))
    return result


@contextmanager
def at_work(ledger: Ledger, count: int = 40) -> Generator[None]:
    """Hold the locks of this many unfinished experiments, or of all: somebody is at them."""
    wanted = ledger.find(status="interrupted", limit=count).items
    locks = FileLocks(ledger.database.parent / "locks")
    with ExitStack() as stack:
        for each in wanted:
            if lock := locks.acquire(each.experiment.id):
                stack.callback(lock.release)
        result = ledger.find(status="running", limit=count).items
        if len(result) != len(wanted):
            message = f"{len(result)} of {len(wanted)} experiments at work were found"
            raise SystemExit(message)
        yield


def texts(ledger: Ledger) -> dict[str, list[float]]:
    """Return milliseconds per page of 20 by text: one that is common, one that is nowhere."""
    wanted = {"common": "gene07", "in one row": '"seed":1,', "nowhere": "no such text"}
    return {name: times_ms(lambda t=t: ledger.find(text=t), 5) for name, t in wanted.items()}


def indexed(ledger: Ledger) -> dict[str, float]:
    """Return what the index of texts took to make, and its size."""
    file = ledger.database
    search, started = Search(file, ledger.read, writable=True), time.perf_counter()
    search.update(patience_s=float("inf"))
    size = search.path.stat().st_size / file.stat().st_size
    return {"made_in_s": round(time.perf_counter() - started, 1), "of_the_ledger": round(size, 3)}


def lookup(ledger: Ledger) -> list[float]:
    """Return milliseconds for an experiment, its status, its outcome and the verdicts on it."""
    wanted = ledger.find(status="succeeded", before=str(ledger.head().seq // 2)).items[0]

    def work() -> None:
        identifier = wanted.experiment.id
        ledger.experiment(identifier)
        ledger.status(identifier)
        ledger.outcome(identifier)
        ledger.verifications(identifier)

    return times_ms(work)


def verified(ledger: Ledger) -> dict[str, Any]:
    """Return how long `verify` took and how many rows it checked per second."""
    before, started = _processor_s(), time.perf_counter()
    report = ledger.verify()
    if not report.ok:
        raise SystemExit("\n".join(map(str, report.problems)))
    took, worked = time.perf_counter() - started, _processor_s() - before
    return {
        "rows": report.rows,
        "seconds": round(took, 1),
        "rows_per_s": round(report.rows / took),
        "rows_per_processor_s": round(report.rows / worked),
    }


def _processor_s() -> float:
    return sum(os.times()[:4])


def measure(experiments: int, folder: Path) -> dict[str, Any]:
    """Return all figures for a ledger of this size, which is made and removed."""
    started = time.perf_counter()
    database = generate(experiments, folder / f"{experiments}.db", quiet=True)
    created = round(time.perf_counter() - started, 1)
    figures = {"experiments": experiments, "made_in_s": created} | figures_of(database, experiments)
    for file in folder.glob(f"{database.name}*"):
        file.unlink()
    return figures


def figures_of(database: Path, experiments: int) -> dict[str, Any]:
    """Return all figures for a ledger that is there; the index of texts beside it is made anew."""
    ledger = Ledger.open_read_only(database)
    Search(database, ledger.read, writable=True).path.unlink(missing_ok=True)
    return {
        "bytes_per_experiment": round(database.stat().st_size / experiments),
        "page_ms": pages(ledger),
        "text_unindexed_ms": texts(ledger),
        "text_index": indexed(ledger),
        "text_ms": texts(ledger),
        "experiment_ms": lookup(ledger),
        "verify": verified(ledger),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[10**n for n in (3, 4, 5, 6)])
    parser.add_argument("--folder", type=Path, help="where they are made; 8 kB an experiment")
    parser.add_argument(
        "--ledger", type=Path, help="one that `generate` made, of the one size given"
    )
    request = parser.parse_args()
    if request.ledger:
        (size,) = request.sizes
        print(json.dumps({"experiments": size} | figures_of(request.ledger, size)), flush=True)
        return
    with tempfile.TemporaryDirectory(dir=request.folder) as folder:
        for size in request.sizes:
            print(json.dumps(measure(size, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
