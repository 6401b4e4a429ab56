"""Cold starts: a new home each time, whose first call needs an engine.

The call goes through the command line, as a user's or an agent's first one does. Whatever does not
succeed is kept: the answer, and the engine's logs in a folder of their own.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.ledger.kept import Kept
from benchmarks.reliability.reports import quantiles
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.system.interpreter import PIPE, start

REQUEST = {
    "checkpoint": "thp1-crispr",
    "interventions": [{"kind": "knockout", "target": "STAT1"}],
    "n_cells": 64,
    "wait_s": 45,
}
UNFINISHED = ("queued", "running", "interrupted")
LIMIT_S = 900.0
_GONE_S = 60.0


def cold_starts(
    count: int, *, at_once: int, folder: Path, results: Path | None = None
) -> dict[str, Any]:
    """Return the summary of so many cold starts; those of which `results` has a line are kept."""
    kept = Kept(results)
    names = [f"cold start {number}" for number in range(count)]
    todo = [name for name in names if not kept.get(name)]
    with ThreadPoolExecutor(at_once) as pool:
        starts = tqdm(pool.map(lambda name: cold_start(name, folder), todo), total=len(todo))
        for name, outcome in zip(todo, starts, strict=True):
            kept.add(name, outcome)
    starts = [created for name in names if (created := kept.get(name))]
    failures = [s for s in starts if s["statuses"][-1] != "succeeded"]
    return {
        "starts": len(starts),
        "at_once": at_once,
        "outcomes": dict(Counter(s["statuses"][-1] for s in starts)),
        "first_answers": dict(Counter(s["statuses"][0] for s in starts)),
        "seconds": quantiles([s["seconds"] for s in starts]),
        "failures": failures,
    }


def cold_start(name: str, folder: Path) -> dict[str, Any]:
    """Return what became of one cold start, and keep the engine's logs if it did not succeed."""
    home = folder / name.replace(" ", "-")
    begin = time.monotonic()
    answers = [call(home, "perturb_cells", REQUEST)]
    while answers[-1]["status"] in UNFINISHED and time.monotonic() - begin < LIMIT_S:
        # `interrupted` comes back at once; the same question takes the experiment up again.
        request = {"id": answers[-1]["experiment_id"], "wait_s": 45}
        answers.append(call(home, "get_experiment", request))
    created = {
        "statuses": [answer["status"] for answer in answers],
        "seconds": round(time.monotonic() - begin, 2),
    }
    stop(home)
    if created["statuses"][-1] == "succeeded":
        shutil.rmtree(home)
    else:
        created["summaries"] = [a["summary"].replace(str(folder), "FOLDER") for a in answers]
    return created


def call(home: Path, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the command line prints for a call."""
    line = ["-m", "lingshu_tools.cli", "call", tool, json.dumps(arguments)]
    environ = {**os.environ, "LINGSHU_HOME": str(home)}
    child = start(line, environ=environ, stdout=PIPE, stderr=PIPE)
    printed, said = child.communicate()
    try:
        return json.loads(printed)
    except ValueError:
        text = f"exit {child.returncode}: {said.decode(errors='replace')[-2000:]}"
        return {"status": "no answer", "summary": text, "experiment_id": None}


def stop(home: Path) -> None:
    """Tell the engine of a home to exit, and wait until it has."""
    with closing(Engine(home)) as engine:
        engine.shutdown()
        end = time.monotonic() + _GONE_S
        while engine.info() is not None and time.monotonic() < end:
            time.sleep(0.05)
