"""JSON and JSON with comments, changed member by member: every other character stays.

Comments and trailing commas are blanked with spaces, so that the json module reads what is left and
its positions are those of the original text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lingshu_tools.errors import InputError, quoted

# All but line ends, so that lines and columns of errors stay those of the text.
_BLANK = re.compile(r"[^\r\n]")
_SPACE = re.compile(r"[ \t\r\n]*")
# Strings are matched first, so that // and commas inside them are left alone.
_TOKEN = re.compile(r'"(?:[^"\\\r\n]|\\.)*"|//[^\r\n]*|/\*.*?\*/|,(?=[ \t\r\n]*[\]}])', re.DOTALL)
_COMMENT = re.compile(r'"(?:[^"\\\r\n]|\\.)*"|//[^\r\n]*|/\*.*?\*/', re.DOTALL)


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass(frozen=True)
class _Object:
    """Where an object of a text is: its members as (key, start, end) of values, its last brace."""

    members: list[tuple[str, int, int]]
    close: int

    def place(self, key: str) -> tuple[int, int] | None:
        places = [(start, end) for name, start, end in self.members if name == key]
        if len(places) > 1:
            message = f"the key {quoted(key)} stands there {len(places)} times: keep one of them"
            raise InputError(message)
        return places[0] if places else None


def parse(text: str, *, comments: bool) -> dict[str, Any]:
    """Return the object that a text holds; an empty text holds an empty one.

    Raises:
        InputError: no JSON, or no object; line and column are given.
    """
    blanked = _blanked(text, comments=comments)
    if not blanked.strip():
        return {}
    start = _skip(blanked, 0)
    try:
        value, end = _DECODER.raw_decode(blanked, start)
    except json.JSONDecodeError as error:
        message = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputError(message) from error
    except (ValueError, RecursionError) as error:
        message = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(message) from error
    if (rest := _skip(blanked, end)) != len(blanked):
        message = f"line {text.count(chr(10), 0, rest) + 1}: more text after the end of the object"
        raise InputError(message)
    if not isinstance(value, dict):
        message = f"an object is needed, and it holds {quoted(value)}"
        raise InputError(message)
    return value


def with_member(text: str, path: Sequence[str], value: Any, *, comments: bool) -> str:
    """Return the text with one member set; objects on the path that are missing are made.

    Args:
        text: that `parse` accepts.
        path: the keys that lead to the member.
        value: any JSON value.
        comments: whether the text may hold comments.

    Raises:
        InputError: something on the path is no object, or a key of it stands there twice.
    """
    blanked = _blanked(text, comments=comments)
    if not blanked.strip():
        nothing = text.rstrip()
        text = f"{nothing}\n{{}}\n" if nothing else "{}\n"
        blanked = _blanked(text, comments=comments)
    start = _skip(blanked, 0)
    for depth, key in enumerate(path):
        if blanked[start] != "{":
            message = f"{'.'.join(path[:depth])} is no object"
            raise InputError(message)
        node = _object(blanked, start)
        place = node.place(key)
        if place is None:
            # From the inside out: objects on the path that are missing.
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _inserted(text, start, node, key, value)
        # The member is there: its value alone is replaced.
        if depth == len(path) - 1:
            dumped = _dumped(text, value, _indent_at(text, place[0]))
            return text[: place[0]] + dumped + text[place[1] :]
        start = place[0]
    message = "a path of at least one key is needed"
    raise ValueError(message)


def _blanked(text: str, *, comments: bool) -> str:
    if not comments:
        return text

    def blank(match: re.Match[str]) -> str:
        token = match[0]
        return token if token[0] == '"' else _BLANK.sub(" ", token)

    # Commas last: a comment may stand between one and the end of its list.
    return _TOKEN.sub(blank, _COMMENT.sub(blank, text))


def _object(blanked: str, start: int) -> _Object:
    members: list[tuple[str, int, int]] = []
    place = _skip(blanked, start + 1)
    while blanked[place] != "}":
        key, end = _DECODER.raw_decode(blanked, place)
        value_start = _skip(blanked, _skip(blanked, end) + 1)
        _, value_end = _DECODER.raw_decode(blanked, value_start)
        members.append((key, value_start, value_end))
        place = _skip(blanked, value_end)
        if blanked[place] == ",":
            place = _skip(blanked, place + 1)
    return _Object(members, place)


def _inserted(text: str, start: int, node: _Object, key: str, value: Any) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    outer = _indent_at(text, start)
    inner = outer + _unit(text)
    if node.members and "\n" in text[start : node.close]:
        # As the last member has it; an object on one line has no indentation to follow.
        inner = _indent_at(text, node.members[-1][1]) or inner
    # Behind whatever stands last before the brace, a comment for instance.
    tail = len(text[: node.close].rstrip(" \t\r\n"))
    before = text[:tail]
    if node.members:
        last = node.members[-1][2]
        # A trailing comma of JSON with comments is used, not doubled.
        if "," not in _without_comments(text[last:tail]):
            before = text[:last] + "," + text[last:tail]
    member = f"{json.dumps(key, ensure_ascii=False)}: {_dumped(text, value, inner)}"
    rest = text[tail : node.close]
    if "\n" not in rest:
        rest = newline + outer
    return before + newline + inner + member + rest + text[node.close :]


def _without_comments(text: str) -> str:
    return _COMMENT.sub(lambda match: match[0] if match[0][0] == '"' else " ", text)


def _dumped(text: str, value: Any, indent: str) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    dumped = json.dumps(value, indent=_unit(text), ensure_ascii=False)
    return dumped.replace("\n", newline + indent)


def _unit(text: str) -> str:
    # The first indented key tells the unit; two spaces where there is none.
    first = re.search(r'^([ \t]+)"', text, re.MULTILINE)
    return first[1] if first else "  "


def _indent_at(text: str, place: int) -> str:
    line = text.rfind("\n", 0, place) + 1
    return text[line : _skip_blank(text, line)]


def _skip_blank(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t":
        place += 1
    return place


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place
