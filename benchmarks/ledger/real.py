"""The real server and the real engine killed in the middle of screens, as often as asked.

What is done to them is what `tests/interfaces/test_kills.py` does; here it goes on, on one home.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from benchmarks.ledger.kept import Kept
from lingshu_tools.app import App
from lingshu_tools.errors import EngineError
from lingshu_tools.ledger import Head, Ledger, Outcome

DOORS = Path(__file__).parents[2] / "tests" / "doors"
TRIES = 20
T = TypeVar("T")


def crash_real(
    kills: int, *, folder: Path, seed: int = 0, per_home: int = 50, results: Path | None = None
) -> dict[str, Any]:
    """Return the summary of killing server or engine so many times; needs the model extra.

    Homes of which `results` has a line are not made again; each other one adds its line.
    """
    kept, total = Kept(results), Counter[str]()
    faults: list[str] = []
    for first in tqdm(range(0, kills, per_home), unit=" homes", disable=not sys.stderr.isatty()):
        count = min(per_home, kills - first)
        name = f"real, seed {seed}, kills {first} to {first + count}"
        result = kept.get(name)
        if result is None:
            result = _one_home(count, folder / f"home-{first}", random.Random(name))
            kept.add(name, result)
        faults += result["faults"]
        total.update({key: value for key, value in result.items() if key != "faults"})
    lost = sum("lost" in fault for fault in faults)
    return {**total, "acknowledged_lost": lost, "faults": faults[:20]}


def _one_home(kills: int, home: Path, rng: random.Random) -> dict[str, Any]:
    sys.path.insert(0, str(DOORS))
    import stdio
    import test_kills

    began = time.monotonic()
    killed, faults = Counter[str](), list[str]()
    kept: dict[str, Outcome] = {}
    heads: list[Head] = []
    screen, screens = "", 0
    for _ in range(kills):
        with stdio.server(home) as process:
            if not screen:
                screen, screens = test_kills.begin(process, seed=screens), screens + 1
            else:
                stdio.greet(process)
                result = stdio.call(process, "run_screen", screen_id=screen, wait_s=0)
                heads.append(Head.parse(result["ledger_head"]))
            time.sleep(rng.uniform(0, 5))
            victim = rng.choice(("server", "engine"))
            pid = process.pid if victim == "server" else _engine(home)
            if pid is None:
                victim, pid = "server", process.pid
            os.kill(pid, signal.SIGKILL)
            killed[victim] += 1
            if victim == "engine":
                result = stdio.call(process, "run_screen", screen_id=screen, wait_s=2)
                faults += [result["error"]] if "error" in result else []
        ledger = Ledger.open(home)
        faults += [str(problem) for problem in ledger.verify(anchors=heads).problems]
        if (children := len(ledger.children(screen))) != len(test_kills.CANDIDATES):
            faults.append(f"half-written: {screen} has {children} experiments")
        now = test_kills.sealed(home, screen)
        faults += [f"lost: {e}" for e, outcome in kept.items() if ledger.outcome(e) != outcome]
        kept |= now
        if len(now) == len(test_kills.CANDIDATES):
            screen = ""
    _stop(home)
    return {
        "kills": killed.total(),
        **{f"killed_{victim}": n for victim, n in killed.items()},
        "screens": screens,
        "heads": len(heads),
        "outcomes": len(kept),
        "seconds": round(time.monotonic() - began, 1),
        "faults": faults,
    }


def _engine(home: Path) -> int | None:
    with closing(App(home)) as app:
        info = _patiently(app.engine.info)
    return info.pid if info else None


def _stop(home: Path) -> None:
    with closing(App(home)) as app:
        if app.engine.places.folder.exists():  # one that is still starting is waited for
            _patiently(app.engine.ensure)
            _patiently(app.engine.shutdown)


def _patiently(ask: Callable[[], T]) -> T:
    """Ask an engine as often as it takes: a busy machine is no fault of a ledger."""
    for _ in range(TRIES):
        with suppress(EngineError):
            return ask()
    return ask()
