"""Text for a terminal or a pipe that does not take UTF-8: every output can be printed.

Some locales and `PYTHONIOENCODING` give streams that know few characters. What such a stream cannot
print is written in ASCII where there is a usual form, else as an escape, instead of ending the
command with a traceback after the work is done.
"""

import codecs
import io
import sys
from typing import TextIO

_HANDLER = "lingshu.readable"
_ASCII = {
    "…": "...",
    "−": "-",
    "–": "-",
    "—": "-",
    "─": "-",
    "═": "=",
    "│": "|",
    "├": "|",
    "└": "`",
    "‖": "||",
    "×": "x",
    "·": "-",
    "±": "+/-",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "↑": "^",
    "†": "+",
    "█": "#",
    "░": ".",
}


def prepare_streams() -> None:
    """Let stdout and stderr of this process print every text."""
    codecs.register_error(_HANDLER, _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not takes_all(stream):
            stream.reconfigure(errors=_HANDLER)


def takes_all(stream: TextIO) -> bool:
    """Return whether a stream can print every character."""
    try:
        return codecs.lookup(stream.encoding).name.startswith("utf")
    except (LookupError, TypeError, AttributeError):
        return False


def encoding_for_child() -> str | None:
    """Return a `PYTHONIOENCODING` with which a child that takes over our streams can print all."""
    if takes_all(sys.stdout):
        return None
    return f"{getattr(sys.stdout, 'encoding', None) or 'ascii'}:backslashreplace"


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    escape = (_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text)
    return "".join(escape), error.end
