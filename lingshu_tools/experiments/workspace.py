"""What experiments are worked on with: home, ledger, engine and catalogue, opened when needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lingshu_model.contracts import Catalogue
from lingshu_model.system.lazy import Lazy
from lingshu_tools.errors import NotFoundError
from lingshu_tools.ledger import Door, Ledger, default_home

if TYPE_CHECKING:
    from lingshu_tools.engine_client.client import Engine

T = TypeVar("T")
REFERENCE_LEDGER = Path(__file__).parents[2] / "experiments.db"


class Workspace:
    """One home and what belongs to it; thread-safe as far as its parts are.

    Args:
        home: where the ledger, objects and engine live; `LINGSHU_HOME` or the user-data folder.
        principal: on whose behalf experiments are begun.
        door: `mcp`, `cli` or `python`; written into every row.
        ledger, engine, catalogue: made ones, for tests and for other stores.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        principal: str = "local",
        door: Door = "python",
        ledger: Ledger | None = None,
        engine: Any = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.home = default_home() if home is None else Path(home)
        self.principal = principal
        self.door: Door = door
        self.catalogue = catalogue or Catalogue(home=self.home)
        # Only then: an assigned value takes the place of the Lazy one.
        if ledger is not None:
            self.ledger = ledger
        if engine is not None:
            self.engine = engine

    @Lazy
    def ledger(self) -> Ledger:
        """The ledger of this home, made when there is none."""
        return Ledger.open(self.home)

    @Lazy
    def engine(self) -> Engine:
        """The client of this home's engine; no engine is started by asking for it."""
        # Imported here: its HTTP library takes 3 MB, and reading the ledger needs no engine.
        from lingshu_tools.engine_client.client import Engine

        return Engine(self.home, principal=self.principal, roots=self.catalogue.roots)

    @Lazy
    def reference(self) -> Ledger | None:
        """The reference ledger, opened read-only, where one is shipped."""
        path = Path(os.environ.get("LINGSHU_REFERENCE_LEDGER", REFERENCE_LEDGER))
        return Ledger.open_read_only(path) if path.is_file() else None

    def locate(self, read: Callable[[Ledger], T]) -> tuple[Ledger, T]:
        """Return what `read` finds and the ledger it is in: this home's, else the reference ledger.

        Raises:
            NotFoundError: in neither; what is said is this home's.
        """
        try:
            return self.ledger, read(self.ledger)
        except NotFoundError:
            if self.reference is None:
                raise
            # The error of this home's ledger is raised, as it has the nearest names there.
            with suppress(NotFoundError):
                return self.reference, read(self.reference)
            raise

    def close(self) -> None:
        """Close what was opened; the engine lives on."""
        for name in ("ledger", "engine"):
            # Looked up without opening what was never used.
            close = getattr(self.__dict__.get(name), "close", None)
            if close is not None:
                close()
