"""The application that an entry point opens once: a home, and the threads that work in it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

from lingshu_model.system.lazy import Lazy
from lingshu_tools.children import Children
from lingshu_tools.errors import BudgetError
from lingshu_tools.execution.races import Races
from lingshu_tools.execution.runner import Runner
from lingshu_tools.experiments.designs import cells_of
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment, Ledger, NewExperiment
from lingshu_tools.system.deadline import remaining

ASK_ABOVE_S = 600.0
_LOCK_S = 10.0
_LAUNCH_S = 5.0
"""The longest time between the begin of an experiment and its being at work, in one call."""


@dataclass(frozen=True)
class Budget:
    """What a principal may use at a time; None means no limit.

    Attributes:
        max_calls: calls in flight.
        max_cells: cells queued or at work, over all arms.
    """

    max_calls: int | None = None
    max_cells: int | None = None


class App(Workspace):
    """What tools run on; thread-safe as far as its parts are."""

    budget = Budget()

    @property
    def ask_above_s(self) -> float | None:
        """Estimated seconds of computing above which a call needs `max_seconds`; None: never.

        An agent is asked before it spends more; a person at a terminal or in Python is not.
        """
        return ASK_ABOVE_S if self.door == "mcp" else None

    @Lazy
    def runner(self) -> Runner:
        """The background threads in which experiments of this process run."""
        return Runner(self)

    @Lazy
    def races(self) -> Races:
        """The threads in which screens spend cells round by round."""
        return Races(self, lambda: self.runner)

    @Lazy
    def children(self) -> Children:
        """The child processes that draw pictures and write files."""
        return Children(self.home)

    def close(self) -> None:
        """Stop the background threads and close what was opened; the engine lives on."""
        if "races" in self.__dict__:
            self.races.close()
        if "runner" in self.__dict__:
            self.runner.close()
        super().close()


class PrincipalApp(App):
    """An application of one principal among several that share a home.

    It finds the principal's own experiments and those of the reference ledger, and no others.
    """

    def __init__(self, owner: App, principal: str, budget: Budget) -> None:
        super().__init__(
            owner.home, principal=principal, door=owner.door, catalogue=owner.catalogue
        )
        self.budget = budget
        self._owner = owner
        self._beginning = Lock()
        self._begun: dict[str, tuple[float, int]] = {}

    @Lazy
    def ledger(self) -> Ledger:
        """The ledger of the home as this principal sees it; its budget bounds what is begun."""
        return self._owner.ledger.as_seen_by(self.principal, self._admit)

    @Lazy
    def reference(self) -> Ledger | None:
        """The reference ledger, which everybody may read."""
        return self._owner.reference

    @Lazy
    def children(self) -> Children:
        """The child processes of the server, for all principals."""
        return self._owner.children

    def _admit(
        self, requests: Sequence[NewExperiment], record: Callable[[], list[Experiment]]
    ) -> list[Experiment]:
        limit = self.budget.max_cells
        if limit is None:
            return record()
        # One at a time: two calls must not count on the same room.
        if not self._beginning.acquire(timeout=remaining(_LOCK_S)):
            message = f"another call of {self.principal!r} is beginning experiments: call again"
            raise BudgetError(message)
        try:
            cells = [cells_of(r.tool, r.request) for r in requests]
            self._require(sum(cells), limit)
            begun = record()
            now = time.monotonic()
            for experiment, n_cells in zip(begun, cells, strict=True):
                self._begun[experiment.id] = (now, n_cells)
            return begun
        finally:
            self._beginning.release()

    def _require(self, n_cells: int, limit: int) -> None:
        since = time.monotonic() - _LAUNCH_S
        active = self.runner.active
        self._begun = {
            i: (at, n) for i, (at, n) in self._begun.items() if at > since and i not in active
        }
        # What was begun a moment ago is at work in a moment.
        queued = self.runner.cells_left() + sum(n for _, n in self._begun.values())
        if queued + n_cells > limit:
            message = (
                f"{self.principal!r} may have {limit:,} cells queued or at work at a time: "
                f"{queued:,} are, so {max(limit - queued, 0):,} are left, and this asks for "
                f"{n_cells:,}. Ask for fewer, wait until some are done (list_experiments with "
                'status="running"), or stop one with cancel_experiment'
            )
            raise BudgetError(message)
