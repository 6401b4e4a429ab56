"""One memory of compiled statements for all engines of a process.

Each engine compiles its statements for itself, which is half of what a ledger costs that is opened
for a fraction of a second, as those here are. What SQLite is told stays the same.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, create_engine

from lingshu_tools.ledger import sqlite


@contextmanager
def compiled_once() -> Generator[None]:
    """Let engines made meanwhile share what SQLAlchemy makes of a statement."""
    shared, real = create_engine("sqlite://"), sqlite.create_engine
    shared.connect().close()

    def compiled_engine(*arguments: Any, **options: Any) -> Engine:
        engine = real(*arguments, **options)
        engine.dialect = shared.dialect
        # There is no public way.
        engine._compiled_cache = shared._compiled_cache
        return engine

    with patch.object(sqlite, "create_engine", compiled_engine):
        yield
