"""Heads seen earlier, as plain lines: a witness, beside the database, against a cut tail."""

from pathlib import Path

from lingshu_model.system.private import make_private
from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger.records import Head


class Heads:
    """A text file to which heads are only ever added."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, head: Head) -> None:
        """Write a head down, unless it is the newest line already.

        Raises:
            LedgerError: the disk refused it.
        """
        lines = self._lines()
        if lines[-1:] == [str(head)]:
            return
        # Begun afresh where a crash cut the line before: two halves could read as a head.
        line = f"{head}\n" if _ends(self._path) else f"\n{head}\n"
        try:
            make_private(self._path)
            with self._path.open("ab", buffering=0) as file:
                file.write(line.encode("ascii"))
        except OSError as error:
            message = f"{self._path} could not be written: {error}; free some space and try again"
            raise LedgerError(message) from error

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


def _ends(path: Path) -> bool:
    return not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
