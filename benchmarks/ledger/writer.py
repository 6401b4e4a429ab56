"""What a writer does until it is killed: real tool calls, and the ledger's own calls, both told.

Each thing is said on the pipe once the library has said that it is done: an acknowledgement.
"""

import json
import os
import random
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_testing import TARGETS, FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import BusyError, CancelledError, SealedError
from lingshu_tools.experiments.designs import Design, design, new_experiment
from lingshu_tools.ledger import (
    Attempt,
    Experiment,
    NewExperiment,
    NewOutcome,
    OutcomeKind,
    digest_json,
)
from lingshu_tools.tools.replay_experiment import ReplayResult

N_CELLS = 2
WAIT_S = 45


@dataclass(frozen=True)
class Stage:
    """Where writers work: a home, its checkpoints and their fake engine's panel."""

    home: Path
    catalogue: Catalogue
    checkpoint: Checkpoint

    def app(self) -> App:
        """Return an application of its own."""
        engine = FakeEngine(self.checkpoint.panel)
        return App(self.home, engine=engine, catalogue=self.catalogue)


def outcome_digest(kind: str, result: Any, artifacts: Any) -> str:
    """Return what an acknowledged outcome is held to."""
    return digest_json([kind, result, artifacts])


class Writer:
    """Works at random things, and says what was acknowledged."""

    def __init__(self, stage: Stage, pipe: int, *, name: str, seed: int) -> None:
        self._app = stage.app()
        self._ledger = self._app.ledger
        self._pipe = pipe
        self._name = name
        self._rng = random.Random(seed)
        self._keys = 0

    def work(self, acts: Iterable[str] | None = None) -> None:
        """Do these things one after the other, or random ones for ever."""
        for act in acts or iter(lambda: self._rng.choice(ACTS), None):
            try:
                getattr(self, act)()
            except (BusyError, CancelledError, SealedError):
                # Another writer recovered it first.
                continue

    def close(self) -> None:
        """Stop its threads."""
        self._app.close()

    def perturb(self) -> None:
        """Ask as an agent does, through the dispatcher, and come back for the answer."""
        request = {
            "interventions": [{"kind": "knockout", "target": self._rng.choice(TARGETS)}],
            "n_cells": N_CELLS,
            "seed": self._rng.randrange(1 << 16),
        }
        begun = call(self._app, "perturb_cells", request | {"wait_s": 0})
        self._say("begun", begun.experiment_id, head=begun.ledger_head)
        self._follow(begun.experiment_id or "")

    def replay(self) -> None:
        """Replay what is in the ledger; fake cells must come out exactly."""
        finished = self._ledger.find(tool="perturb_cells", status="succeeded", limit=5).items
        created = [item.experiment.id for item in finished if self._has_effects(item.experiment.id)]
        if not created:
            return
        chosen = self._rng.choice(created)
        result = cast(
            "ReplayResult", call(self._app, "replay_experiment", {"id": chosen, "wait_s": WAIT_S})
        )
        self._say("replayed", result.experiment_id, of=chosen, verdict=result.verdict)

    def _has_effects(self, experiment_id: str) -> bool:
        outcome = self._ledger.outcome(experiment_id)
        return outcome is not None and "effects" in outcome.artifacts

    def direct(self) -> None:
        """Begin with a key, twice; attempt; store an artifact; seal."""
        experiment = self._begin()
        self._again(experiment)
        with self._ledger.attempt(experiment.id) as attempt:
            if self._rng.random() < 0.9:
                self._seal(attempt)

    def screen(self) -> None:
        """Record a plan and all of its experiments in one transaction, and what was measured."""
        screen = self._ledger.record_screen({"objective": {"raise": [], "lower": ["CD274"]}})
        self._say("screen", screen.id)
        rows = [new_experiment(self._app, self._design(), parent=screen.id, position=i)
                for i in range(3)]  # fmt: skip
        children = self._ledger.begin_many(rows)
        self._say("children", screen.id, ids=[c.id for c in children])
        measured = self._ledger.record_measurements(screen.id, {"of": screen.id})
        self._say("measured", measured.id)

    def cancel(self) -> None:
        """Ask that something new stop at once."""
        experiment = self._begin()
        self._ledger.cancel(experiment.id)
        self._tell_outcome(experiment.id)

    def recover(self) -> None:
        """Finish what dead writers left, and what waits, as any server may."""
        left = [
            item.experiment.id
            for status in ("interrupted", "queued")
            for item in self._ledger.find(status=status, limit=3).items
        ]
        self._app.runner.launch(left)
        self._app.runner.wait(left, WAIT_S)
        for experiment_id in left:
            self._tell_outcome(experiment_id)

    def recover_all(self) -> None:
        """Finish everything that is left."""
        while self._ledger.find(status="interrupted").items or (
            self._ledger.find(status="queued").items
        ):
            self.recover()

    def _follow(self, experiment_id: str) -> None:
        result = call(self._app, "get_experiment", {"id": experiment_id, "wait_s": WAIT_S})
        self._say("seen", experiment_id, head=result.ledger_head)
        self._tell_outcome(experiment_id)

    def _begin(self) -> Experiment:
        self._keys += 1
        key = f"{self._name}-{self._keys}"
        experiment = self._ledger.begin(self._request(key))
        self._say("begun", experiment.id, key=key, digest=experiment.request_digest)
        return experiment

    def _again(self, experiment: Experiment) -> None:
        key = experiment.client_key
        # A client that heard nothing asks once more with the same key.
        known = self._ledger.begin(self._request(key))
        self._say("begun", known.id, key=key, digest=known.request_digest)

    def _request(self, key: str | None) -> NewExperiment:
        created = self._design(seed=self._keys)
        return replace(new_experiment(self._app, created), client_key=key)

    def _seal(self, attempt: Attempt) -> None:
        kind = cast("OutcomeKind", self._rng.choice(("succeeded", "failed", "cancelled")))
        blob = attempt.experiment_id.encode() * self._rng.randrange(1, 800)
        artifacts: dict[str, bytes | str] = {"cells": blob}
        if self._rng.random() < 0.5:
            artifacts["shared"] = self._ledger.put_object(b"%d" % self._rng.randrange(4))
        outcome = NewOutcome(
            kind=kind,
            result={"of": attempt.experiment_id},
            error="it was to fail" if kind == "failed" else None,
            environment={"by": self._name},
            artifacts=artifacts,
        )
        self._ledger.seal(attempt, outcome)
        self._tell_outcome(attempt.experiment_id)

    def _tell_outcome(self, experiment_id: str) -> None:
        result = self._ledger.outcome(experiment_id)
        if result:
            digest = outcome_digest(result.kind, result.result, result.artifacts)
            self._say("sealed", experiment_id, digest=digest, head=str(self._ledger.head()))

    def _design(self, *, seed: int | None = None) -> Design:
        target = TARGETS[(self._keys if seed is None else seed) % len(TARGETS)]
        return design(
            self._app,
            tool="perturb_cells",
            checkpoint=None,
            context=None,
            interventions=[Intervention(kind="knockout", target=target)],
            n_cells=N_CELLS,
            seed=seed or 0,
        )

    def _say(self, what: str, about: str | None, **more: Any) -> None:
        line = json.dumps({"what": what, "id": about} | more) + "\n"
        os.write(self._pipe, line.encode())


ACTS = (*["direct"] * 5, "perturb", "screen", "cancel", "recover", "replay")


def warm_up(stage: Stage) -> None:
    """Do everything once, so that what is loaded and compiled is there in every fork."""
    silent, pipe = os.pipe()
    try:
        writer = Writer(stage, pipe, name="warm", seed=0)
        writer.work(sorted(set(ACTS)))
        writer.close()
    finally:
        os.close(silent)
        os.close(pipe)


def run(stage: Stage, pipe: int, acts: Iterable[str] | None, *, name: str, seed: int) -> None:
    """Work in a forked process, and end it without running what the parent had to clean up."""
    code = 1
    try:
        Writer(stage, pipe, name=name, seed=seed).work(acts)
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child has nobody to raise to
        messages = {"what": "broken", "id": None, "error": traceback.format_exc(limit=-6)}
        os.write(pipe, (json.dumps(messages) + "\n").encode())
    finally:
        os._exit(code)
