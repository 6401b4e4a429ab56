"""Results as a client gets them: concise by default, whole on request, never endless.

A concise result has what an answer needs; which fields are left to the detailed form is said by
the views themselves (`detail_only`). Whatever its form, it validates against the result's model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field
from pydantic_core import to_jsonable_python

from lingshu_tools.calls.results import EvidenceView, Result, Truncated, View, call_text

V = TypeVar("V", bound=View)
ROWS: Final = 8
"""Rows of a concise result, unless a call asks for more."""
ROW_TOKENS: Final = 2_400
"""What the rows of one result may take, at four characters a token; the rest are paged."""
CONCISE_TOKENS: Final = 600
"""What a concise result may take, unless a call asks for more rows."""
DIGITS: Final = 3
"""Significant digits of a number in a concise result."""
# Characters of the call that a truncated result repeats.
LONGEST_CALL: Final = 1_000

Detail = Annotated[
    Literal["concise", "detailed"],
    Field(description=""),
]


def is_detailed(arguments: Mapping[str, Any]) -> bool:
    """Return whether a call asks for a detailed result."""
    named = arguments.get("detail") in (None, "", "concise", "summary")
    # get_experiment: naming genes is asking for their effects.
    return not named or (arguments.get("detail") == "summary" and bool(arguments.get("genes")))


def fitting(rows: Sequence[V], *, detailed: bool, tokens: int = ROW_TOKENS) -> list[V]:
    """Return as many of the first rows as fit in one result, at least one where there are any."""
    # In characters of the JSON that a client gets, a comma after each row included.
    left = tokens * 4
    for place, row in enumerate(rows):
        value = row.model_dump(mode="json") if detailed else _Brief().of(row)
        left -= len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) + 1
        if left < 0:
            return list(rows[: max(place, 1)])
    return list(rows)


def is_short(result: Result) -> bool:
    """Return whether the concise form of a result is within its budget."""
    value = structured(result, "", {}, detailed=False)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text) <= CONCISE_TOKENS * 4


def shown(result: Result, *, detailed: bool) -> Result:
    """Return a result without the caveats that hold for every result of its tool."""
    if detailed or not result.general_caveats:
        return result
    kept = [c for c in result.caveats if c not in result.general_caveats]
    return result.model_copy(update={"caveats": kept})


def structured(
    result: Result, tool: str, arguments: Mapping[str, Any], *, detailed: bool
) -> dict[str, Any]:
    """Return a result as JSON values.

    Args:
        result: what the tool returned.
        tool: its name.
        arguments: of the call; where rows are left out, the call with `detail="detailed"` is said.
        detailed: whether every field is shown.
    """
    if detailed:
        return result.model_dump(mode="json")
    brief = _Brief()
    value = brief.of(shown(result, detailed=False))
    if value.get("held_out") is not None:
        # The figure of this very question says more than that of its tier.
        value.pop("evidence", None)
    elif result.evidence is not None:
        value["evidence"] = _beside_best(result.evidence, value["evidence"])
    if brief.cut and "truncated" not in value:
        more = call_text(tool, **{**arguments, "detail": "detailed"})
        how = more if len(more) <= LONGEST_CALL else 'The same call with detail="detailed"'
        # Of several lists that were cut the longest is named.
        total = max(brief.cut)
        value["truncated"] = Truncated(
            shown=ROWS, total=total, how_to_get_more=f"{how} shows more"
        ).model_dump(mode="json")
    return value


class _Brief:
    """Makes concise values, and keeps the lengths of the lists that it has cut."""

    def __init__(self) -> None:
        self.cut: list[int] = []

    def of(self, view: View) -> dict[str, Any]:
        """Return a view's fields as JSON values."""
        values: dict[str, Any] = {}
        for name, field in type(view).model_fields.items():
            value = getattr(view, name)
            # False as a default says no more than its absence; a required field is never left out.
            unset = value is False and field.default is False
            empty = value is None or unset or value in ([], {})
            if name in view.detail_only or (empty and not field.is_required()):
                continue
            if name in view.concise_lists and isinstance(value, list) and len(value) > ROWS:
                self.cut.append(len(value))
                value = value[:ROWS]
            values[name] = self._json(value)
        return values

    def _json(self, value: Any) -> Any:
        match value:
            case View():
                return self.of(value)
            case list() | tuple():
                return [self._json(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
            case dict():
                return {str(k): self._json(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            case float():
                return float(f"{value:.{DIGITS}g}")
            case _:
                return to_jsonable_python(value)


def _beside_best(evidence: EvidenceView, brief: dict[str, Any]) -> dict[str, Any]:
    """Return a tier's evidence with the best simple predictor alone beside the model."""
    # 0 is the value of a prediction of no change; only an unknown value is left out.
    values = {
        name: figure.value
        for name, figure in evidence.baselines.items()
        if name in evidence.simple and figure.value is not None
    }
    best = max(values, key=lambda name: values[name], default=None)
    others = brief["baselines"]
    return brief | {"baselines": {best: others[best]} if best else {}}
