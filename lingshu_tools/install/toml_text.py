"""TOML changed statement by statement: comments, order and spaces of all others stay.

A statement of TOML (a table's header, or `key = value`) begins on a new line, and is whole
as soon as tomllib can read it; so lines are grouped into statements without a grammar here.
"""

import io
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lingshu_tools.errors import InputError

Path = tuple[str, ...]
_BARE = re.compile(r"[A-Za-z0-9_-]+")
# A bare key, a basic string or a literal string.
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEYS = re.compile(rf"[ \t]*\[{{0,2}}[ \t]*({_PART}(?:[ \t]*\.[ \t]*{_PART})*)")


@dataclass(frozen=True)
class _Statement:
    """Lines `start` to `end` (exclusive): a header, or a value at `path`."""

    start: int
    end: int
    table: Path
    path: Path
    header: bool = False


def parse(text: str) -> dict[str, Any]:
    """Return the values of a text.

    Raises:
        InputError: no TOML; the line is given.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = str(error) or "it is nested too deeply"
        raise InputError(message) from error


def with_value(text: str, path: Sequence[str], value: Any) -> str:
    """Return the text with one value set; what is on the path and missing is made.

    Args:
        text: that `parse` accepts.
        path: the keys that lead to the value.
        value: a text, a number, or a list or flat table of these.
    """
    wanted = tuple(path)
    newline = "\r\n" if "\r\n" in text else "\n"
    # TOML's lines end with \n alone or after \r: a comment may hold other line separators.
    lines = list(io.StringIO(text, newline="\n"))
    statements = list(_statements(lines))
    for each in statements:
        if not each.header and each.path == wanted:
            # Indentation and the table that the key is written below stay.
            indent = re.match(r"[ \t]*", lines[each.start])
            key = ".".join(_key(part) for part in wanted[len(each.table) :])
            start = indent[0] if indent else ""
            lines[each.start : each.end] = [f"{start}{key} = {_value(value)}{newline}"]
            return "".join(lines)
    # Beside what is in the same table, else below the table's header, else at the end.
    beside = [s for s in statements if not s.header and s.path[:-1] == wanted[:-1]]
    headers = [s for s in statements if s.header and s.path == wanted[:-1]]
    if not beside and not headers:
        return _appended(text, newline, wanted, value)
    # The last of them, so that the order of the others stays.
    last = (beside or headers)[-1]
    if not lines[last.end - 1].endswith("\n"):
        lines[last.end - 1] += newline
    key = ".".join(_key(part) for part in wanted[len(last.table) :])
    lines[last.end : last.end] = [f"{key} = {_value(value)}{newline}"]
    return "".join(lines)


def _appended(text: str, newline: str, path: Path, value: Any) -> str:
    *table, key = path
    fields = value if isinstance(value, dict) else {key: value}
    header = path if isinstance(value, dict) else tuple(table)
    body = [f"{_key(name)} = {_value(each)}" for name, each in fields.items()]
    lines = [f"[{'.'.join(_key(part) for part in header)}]", *body]
    kept = text if not text or text.endswith("\n") else text + newline
    return kept + (newline if kept.strip() else "") + newline.join(lines) + newline


def _statements(lines: Sequence[str]) -> Iterator[_Statement]:
    table: Path = ()
    start = 0
    while start < len(lines):
        if lines[start].lstrip().startswith(("#", "\n", "\r")) or not lines[start].strip():
            start += 1
            continue
        end = _whole(lines, start)
        path = tuple(_chain(lines[start]))
        if lines[start].lstrip().startswith("["):
            table = path
            yield _Statement(start, end, table, table, header=True)
        else:
            yield _Statement(start, end, table, table + path)
        start = end


def _whole(lines: Sequence[str], start: int) -> int:
    # The fewest lines that tomllib accepts: strings and arrays may go over several.
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end
    message = f"line {start + 1} begins something that does not end"
    raise InputError(message)


def _chain(statement: str) -> Iterator[str]:
    """Yield the keys in front of a statement's value, or in a header."""
    match = _KEYS.match(statement)
    keys = match[1] if match else ""
    # tomllib reads the keys, quotes and escapes included.
    node: Any = tomllib.loads(f"{keys} = 0")
    while isinstance(node, dict):
        [(key, node)] = node.items()
        yield key


def _key(part: str) -> str:
    return part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    # JSON's texts are TOML's basic strings, but for DEL, which JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
