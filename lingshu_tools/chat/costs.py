"""What the calls of a chat cost: cells and seconds of computing, from the ledger's rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lingshu_tools.app import App
from lingshu_tools.errors import LingshuError
from lingshu_tools.experiments.designs import cells_of


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        cells: sampled by experiments that no call before has counted.
        computing_s: of the same, those that have ended.
        wall_s: until the call was answered.
    """

    cells: int = 0
    computing_s: float = 0.0
    wall_s: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cells + other.cells,
            self.computing_s + other.computing_s,
            self.wall_s + other.wall_s,
        )

    def __str__(self) -> str:
        computing = f", {self.computing_s:.1f} s of computing" if self.computing_s else ""
        cells = f", {self.cells:,} cells{computing}" if self.cells else ""
        return f"{self.wall_s:.1f} s{cells}"


class Costs:
    """Counts each experiment once, in the call in which it is first seen."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._counted: dict[str, float | None] = {}
        """Experiments and the seconds counted for them; None while they are at work."""
        self.total = Cost()

    def of(self, answer: Mapping[str, Any], wall_s: float, *, began: int) -> Cost:
        """Return the cost of a call by its answer.

        Args:
            answer: of the tool.
            wall_s: the seconds that it took.
            began: number of the newest row before the chat; experiments before it are not its cost.
        """
        cost = Cost(wall_s=wall_s)
        with suppress(LingshuError):  # a ledger that cannot be read now: the chat goes on
            cost += self._of_rows(answer, began)
        self.total += cost
        return cost

    def _of_rows(self, answer: Mapping[str, Any], began: int) -> Cost:
        ledger = self._app.ledger
        name, screen = answer.get("experiment_id"), answer.get("screen_id")
        rows = ledger.experiments([name]) if isinstance(name, str) else []
        rows += ledger.children(screen) if isinstance(screen, str) else []
        # An answer may name an experiment of an earlier day.
        rows = [row for row in rows if row.seq > began]
        ended = ledger.outcomes([row.id for row in rows])
        cells, seconds = 0, 0.0
        for row in rows:
            # Cells count when they are begun, seconds when they are known.
            if row.id not in self._counted and "n_cells" in row.request:
                cells += cells_of(row.tool, row.request)
            if self._counted.get(row.id) is None:
                outcome = ended.get(row.id)
                self._counted[row.id] = outcome.seconds or 0.0 if outcome else None
                seconds += self._counted[row.id] or 0.0
        return Cost(cells, seconds)
