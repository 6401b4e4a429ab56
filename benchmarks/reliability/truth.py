"""What is right: every succeeded experiment computed again, in a clean home by another engine.

Nothing of the home under test is used but the requests in its ledger.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from benchmarks.reliability.checkpoints import VERSIONS, Versions
from lingshu_model.contracts import Catalogue
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.errors import LingshuError
from lingshu_tools.experiments.replays import CELL_ROLES
from lingshu_tools.ledger import Experiment, Head, Ledger, Status

ARGUMENTS = ("checkpoint", "context", "interventions", "n_cells", "seed", "first_cell")
PATIENCE_S = 900.0
STOPPED_S = 60.0
UNFINISHED: tuple[Status, ...] = ("queued", "running", "interrupted")
_AT_ONCE = 50


def open_app(home: Path, versions: Versions, version: str, environ: Mapping[str, str]) -> App:
    """Return an application that knows one version of the checkpoint alone, as its engine does."""
    catalogue = versions.catalogue(version)
    engine = Engine(home, environ={**environ, "LINGSHU_CHECKPOINTS": str(catalogue)})
    return App(home, engine=engine, catalogue=Catalogue([catalogue]))


def differing(
    ledger: Ledger, folder: Path, versions: Versions, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return how many succeeded experiments were computed again, and which came out otherwise."""
    digests = versions.digests()
    counted, different, unknown = 0, list[str](), list[str]()
    succeeded = [*every(ledger, "succeeded")]
    for version in VERSIONS:
        mine = [e for e in succeeded if e.checkpoint_digest == digests[version]]
        with closing(open_app(folder / f"clean-{version}", versions, version, environ)) as clean:
            for begin in range(0, len(mine), _AT_ONCE):
                batch = mine[begin : begin + _AT_ONCE]
                for experiment, cells in zip(batch, computed(clean, batch), strict=True):
                    counted += 1
                    if cells_of(ledger, experiment.id) != cells:
                        different.append(experiment.id)
            stop(clean)
    unknown = [e.id for e in succeeded if e.checkpoint_digest not in digests.values()]
    return {"computed_again": counted, "different": different, "of_no_known_checkpoint": unknown}


def computed(clean: App, experiments: Sequence[Experiment]) -> list[dict[str, str]]:
    """Return the digests of the cells of experiments asked for anew, by role."""
    names: list[str] = []
    for experiment in experiments:
        request = experiment.request
        arguments = {name: request[name] for name in ARGUMENTS if name in request}
        if experiment.tool == "sample_cells":
            arguments.pop("interventions", None)
        created = call(clean, experiment.tool, {**arguments, "wait_s": 0})
        names.append(created.experiment_id or "")
    end = time.monotonic() + PATIENCE_S
    while not clean.runner.wait(names, 45) and time.monotonic() < end:
        # A busy machine makes no difference: what was given up is taken up again.
        clean.runner.launch([n for n in names if clean.ledger.outcome(n) is None])
    return [cells_of(clean.ledger, name) for name in names]


def cells_of(ledger: Ledger, experiment_id: str) -> dict[str, str]:
    """Return the digests of an experiment's cells, by role; empty where it has none."""
    outcome = ledger.outcome(experiment_id)
    artifacts = outcome.artifacts if outcome else {}
    return {role: artifacts[role] for role in CELL_ROLES if role in artifacts}


def every(ledger: Ledger, status: Status) -> Iterator[Experiment]:
    """Yield the experiments of a status, all pages."""
    before: str | None = None
    while True:
        page = ledger.find(status=status, limit=200, before=before)
        yield from (item.experiment for item in page.items)
        before = page.next_before
        if before is None:
            return


def unfinished(home: Path, versions: Versions, environ: Mapping[str, str]) -> list[str]:
    """Take up what the faults left unfinished; return what does not come to an end."""
    left: list[str] = []
    for version, digest in versions.digests().items():
        with closing(open_app(home, versions, version, environ)) as app:
            stop(app)
            open_ids = [
                experiment.id
                for status in UNFINISHED
                for experiment in every(app.ledger, status)
                if experiment.checkpoint_digest == digest
            ]
            end = time.monotonic() + PATIENCE_S
            while open_ids and time.monotonic() < end:
                with suppress(LingshuError):
                    app.runner.launch(open_ids)
                    app.runner.wait(open_ids, 45)
                open_ids = [i for i in open_ids if app.ledger.outcome(i) is None]
            left += open_ids
            stop(app)
    return left


def stop(app: App) -> None:
    """Tell the engine of a home to exit, and wait until it has."""
    end = time.monotonic() + STOPPED_S
    with suppress(LingshuError):
        app.engine.shutdown()
        while app.engine.info() is not None and time.monotonic() < end:
            time.sleep(0.1)


def lost(ledger: Ledger, calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was acknowledged and is not in the ledger, or not as it was acknowledged."""
    result: list[str] = []
    for item in calls:
        name, status = item["id"], item["status"]
        if item["outcome"] != "ok" or not name or not name.startswith("exp_"):
            continue
        try:
            ledger.experiment(name)
        except LingshuError as error:
            result.append(f"{name}: {error}")
            continue
        outcome = ledger.outcome(name)
        of_a_file = item["tool"] in ("plot_experiment", "export_experiment")
        if status in ("succeeded", "failed", "cancelled") and not of_a_file:
            kind = outcome.kind if outcome else "nothing"
            if kind != status and item["tool"] != "cancel_experiment":
                result.append(f"{name}: acknowledged as {status}, and the ledger has {kind}")
    return result


def heads_of(calls: Sequence[Mapping[str, Any]]) -> list[Head]:
    """Return the distinct ledger heads that calls were answered with, the newest thousand."""
    texts = {item["head"] for item in calls if item["head"]}
    return sorted((Head.parse(text) for text in texts), key=lambda head: head.seq)[-1000:]
