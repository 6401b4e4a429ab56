"""The envelope every tool result comes in, and how one is rendered for a reader.

A NaN or an infinity cannot be put into a result: what could not be computed is None, and a caveat
says why.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lingshu_model.contracts import Tier

ResultStatus = Literal[
    "succeeded", "planned", "queued", "running", "interrupted", "failed", "cancelled"
]
SIGNIFICANT_DIGITS = 5


class View(BaseModel):
    """A frozen part of a result that refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)
    detail_only: ClassVar[frozenset[str]] = frozenset()
    """Fields that a concise result leaves out; each has a default."""
    concise_lists: ClassVar[frozenset[str]] = frozenset()
    """Lists of which a concise result has the first items only."""


def rounded(value: float) -> float:
    """Return `value` to five significant digits, which is more than any simulation deserves."""
    # By text, since decimal digits are meant: a factor of ten would round in binary.
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def finite(value: float | None) -> float | None:
    """Return a rounded float, or None for None, NaN and infinities."""
    return None if value is None or not math.isfinite(value) else rounded(float(value))


# Rounded when it is put into a result, so that no tool shows digits that mean nothing.
Number = Annotated[float, AfterValidator(rounded)]


class SupportView(View):
    """What the checkpoint has seen of what was asked."""

    tier: Tier | Literal["mixed"]
    n_cells: int = Field(description="Training cells of exactly this condition; 0 unless seen")
    note: str
    mix: dict[str, int] | None = Field(
        default=None, description="Perturbations per tier, where several were asked"
    )


class BaselineView(View):
    """A held-out figure and its bootstrap interval."""

    value: Number | None
    interval: list[Number] | None = None


class EvidenceView(View):
    """Held-out figures of one support tier: the model's, and beside it the trivial baselines'."""

    detail_only = frozenset({"verdict"})
    simple: ClassVar = (
        "mean_shift",
        "control_mean",
        "perturb-mean",
        "context-mean",
        "replicate_reference",
        "resampled_training_cells",
        "context_mean",
        "perturbed_mean",
        "related_mean_shift",
        "nearest_context_shift",
        "additive",
    )
    """Predictors that need no model; a concise result names the best of them."""

    tier: Tier
    metric: str
    set: str = Field(description="Held-out perturbations the figure is over")
    model: BaselineView
    baselines: dict[str, BaselineView]
    verdict: str = ""
    beats_trivial_baseline: bool | None


class HeldOutView(View):
    """The held-out figure of this very question, or of the nearest that was held out.

    `level` is `this condition`, `its tier` or `another tier` (borrowed from another question);
    `tier` is seen, carried, combination or unseen; `of` names the condition or the set of
    conditions; `best_simple` is the best predictor made from training cells alone; `n_cells` are
    held-out perturbed cells, of one condition; `adapted`: choices were steered by held-out cells of
    this condition.
    """

    detail_only = frozenset({"better_than_no_change"})

    level: str
    tier: str
    of: str
    metric: str
    value: Number | None
    interval: list[Number] | None
    best_simple: str | None
    best_simple_value: Number | None
    better_than_no_change: bool | None = None
    against_best_simple: str | None
    n_cells: int | None
    n_contrasts: int | None
    n_folds: int | None
    adapted: bool = False


class Truncated(View):
    """What was left out of a result and how to get it."""

    shown: int
    total: int
    how_to_get_more: str


class Progress(View):
    """How far an experiment or a screen is, in cells."""

    done: int
    total: int


class Cost(View):
    """What an experiment would take; `basis` says where the figure is from."""

    n_cells: int = Field(description="Cells to sample over all arms")
    seconds: Number | None = Field(description="Estimated compute seconds; None when unknown")
    basis: str


class Result(View):
    """What every tool answers with; tools add their data."""

    detail_only = frozenset({"units"})
    general_caveats: ClassVar[frozenset[str]] = frozenset()
    """Caveats of every result of the tool; a concise one has only those of this very answer."""

    status: ResultStatus
    summary: str = Field(description="One or two sentences fit to be quoted")
    units: dict[str, str] = Field(default_factory=dict, description="Field name to its unit")
    support: SupportView | None = None
    held_out: HeldOutView | None = None
    evidence: EvidenceView | None = None
    caveats: list[str] = Field(default_factory=list)
    experiment_id: str | None = None
    screen_id: str | None = None
    ledger_head: str = Field(description="`seq:hash` of the newest ledger row")
    next_step: str | None = None
    truncated: Truncated | None = None
    progress: Progress | None = None
    cost: Cost | None = None


class ErrorResult(View):
    """A refused or failed call in the shape of a result, for doors that print one."""

    status: Literal["error"] = "error"
    error: str = Field(description="The error's class name")
    summary: str


def call_text(tool: str, /, **arguments: Any) -> str:
    """Return a call of a tool as a reader, a model or Python can make it."""
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{tool}({', '.join(given)})"


def render(result: Result, table: str = "") -> str:
    """Return a result as short text: summary, table, caveats, how to go on."""
    parts = [result.summary, table, *(f"Caveat: {c}" for c in result.caveats)]
    if result.truncated:
        cut = result.truncated
        parts.append(f"Showing {cut.shown} of {cut.total}: {cut.how_to_get_more}")
    if result.next_step:
        parts.append(f"Next: {result.next_step}")
    name = result.experiment_id or result.screen_id
    # 24 characters of the head: the number of the row and enough of its hash to compare.
    parts.append(f"[{name + ', ' if name else ''}ledger {result.ledger_head[:24]}]")
    return "\n".join(part for part in parts if part)


def text_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return tab-separated lines, which a model reads at a quarter of JSON's price."""
    lines = ["\t".join(head), *("\t".join(_cell(v) for v in row) for row in rows)]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    # An interval.
    if isinstance(value, list):
        return "..".join(_cell(v) for v in value)
    return str(value)
