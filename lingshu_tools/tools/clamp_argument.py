"""Genes that are set to counts before others are drawn: the forms of `clamp` in a call."""

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from lingshu_tools.errors import quoted

MOST_COUNT = 1_000_000
MOST_CLAMPED = 100
CLAMP_SCHEMA: Final = {"type": "array", "items": {"type": "string"}}
"""The published form: objects with any keys are what strict schema converters reject."""
FORMS: Final = (
    'a list of GENE=UMI, e.g. ["IL6=0", "STAT1=5"]; a map {"IL6": 0} or objects with gene and '
    f"count are accepted too. A count is a whole number from 0 to {MOST_COUNT:,}"
)
# GENE=UMI: up to 64 characters, as few as will do, before the last = and digits.
_LINE = re.compile(r"\s*(.{1,64}?)\s*=\s*(\d{1,7})\s*")


def clamp_map(given: Any) -> Any:
    """Return clamps as a map of gene to UMI, from any form.

    Raises:
        ValueError: no form of clamps, a gene that is no text, or one that is named twice.
    """
    if isinstance(given, dict):
        pairs = list(given.items())
    elif isinstance(given, list):
        pairs = [_pair(item) for item in given]
    else:
        raise ValueError(FORMS)
    unnamed = [gene for gene, _ in pairs if not isinstance(gene, str)]
    if unnamed:
        message = f"{quoted(unnamed[0])} is no name of a gene: it must be text. clamp takes {FORMS}"
        raise ValueError(message)
    counts = dict(pairs)
    if len(counts) < len(pairs):
        message = "clamp names a gene twice; each gene can have one count"
        raise ValueError(message)
    return counts


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, dict) and item.keys() == {"gene", "count"}:
        return item["gene"], item["count"]
    match = _LINE.fullmatch(item) if isinstance(item, str) else None
    if match is None:
        raise ValueError(FORMS)
    return match[1], int(match[2])


def clamp_lines(clamp: dict[str, int]) -> list[str]:
    """Return clamps in their published form."""
    return [f"{gene}={count}" for gene, count in clamp.items()]


Clamps = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64)],
        Annotated[int, Field(ge=0, le=MOST_COUNT)],
    ],
    BeforeValidator(clamp_map),
    PlainSerializer(clamp_lines, when_used="json"),
    WithJsonSchema(CLAMP_SCHEMA),
    Field(max_length=MOST_CLAMPED, description="GENE=UMI, set first"),
]
