"""Many replays: which experiments are due, and each of them taken to its verdict.

An experiment is due until there is a verdict on it under the numerics profile of today's engine. So
a run that was ended, in whatever way, goes on where it was: verdicts that are there are counted,
replays that were begun are finished, and only the rest are begun.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from lingshu_tools.errors import EngineError, LingshuError
from lingshu_tools.experiments.designs import recorded_checkpoint
from lingshu_tools.experiments.replays import (
    REPLAY_OF,
    begin_replay,
    profile_of,
    record_verdict,
    replayed,
    verdict_of,
)
from lingshu_tools.ledger import Experiment, Ledger, Verdict, digest_bytes

if TYPE_CHECKING:
    from lingshu_tools.app import App

AT_ONCE = 4
"""Replays under way: enough that the engine has the next tiles while the last are compared."""
# Rows of one query.
_PAGE = 500
# After it the experiment is looked at again: its worker may be gone.
_WAIT_S = 30.0


@dataclass
class Tally:
    """What became of the experiments that were to be replayed.

    Attributes:
        verdicts: experiment to its verdict under today's profile, earlier runs' included.
        now: how many of them this run replayed.
        failed: experiment to why there is no verdict; the next run tries again.
    """

    verdicts: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    now: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each verdict, the most frequent first."""
        return dict(Counter(map(str, self.verdicts.values())).most_common())

    @property
    def ok(self) -> bool:
        """Whether each has a verdict and none differs."""
        return not self.failed and "different" not in self.verdicts.values()


def finished(ledger: Ledger) -> list[str]:
    """Return the experiments that succeeded, newest first, without those that are replays."""
    ids: list[str] = []
    before: str | None = None
    while True:
        page = ledger.find(status="succeeded", before=before, limit=_PAGE)
        ids += [i.experiment.id for i in page.items if replayed(i.experiment) is None]
        before = page.next_before
        if before is None:
            return ids


def sample(ids: Sequence[str], share: float) -> list[str]:
    """Return a share of some experiments, at least one: the same ones whenever it is asked."""
    # By digest, so that the sample depends neither on the order nor on what else there is.
    chosen = sorted(ids, key=lambda name: digest_bytes(name.encode()))
    return chosen[: ceil(share * len(ids))]


def replay_many(
    app: App,
    ledger: Ledger,
    ids: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> Tally:
    """Return the verdicts on experiments of a ledger, replaying those that have none yet.

    Args:
        app: where the replays run and are written down.
        ledger: where the experiments are: the home's, or another that is only read.
        ids: the experiments, all finished.
        progress: called with how many are done and how many there are.

    Raises:
        EngineError: there is no engine, and none can be started.
    """
    if ledger.read_only:
        # Verdicts look an original up here, beside the home's own rows.
        app.reference = ledger
    app.engine.ensure()
    tally = Tally()
    # Oldest first: `settle` waits for the replay that was begun first.
    under_way: deque[tuple[str, Experiment]] = deque()

    def settle() -> None:
        name, replay = under_way.popleft()
        _settle(app, tally, name, replay)
        report_progress()

    def report_progress() -> None:
        if progress:
            progress(len(tally.verdicts) + len(tally.failed), len(ids))

    for name, replay in _launched(app, ledger, ids, tally):
        if replay is None:
            report_progress()
            continue
        under_way.append((name, replay))
        if len(under_way) >= AT_ONCE:
            settle()
    while under_way:
        settle()
    return tally


def _launched(
    app: App, ledger: Ledger, ids: Sequence[str], tally: Tally
) -> Iterator[tuple[str, Experiment | None]]:
    """Yield each experiment and its replay, under way; None where none is needed or possible."""
    for name in ids:
        try:
            original = ledger.experiment(name)
            # Before the engine is asked: it knows a checkpoint by its name only.
            recorded_checkpoint(app, name, original.request)
            verdict = _known(app, ledger, original)
            if verdict is not None:
                tally.verdicts[name] = verdict
                yield name, None
                continue
            replay = _begun(app, ledger, original) or begin_replay(app, ledger, original)
        except EngineError:
            raise
        except LingshuError as error:
            tally.failed[name] = str(error)
            yield name, None
            continue
        app.runner.launch([replay.id])
        yield name, replay


def _settle(app: App, tally: Tally, name: str, replay: Experiment) -> None:
    while not app.runner.wait([replay.id], _WAIT_S):
        if trouble := app.runner.trouble(replay.id):
            tally.failed[name] = trouble
            # Without an engine nothing that follows would fare better.
            app.engine.ensure()
            return
        # Another process may have had it, and ended.
        app.runner.launch([replay.id])
    verdict = verdict_of(app, replay)
    if verdict is None:
        outcome = app.ledger.outcome(replay.id)
        tally.failed[name] = (outcome and outcome.error) or "its replay was cancelled"
        return
    tally.verdicts[name] = verdict.verdict
    tally.now += 1


def _known(app: App, ledger: Ledger, original: Experiment) -> Verdict | None:
    """Return the newest verdict under today's profile, written down late where need be."""
    today = _profile(app, original.checkpoint)
    if today is None:
        return None
    # Of another's ledger only what was computed here counts, and not what it says of itself.
    recorded = [] if ledger.read_only else ledger.verifications(original.id)
    # Verdicts come oldest first.
    for past in reversed(recorded):
        if profile_of(ledger, past.environment_digest) == today:
            return past.verdict
    for replay in _replays(app, ledger, original):
        outcome = app.ledger.outcome(replay.id)
        if outcome and profile_of(app.ledger, outcome.environment_digest) == today:
            # A read-only ledger has its verdicts nowhere, and this home's lacks one if the process
            # was ended between a replay's outcome and its verdict.
            record_verdict(app, replay)
            verdict = verdict_of(app, replay)
            return verdict and verdict.verdict
    return None


def _profile(app: App, checkpoint: str) -> str | None:
    if (info := app.engine.info(checkpoint)) is None:
        # It left because it was idle, or was killed.
        app.engine.ensure()
        info = app.engine.info(checkpoint)
    return info and info.profile_digest


def _begun(app: App, ledger: Ledger, original: Experiment) -> Experiment | None:
    unsealed = (r for r in _replays(app, ledger, original) if app.ledger.outcome(r.id) is None)
    return next(unsealed, None)


def _replays(app: App, ledger: Ledger, original: Experiment) -> list[Experiment]:
    if not ledger.read_only:
        return app.ledger.children(original.id)
    # The original's row is in another ledger, so its replays name it in their request.
    page = app.ledger.find(text=f'"{REPLAY_OF}":"{original.id}"', limit=_PAGE)
    return [item.experiment for item in page.items]
