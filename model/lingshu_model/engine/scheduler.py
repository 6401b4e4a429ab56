"""The order in which tiles are computed.

Principals take turns, a tile each. The arms of a principal lie in groups: those of one experiment,
or of one screen. Its turns go to the group with the fewest tiles left, so that a few cells do not
wait for 100,000; after `SHORT_TURNS` turns in which another group was passed over, one turn goes to
the group that has gone longest without, so that many small experiments do not stop a large one.
Inside a group, arms are computed in the order they came: those of a screen finish one by one.

The order decides when a cell is computed, never its counts. docs/decisions/engine-queue.md has the
reasons.
"""

from dataclasses import dataclass, field

from lingshu_model.engine.work import Task, Work

SHORT_TURNS = 3
"""Turns in a row that the shortest group may take while another waits."""
_REMEMBERED = 1000
"""Principals without work that are remembered, so that coming back gives no extra turn."""


@dataclass
class _Group:
    works: dict[Work, None] = field(default_factory=dict[Work, None])
    last_turn: int = 0

    def tiles_left(self) -> int:
        """Return how many tiles nobody has taken yet; arms without any are dropped."""
        # An arm may be in several groups, so its last tile may have been taken through another.
        for work in [work for work in self.works if not work.waiting]:
            del self.works[work]
        return sum(len(work.waiting) for work in self.works)


@dataclass
class _Principal:
    groups: dict[str, _Group] = field(default_factory=dict[str, _Group])
    last_turn: int = 0
    short_turns: int = 0

    def tiles_left(self) -> dict[str, int]:
        """Return the tiles left of each group, in the order they came; empty ones are dropped."""
        left = {name: group.tiles_left() for name, group in self.groups.items()}
        for name in [name for name, tiles in left.items() if not tiles]:
            del self.groups[name], left[name]
        return left


class TileScheduler:
    """Arms by principal and group, and whose tile is next; for one thread at a time."""

    def __init__(self) -> None:
        """Start empty."""
        self._principals: dict[str, _Principal] = {}
        self._turn = 0

    def add(self, principal: str, group: str, work: Work) -> None:
        """Let a group of a principal have turns for an arm, beside the groups that have it."""
        groups = self._principals.setdefault(principal, _Principal()).groups
        # A new group counts as just served: arriving gives it no turn before those that wait.
        groups.setdefault(group, _Group(last_turn=self._turn)).works[work] = None
        self._forget()

    def discard(self, principal: str, group: str, work: Work) -> None:
        """Take an arm out of a group of a principal, if it is there."""
        groups = self._principals.get(principal, _Principal()).groups
        if group in groups:
            groups[group].works.pop(work, None)

    def take(self) -> Task | None:
        """Return the next tile; None where none is waiting."""
        ready = {n: left for n, item in self._principals.items() if (left := item.tiles_left())}
        if not ready:
            return None
        # A principal's turns are tiles: one with many arms gets no more than one with few.
        name = min(ready, key=lambda name: self._principals[name].last_turn)
        principal = self._principals[name]
        group = _choose(principal, ready[name])
        self._turn += 1
        principal.last_turn = group.last_turn = self._turn
        # Works are in order of arrival, and `tiles_left` has dropped those without tiles.
        work = next(iter(group.works))
        return Task(work, work.waiting.popleft())

    def _forget(self) -> None:
        idle = [name for name, item in self._principals.items() if not item.groups]
        # The longest known without work first; those with work stay, however many.
        for name in idle[: max(0, len(self._principals) - _REMEMBERED)]:
            del self._principals[name]


def _choose(principal: _Principal, left: dict[str, int]) -> _Group:
    """Return the group of a principal that has its next turn, of those with tiles left."""
    longest = min(principal.groups.values(), key=lambda group: group.last_turn)
    if len(left) == 1 or principal.short_turns >= SHORT_TURNS:
        principal.short_turns = 0
        return longest
    principal.short_turns += 1
    return principal.groups[min(left, key=lambda name: left[name])]
