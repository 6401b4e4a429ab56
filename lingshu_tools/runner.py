"""Experiments at work: background threads that take ledger rows to their sealed outcomes.

Any process may run any unsealed experiment whose last worker is dead: what to do is in the row and
the engine hands back cells it has already made. Knows nothing of tools or how a result is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lingshu_tools.results import Progress

if TYPE_CHECKING:
    from lingshu_tools.app import App


class Runner:
    """The experiments this process works on."""

    def __init__(self, app: App) -> None:
        self._app = app

    def launch(self, ids: Sequence[str]) -> None:
        """Work on experiments in one background thread, in order, all arms submitted first.

        Those sealed, or worked on here or by another living process, are left alone.
        """
        raise NotImplementedError

    def wait(self, ids: Sequence[str], wait_s: float) -> bool:
        """Wait up to `wait_s` seconds for outcomes; return whether all are sealed."""
        raise NotImplementedError

    def progress(self, ids: Sequence[str]) -> Progress:
        """Return how many cells of these experiments the engine has made."""
        raise NotImplementedError

    def trouble(self, experiment_id: str) -> str | None:
        """Return why this process could not finish an unsealed experiment, or None."""
        raise NotImplementedError
