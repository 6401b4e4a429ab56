"""A specification's JSON file read strictly, and what is wrong with it in words.

A file may begin with a byte order mark. Any other encoding than UTF-8, a key that is there twice
and a number that JSON does not have are refused: each would mean something else than it says.
"""

import codecs
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

LONGEST = 16 << 20
"""Bytes; a specification with a name for every guide of a library has a few million."""
_ENCODINGS = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SHOWN = 5


class SpecError(ValueError):
    """A specification is not what it must be; file and field are named."""


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        SpecError: it cannot be read, is no UTF-8 or no JSON, or names a key twice.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise SpecError(message) from error
    if len(data) > LONGEST:
        message = f"{path} is longer than {LONGEST:,} bytes: that is no specification"
        raise SpecError(message)
    try:
        return json.loads(_decoded(data, path), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        message = f"{path} is no JSON: {error}"
        raise SpecError(message) from error


def explained(error: ValidationError, schema: Mapping[str, Any]) -> str:
    """Return what is wrong with each field, in one line each; near field names are offered."""
    lines = [_line(each, schema) for each in error.errors(include_url=False)]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "; ".join([*lines[:_SHOWN], *more])


def _decoded(data: bytes, path: Path) -> str:
    for mark, name in _ENCODINGS.items():
        if data.startswith(mark):
            message = f"{path} is {name}; save it as UTF-8"
            raise SpecError(message)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = (
            f"{path} is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); save it as "
            "UTF-8"
        )
        raise SpecError(message) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            message = f"the key {key!r} is there twice in one object; keep one of them"
            raise ValueError(message)
        unique[key] = value
    return unique


def _refuse(constant: str) -> NoReturn:
    message = f"{constant} is no JSON number"
    raise ValueError(message)


def _line(error: Any, schema: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"] if not _is_branch(part)) or "the whole"
    if error["type"] == "extra_forbidden":
        known = sorted(_fields(schema))
        near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
        return f"{place} is no field" + (f"; did you mean {near[0]!r}?" if near else "")
    if error["type"] == "missing":
        return f"{place} is missing"
    got = json.dumps(error["input"], ensure_ascii=False, default=repr)
    shown = got if len(got) <= 60 else f"{got[:57]}..."
    why = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {why}" + ("" if error["loc"] == () else f" (it is {shown})")


def _is_branch(part: Any) -> bool:
    """Return whether a step of a location names a branch of a union and no field."""
    return isinstance(part, str) and ("[" in part or part == "str")


def _fields(schema: Mapping[str, Any]) -> set[str]:
    parts = [schema, *schema.get("$defs", {}).values()]
    return {name for part in parts for name in part.get("properties", {})}
