"""A screen replayed: each of its finished experiments, taken to its verdict.

A replay counts while the engine's numerics profile is the one that it ran under. So a replay that
was left goes on where it was: replays under way are waited for, verdicts are kept, and only what is
missing is begun. Where no engine runs, its profile is not known, and every verdict counts until it
is; if there is nothing but verdicts, one replay is begun, which starts the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lingshu_tools.calls.results import call_text
from lingshu_tools.calls.waiting import next_wait_s
from lingshu_tools.errors import EngineError, InputError
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.designs import cells_of, design_of, row_like
from lingshu_tools.experiments.disk_space import require_free_space
from lingshu_tools.experiments.replays import (
    REPLAY_OF,
    Comparison,
    compared,
    profile_of,
    record_verdict,
    replayed,
)
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment, Ledger, NewExperiment, Outcome

VERDICTS = ("exact", "same_kind", "equivalent", "different")
"""Best first."""


@dataclass(frozen=True)
class Replayed:
    """A finished experiment of a screen, its replay that counts, and what came of that.

    Attributes:
        replay: None where none counts yet.
        outcome: the replay's; None while it has none.
        verdict: None until the replay has succeeded.
    """

    original: Experiment
    replay: Experiment | None
    outcome: Outcome | None
    verdict: Comparison | None


def begin_replays(workspace: Workspace, ledger: Ledger, screen_id: str) -> list[Experiment]:
    """Return the unfinished replays of a screen's finished experiments, those missing begun.

    A replay that failed or was cancelled is begun again when no other is under way.

    Raises:
        InputError: nothing of the screen has succeeded, or the checkpoint is not here.
    """
    originals = [original for original, _ in _finished(ledger, screen_id)]
    if not originals:
        message = (
            f"{screen_id!r} has no finished experiment to compare a replay with. "
            f"{call_text('run_screen', screen_id=screen_id, wait_s=next_wait_s())} goes on with it."
        )
        raise InputError(message)
    design = design_of(workspace, originals[0])
    known = _Known(workspace, ledger, originals)
    newest = {e.id: known.newest(e) for e in originals}
    under_way = [r for r in newest.values() if r and r.id not in known.outcomes]
    due = [e for e in originals if newest[e.id] is None]
    if under_way:
        # Failures are begun again when nothing is under way: asking how far it is repeats none.
        due = [e for e in due if known.last_failed(e) is None]
    elif known.profile is None and not due:
        # Nothing is due by any known profile: one replay starts the engine, whose profile decides.
        due = originals[:1]
    if due:
        # One by one: rounds of a race have different numbers of cells.
        cells = sum(cells_of(e.tool, e.request) for e in due)
        require_free_space(workspace, design, stored_cells=cells)
        under_way += workspace.ledger.begin_many([known.row(e) for e in due])
    return under_way


def replays_so_far(workspace: Workspace, ledger: Ledger, screen_id: str) -> list[Replayed]:
    """Return the finished experiments of a screen with their replays, by position."""
    originals = _finished(ledger, screen_id)
    known = _Known(workspace, ledger, [original for original, _ in originals])
    replays: list[Replayed] = []
    for original, before in originals:
        # A replay that counts, else the failure that says why there is none.
        replay = known.newest(original) or known.last_failed(original)
        after = known.outcomes.get(replay.id) if replay else None
        verdict = None
        if after is not None and after.kind == "succeeded":
            verdict = compared(ledger, before, workspace.ledger, after)
        replays.append(Replayed(original, replay, after, verdict))
    if not ledger.read_only:
        _write_verdicts(workspace, ledger, replays)
    return replays


def counts_of(replays: Sequence[Replayed]) -> dict[str, int]:
    """Return how many there are of each verdict, the best first."""
    counted = Counter(record.verdict.verdict for record in replays if record.verdict)
    return {verdict: counted[verdict] for verdict in VERDICTS if verdict in counted}


def unfinished_replays(workspace: Workspace, originals: Sequence[str]) -> list[Experiment]:
    """Return the replays of experiments that have no outcome yet."""
    wanted, replays = set(originals), list[Experiment]()
    # Status by status, since the ledger has no query for "without outcome".
    for status in ("queued", "running", "interrupted"):
        before: str | None = None
        while True:
            page = workspace.ledger.find(status=status, before=before, limit=500)
            replays += [i.experiment for i in page.items if replayed(i.experiment) in wanted]
            before = page.next_before
            if before is None:
                break
    return replays


class _Known:
    """The replays of a screen's experiments in this home, and today's profile; None if unknown."""

    def __init__(
        self, workspace: Workspace, ledger: Ledger, originals: Sequence[Experiment]
    ) -> None:
        self._workspace, self._ledger = workspace, ledger
        self._replays: dict[str, list[Experiment]] = {}
        # In the order of their rows, so that the last of a list is the newest.
        for replay in sorted(_replays(workspace, ledger, originals), key=lambda e: e.seq):
            self._replays.setdefault(replayed(replay) or "", []).append(replay)
        ids = [e.id for replays in self._replays.values() for e in replays]
        self.outcomes = workspace.ledger.outcomes(ids)
        self._stopping = workspace.ledger.cancellations([i for i in ids if i not in self.outcomes])
        self.profile = _profile(workspace, originals[0].checkpoint) if originals else None

    def newest(self, original: Experiment) -> Experiment | None:
        """Return the newest replay that counts: under way, or succeeded under today's profile."""
        counting = (e for e in reversed(self._replays.get(original.id, ())) if self._counts(e))
        return next(counting, None)

    def last_failed(self, original: Experiment) -> Experiment | None:
        """Return the newest replay, where it failed or was cancelled."""
        replays = self._replays.get(original.id)
        outcome = self.outcomes.get(replays[-1].id) if replays else None
        return replays[-1] if replays and outcome and outcome.kind != "succeeded" else None

    def row(self, original: Experiment) -> NewExperiment:
        """Return the row of another replay."""
        # Two processes that replay a screen at once begin each replay once.
        number = len(self._replays.get(original.id, ()))
        changes: dict[str, Any] = {
            # A position would make it a candidate of the screen.
            "position": None,
            "client_key": f"replay/{original.id}/{number}",
            "parent": original.id,
        }
        if self._ledger.read_only:
            # The original's row is in another ledger, where no row of this one can have its parent.
            changes |= {"parent": None, "request": {**original.request, REPLAY_OF: original.id}}
        return row_like(self._workspace, original, **changes)

    def _counts(self, replay: Experiment) -> bool:
        outcome = self.outcomes.get(replay.id)
        if outcome is None:
            return replay.id not in self._stopping
        if outcome.kind != "succeeded":
            return False
        profile = profile_of(self._workspace.ledger, outcome.environment_digest)
        # While no engine runs, every profile counts.
        return self.profile in (None, profile)


def _finished(ledger: Ledger, screen_id: str) -> list[tuple[Experiment, Outcome]]:
    candidates = candidates_of(ledger, screen_id)
    outcomes = ledger.outcomes([e.id for e in candidates])
    pairs = [(e, outcomes[e.id]) for e in candidates if e.id in outcomes]
    return [(experiment, outcome) for experiment, outcome in pairs if outcome.kind == "succeeded"]


def _replays(
    workspace: Workspace, ledger: Ledger, originals: Sequence[Experiment]
) -> list[Experiment]:
    if not ledger.read_only:
        beside = workspace.ledger.children_of([e.id for e in originals])
        return [e for e in beside if replayed(e)]
    return [
        item.experiment
        for original in originals
        for item in workspace.ledger.find(text=f'"{REPLAY_OF}":"{original.id}"', limit=500).items
    ]


def _profile(workspace: Workspace, checkpoint: str) -> str | None:
    """Return the numerics profile of the engine that runs; None where it cannot be known now."""
    try:
        info = workspace.engine.info(checkpoint)
    except EngineError:
        return None
    return info and info.profile_digest


def _write_verdicts(workspace: Workspace, ledger: Ledger, replays: Sequence[Replayed]) -> None:
    """Write down verdicts whose process ended between a replay's outcome and its verdict."""
    judged = [record for record in replays if record.replay and record.verdict]
    written = {
        v.replay_id for v in ledger.verifications_of([record.original.id for record in judged])
    }
    for record in judged:
        if record.replay and record.replay.id not in written:
            record_verdict(workspace, record.replay)
