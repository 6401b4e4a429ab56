"""What of a database's schema is not as its revision says, and whether it may be used so."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from lingshu_tools.errors import SchemaError

FOREIGN = "is none of the ledger's"
_MEANING = {
    "table": "its rows were not checked as they should be",
    "view": "what it shows may be wrong",
    "trigger": "rows were not protected",
    "index": "what is unique may not be",
}
_MOST_NAMED = 10


class Entry(NamedTuple):
    """One part of a schema; `text` defines it, in whatever form compares best."""

    kind: str
    name: str
    text: str


class Difference(NamedTuple):
    """A part of a schema that is missing, changed, foreign, or there twice."""

    kind: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.what}"

    @property
    def explained(self) -> str:
        """The difference, and what it may have caused."""
        if self.what == FOREIGN:
            return f"{self}: it may change what is written" if self.kind == "trigger" else str(self)
        return f"{self}: {_MEANING.get(self.kind, 'it may change any answer')}"


def compare(entries: Iterable[Entry], expected: Iterable[Entry]) -> Iterator[Difference]:
    """Yield how one schema differs from another, in the order of the expected one."""
    actual: dict[tuple[str, str], str] = {}
    for kind, name, text in entries:
        if (kind, name) in actual:
            yield Difference(kind, name, "is there twice")
        actual[kind, name] = text
    for kind, name, text in expected:
        same = actual.pop((kind, name), None)
        if same != text:
            yield Difference(kind, name, "is missing" if same is None else "is changed")
    for kind, name in actual:
        yield Difference(kind, name, FOREIGN)


def require_none(differences: Sequence[Difference], name: str, revision: str) -> None:
    """Refuse a database that could show or allow something else than one of its revision.

    Tables, views and indexes that somebody added change no answer; only `verify` names them.

    Args:
        differences: what differs.
        name: what messages call the database.
        revision: the one it says it has.

    Raises:
        SchemaError: what is missing, changed or added, and what to do.
    """
    wrong = [str(d) for d in differences if d.kind == "trigger" or d.what != FOREIGN]
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        message = (
            f"{name} does not have the schema of its revision {revision}, and was not used: "
            f"{', '.join(wrong[:_MOST_NAMED])}{more}. `lingshu ledger verify` checks its rows all "
            "the same. `lingshu ledger migrate` makes a copy and restores triggers, views and "
            "indexes; where a table differs, go back to a copy"
        )
        raise SchemaError(message)
