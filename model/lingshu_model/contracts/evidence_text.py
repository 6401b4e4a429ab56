"""The text of an evidence file: JSON with sorted keys, indented by 1, lists of numbers on one line.

Floats have 5 significant digits, and undefined figures are null. Millions of residuals are written:
the encoder of the standard library takes a minute for what takes two seconds here.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DIGITS = 5
_NUMBERS = (int, float, type(None))
"""Types of a list that is one line."""


def dumps(value: Mapping[str, Any]) -> str:
    """Return the canonical text of an evidence file.

    Raises:
        TypeError: a value is none of JSON's.
    """
    return "".join(_pieces(value, "\n")) + "\n"


def rounded(value: Any) -> Any:
    """Return JSON values with floats to 5 significant digits and NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        # Adding 0.0 turns -0.0 into 0.0, as in canonical JSON.
        return float(f"{value:.{DIGITS}g}") + 0.0 if math.isfinite(value) else None
    return value


def _pieces(value: Any, line: str) -> Iterator[str]:
    """Yield the text of a value; `line` is a line feed and its indentation."""
    if isinstance(value, Mapping):
        items = sorted((str(key), each) for key, each in value.items())
        pairs = ((f"{json.dumps(key)}: ", each) for key, each in items)
        yield from _block("{}", pairs, line)
    elif not isinstance(value, list | tuple):
        yield json.dumps(rounded(value), allow_nan=False)
    elif value and _are_numbers(value):
        yield f"[ {', '.join(_number_texts(value))} ]"
    else:
        yield from _block("[]", (("", each) for each in value), line)


def _block(brackets: str, items: Iterator[tuple[str, Any]], line: str) -> Iterator[str]:
    """Yield items, one to a line."""
    inner, before = f"{line} ", brackets[0]
    for name, each in items:
        yield f"{before}{inner}{name}"
        yield from _pieces(each, inner)
        before = ","
    yield f"{line}{brackets[1]}" if before == "," else brackets


def _are_numbers(values: Sequence[Any]) -> bool:
    kinds = {*map(type, values)}
    # A bool is an int to issubclass, but JSON writes it as true or false.
    return bool not in kinds and all(issubclass(kind, _NUMBERS) for kind in kinds)


def _number_texts(values: Sequence[float | None]) -> list[str]:
    if {*map(type, values)} == {float}:
        # One call formats all of them; `nan` and `inf` both hold an n.
        text = f"%.{DIGITS}g " * len(values) % tuple(values)
        if "n" not in text:
            # repr is what json.dumps writes for a finite float, so both branches give the same
            # text.
            return [repr(float(each) + 0.0) for each in text.split()]
    return [json.dumps(rounded(each), allow_nan=False) for each in values]
