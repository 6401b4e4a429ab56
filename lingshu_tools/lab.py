"""The Python door: every tool as a method, `Lab().perturb_cells(interventions=[…])`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.registry import registry
from lingshu_tools.calls.results import Result
from lingshu_tools.errors import quoted


class Lab:
    """A home and its tools.

    Args:
        home: where the ledger, objects and engine live; `LINGSHU_HOME` or the user-data folder.
        app: a made application instead.
    """

    def __init__(self, home: Path | None = None, *, app: App | None = None) -> None:
        self.app = app or App(home, door="python")

    def __getattr__(self, name: str) -> Callable[..., Result]:
        """Return a tool as a function of its named arguments."""
        tools = registry()
        if name not in tools:
            message = f"Lab has no tool {quoted(name)}; it has {', '.join(tools)}"
            raise AttributeError(message)
        return partial(self._call, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *registry()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.app.close()

    def _call(self, tool: str, /, **arguments: Any) -> Result:
        return call(self.app, tool, arguments)
