"""Heads seen earlier, as plain lines: a witness, beside the database, against a cut tail.

Knows nothing of how a head is computed.
"""

from pathlib import Path

from lingshu_tools.errors import InputError
from lingshu_tools.ledger.records import Head


class Heads:
    """A text file to which heads are only ever added."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, head: Head) -> None:
        """Write a head down, unless it is the newest line already."""
        if self._lines()[-1:] != [str(head)]:
            with self._path.open("a", encoding="ascii") as file:
                file.write(f"{head}\n")

    def all(self) -> list[Head]:
        """Return the heads written so far, oldest first; a line cut by a crash is left out."""
        heads: list[Head] = []
        for line in self._lines():
            try:
                heads.append(Head.parse(line))
            except InputError:
                continue
        return heads

    def _lines(self) -> list[str]:
        return self._path.read_text("utf-8", "replace").splitlines() if self._path.exists() else []
