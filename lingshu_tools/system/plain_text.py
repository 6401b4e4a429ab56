"""Text made fit to be shown: no character does what it does not show, and no secret is in it.

Requests, errors and names come out of a ledger as they were put in, perhaps by another agent,
perhaps through an archive. Control characters steer a terminal, bidirectional ones reorder what is
read, invisible ones hide words from people and not from models. Words remain data, and a
reader must not obey them. Passwords and tokens are replaced by `***`.
"""

import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from lingshu_model.system.redaction import redact, redactor

M = TypeVar("M", bound=BaseModel)
LONGEST = 20_000
"""Characters of one text of a result."""
# Control, format (bidirectional, zero-width, tags), private, surrogate; ends of lines, paragraphs.
_UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")


def plain(text: str, *, keep: str = "\n") -> str:
    """Return text without secrets, and without invisible characters but `keep`.

    Invisible are control, bidirectional and zero-width characters, and those that Unicode assigns
    to no sign.
    """
    # In this order: an invisible character could divide a secret.
    return redact(_visible(text, keep))


def _visible(text: str, keep: str = "\n") -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text if c in keep or not _hidden(c))


def _hidden(character: str) -> bool:
    # Variation selectors count as marks, and a text can be hidden in them.
    selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return selector or unicodedata.category(character) in _UNSEEN


def plain_result(result: M) -> M:
    """Return a result whose texts are each one line of visible characters, and not endless."""
    return _result(result, redactor())


def plain_values(value: Any) -> Any:
    """Return JSON values whose texts are each one line of visible characters, and not endless."""
    return _plain(value, redactor())


def _result(result: M, redacted: Callable[[str], str]) -> M:
    fields = {name: getattr(result, name) for name in type(result).model_fields}
    plain_fields = {name: _plain(value, redacted) for name, value in fields.items()}
    return result.model_copy(update=plain_fields)


def _plain(value: Any, redacted: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return _line(value, redacted)
    if isinstance(value, BaseModel):
        return _result(value, redacted)
    if isinstance(value, dict):
        return {_plain(key, redacted): _plain(record, redacted) for key, record in value.items()}
    if isinstance(value, list):
        return [_plain(record, redacted) for record in value]
    return value


def _line(text: str, redacted: Callable[[str], str]) -> str:
    # What broke a line separates words still.
    line = redacted(_visible(" ".join(text.splitlines()).replace("\t", " ")))
    if len(line) <= LONGEST:
        return line
    return f"{line[:LONGEST]}… ({len(line) - LONGEST} more characters)"
