"""Text that others wrote, made fit to be shown: no character does what it does not show.

Requests, errors and names come out of a ledger as they were put in, perhaps by another agent,
perhaps through an archive. Control characters steer a terminal, bidirectional ones reorder what is
read, invisible ones hide words from people and not from models. Knows nothing of what a text says:
words remain data, and whoever reads them must not obey them.
"""

import unicodedata
from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)
LONGEST = 20_000
"""Characters of one text of a result."""
# Control, format (bidirectional, zero-width, tags), private, surrogate; ends of lines, paragraphs.
_UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")


def plain(text: str, *, keep: str = "\n") -> str:
    """Return text without control, bidirectional and other invisible characters but `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text if c in keep or not _hidden(c))


def _hidden(character: str) -> bool:
    # Variation selectors count as marks, and a text can be hidden in them.
    selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return selector or unicodedata.category(character) in _UNSEEN


def plain_result(result: M) -> M:
    """Return a result whose texts are each one line of visible characters, and not endless."""
    fields = {name: getattr(result, name) for name in type(result).model_fields}
    return result.model_copy(update={name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _line(value)
    if isinstance(value, BaseModel):
        return plain_result(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _line(text: str) -> str:
    # What broke a line separates words still.
    line = plain(" ".join(text.splitlines()).replace("\t", " "))
    if len(line) <= LONGEST:
        return line
    return f"{line[:LONGEST]}… ({len(line) - LONGEST} more characters)"
