"""Races at work: one thread for each, which begins a round when the one before has ended.

What has been sampled is in the ledger, so any process goes on with a race whose process has ended:
the round follows from the outcomes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread

from lingshu_model.system import forks
from lingshu_tools.calls.waiting import Ending
from lingshu_tools.errors import LingshuError
from lingshu_tools.execution.runner import Runner
from lingshu_tools.execution.screens import begin_round
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Screen
from lingshu_tools.planner import Plan
from lingshu_tools.system.incidents import report_incident

_SLICE_S = 1.0
"""How long a thread waits before it looks whether it is to end."""
_CLOSE_S = 2.0


class RaceThread(Ending):
    """One race at work in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: str | None = None


class Races:
    """The races of this process."""

    def __init__(self, workspace: Workspace, runner: Callable[[], Runner]) -> None:
        self._workspace, self._runner = workspace, runner
        # A forked child has none of the threads, and a lock that may be held for ever.
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """Begin with no race at work."""
        self._lock = Lock()
        self._closing = Event()
        self._threads: dict[str, tuple[RaceThread, Thread]] = {}

    def join(self, plan: Plan, screen: Screen, tags: Sequence[str] = ()) -> RaceThread:
        """Return the thread of a race, begun unless it is at work."""
        # Two calls that ask for a race at once join one thread.
        with self._lock:
            known = self._threads.get(screen.id)
            if known and known[1].is_alive():
                return known[0]
            race = RaceThread()
            thread = Thread(
                target=self._work,
                args=(race, plan, screen, tags),
                name=f"lingshu {screen.id}",
                daemon=True,
            )
            self._threads[screen.id] = race, thread
            thread.start()
            return race

    def trouble(self, screen_id: str) -> str | None:
        """Return why a race cannot go on in this process; None where it can."""
        known = self._threads.get(screen_id)
        return known[0].trouble if known else None

    def close(self) -> None:
        """Stop; any process can go on with what is left."""
        self._closing.set()
        for _, thread in list(self._threads.values()):
            thread.join(timeout=_CLOSE_S)

    def _work(self, race: RaceThread, plan: Plan, screen: Screen, tags: Sequence[str]) -> None:
        try:
            runner = self._runner()
            while not self._closing.is_set():
                # Empty when the race is over, or part of its round was cancelled.
                ids = begin_round(self._workspace, plan, screen, tags)
                if not ids:
                    return
                runner.launch(ids)
                while not runner.wait(ids, _SLICE_S):
                    if self._closing.is_set() or runner.stopped(ids):
                        return
        except LingshuError as error:
            race.trouble = str(error)
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            incident = report_incident(screen.id, error)
            race.trouble = f"it failed inside lingshu (incident {incident})"
        finally:
            # Whatever happened: calls that wait must not wait on.
            race.end()
