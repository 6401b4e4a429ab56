"""The Python door: every tool as a method, `Lab().perturb_cells(interventions=[…])`.

The tools' methods are the registry's. `inspect` and `train` work on a user's own cells.
"""

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
from lingshu_tools.training import Inspection, Trained, add, inspect, train
from lingshu_tools.training.child import Cells


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

    def inspect(self, cells: Cells | Path | str, **options: Any) -> Inspection:
        """Return what cells hold, and how they would be trained on; nothing is trained.

        Args:
            cells: an AnnData with raw counts, or the path of an h5ad file.
            **options: what the columns mean, as for `lingshu data inspect`: `perturbation`,
                `control`, `context`, `kind`, `replicate`, `dose`, `time`, `counts`, `gene_names`.

        Raises:
            InputError: the cells cannot be read, or what is said does not fit them.
        """
        return inspect(cells, **options)

    def train(self, cells: Cells | Path | str, *, name: str, **options: Any) -> Trained:
        """Return a finished training run on cells; its checkpoint is added to this home.

        Blocks until it is done, minutes for thousands of cells. The same call goes on with what was
        trained before.

        Args:
            cells: an AnnData with raw counts, or the path of an h5ad file.
            name: of the checkpoint; one that was added under it before is replaced.
            **options: those of `inspect`, and `out` (`runs`), `recipe` (`default`,
                `effects` or `paper`), `epochs`, `minutes`, `allow_unfit`.

        Raises:
            InputError: the cells cannot be trained on.
            LingshuError: the training failed.
        """
        trained = train(cells, name=name, **options)
        add(self.app.home, trained.folder, replace=True)
        return trained

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *registry()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.app.close()

    def _call(self, tool: str, /, **arguments: Any) -> Result:
        return call(self.app, tool, arguments)
