"""Passwords and tokens taken out of every text that leaves a process.

Two things are looked for: the secrets that this process knows (in its environment, or registered
with `remember`), whole and in whatever text they stand; and what has the form of a secret, such as
the password of a URL. `plain` applies it to results and errors, `protect_streams` to all that is
printed, logged and raised.
"""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, TextIO, cast
from urllib.parse import unquote

MASK = "***"
SHORTEST = 5
"""Characters of a secret that is looked for by itself: shorter ones are parts of ordinary words."""
_SECRET_VARIABLES = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|PASSPHRASE)$")
_URL_VARIABLES = ("LINGSHU_LEDGER", "LINGSHU_ENGINE_URL")
# Up to the last @ before a path or a space: a password may hold one. No repetition here or below
# begins at every character of a long text, which would take a time that grows with its square.
_USER_INFO = re.compile(r"(?<=://)(?P<info>[^\s/?#'\"<>]{1,1000})@")
_NAMES = r"password|passwd|passphrase|sslpassword|(?:access_|auth_)?token|api_?key|secret"
# As in a URL's query, a libpq connection string, JSON or a repr.
_PAIRS = (
    re.compile(rf"(?i)\b(?:{_NAMES})\s?=\s?(?P<value>'[^']*'|\"[^\"]*\"|[^\s&,;'\")\]}}]+)"),
    re.compile(rf"(?i)['\"](?:{_NAMES})['\"]\s*:\s*(?P<value>'[^']*'|\"[^\"]*\")"),
)
_BEARER = re.compile(r"(?i)\bbearer\s+(?P<value>(?=\S*\d)[A-Za-z0-9._~+/=-]{8,})")
_HINTS = ("://", "=", ":", "earer", "EARER")
_remembered: set[str] = set()


def remember(secret: str) -> None:
    """Take this secret out of every text from now on, such as a token read from a file."""
    if len(secret) >= SHORTEST:
        _remembered.add(secret)


def redact(text: str) -> str:
    """Return the text with secrets replaced by `***`."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """Return what redacts texts, with the secrets that are known now: for many texts at once."""
    secrets = _forms(_environment(), frozenset(_remembered))

    def redacted(text: str) -> str:
        # Longest first: a secret may hold another one.
        for secret in secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        # Most texts have none of these, and the patterns take most of the time.
        if not any(hint in text for hint in _HINTS):
            return text
        text = _USER_INFO.sub(_without_password, text)
        for pattern in (*_PAIRS, _BEARER):
            text = pattern.sub(_without_value, text)
        return text

    return redacted


@contextmanager
def protect_streams() -> Generator[None]:
    """Redact whatever is printed to standard output and error meanwhile: logs and tracebacks too.

    So is, from now on, the traceback of an exception that ends the process. Bytes written to the
    streams' `buffer` are left alone.
    """
    sys.excepthook = _print_exception
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_protected(stream) for stream in kept)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept


def _print_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    # There is none in a process without a console.
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(redact(text))


class _Redacting:
    """A text stream that redacts what is written; everything else is the stream's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without its secrets; return the length of the whole."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines without their secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _protected(stream: TextIO) -> TextIO:
    if isinstance(stream, _Redacting) or stream is None:  # pyright: ignore[reportUnnecessaryComparison] - None without a console
        return stream
    return cast("TextIO", _Redacting(stream))


def _without_password(match: re.Match[str]) -> str:
    user, colon, _ = match["info"].partition(":")
    # Without a colon it may be a token.
    return f"{user if colon else ''}{colon}{MASK}@"


def _without_value(match: re.Match[str]) -> str:
    start, end = match.start("value") - match.start(), match.end("value") - match.start()
    quote = match["value"][0] if match["value"][0] in "'\"" else ""
    return f"{match[0][:start]}{quote}{MASK}{quote}{match[0][end:]}"


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, value)
        for name, value in os.environ.items()
        if name in _URL_VARIABLES or _SECRET_VARIABLES.search(name)
    )


@lru_cache(maxsize=8)
def _forms(variables: tuple[tuple[str, str], ...], others: frozenset[str]) -> list[str]:
    """Return how the known secrets may stand in a text, the longest first."""
    secrets = set(others)
    for name, value in variables:
        secrets |= set(_passwords(value)) if name in _URL_VARIABLES else {value}
    forms = {form for secret in secrets for form in _written(secret) if len(form) >= SHORTEST}
    return sorted(forms, key=len, reverse=True)


def _passwords(url: str) -> Iterator[str]:
    """Yield the password of a URL, also of one with mistakes in it."""
    _, scheme, rest = url.partition("://")
    info, at, _ = (rest if scheme else url).rpartition("@")
    user, colon, password = info.partition(":")
    if at:
        yield password if colon else user
    for pattern in _PAIRS:
        for result in pattern.finditer(url):
            yield result["value"].strip("'\"")


def _written(secret: str) -> Iterator[str]:
    # In a URL a password may be percent-encoded, in JSON and a repr escaped.
    for form in (secret, unquote(secret)):
        yield form
        yield json.dumps(form)[1:-1]
        yield repr(form)[1:-1]
