"""The held-out figure of a question: this perturbation in this context, else the nearest tier.

Read from a checkpoint's evidence (`lingshu_model.evaluate.evidence`). `CONDITION` is the figure of
the condition that is asked about; `TIER` is that of all held-out conditions of its support tier;
`BORROWED` is that of another tier. Evidence before format 3 has figures of sets of conditions only:
they are `TIER`, over the set that they name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lingshu_model.contracts import Checkpoint, Intervention, Tier

Level = Literal["this condition", "its tier", "another tier"]
CONDITION: Level = "this condition"
TIER: Level = "its tier"
BORROWED: Level = "another tier"
TIER_WORDS: Mapping[str, str] = {
    "seen": "seen",
    "seen_elsewhere": "carried",
    "combination_of_seen": "combination",
    "unseen": "unseen",
}
NEAREST: Mapping[str, tuple[str, ...]] = {
    "seen": ("seen_elsewhere",),
    "seen_elsewhere": ("unseen", "seen"),
    "combination_of_seen": ("seen", "unseen"),
    "unseen": ("seen_elsewhere", "combination_of_seen", "seen"),
}
"""Tiers whose figure is quoted where a tier has none, the next first."""
PREDICTOR_WORDS: Mapping[str, str] = {
    "control_mean": "no change",
    "replicate_reference": "training mean",
    "resampled_training_cells": "training cells, resampled",
    "context_mean": "mean of other perturbations",
    "perturbed_mean": "mean perturbed cell of other contexts",
    "related_mean_shift": "mean shift of related contexts",
    "nearest_context_shift": "nearest context",
    "additive": "sum of the parts",
}
REFERENCES = ("split_half_reference", "model_at_half")
"""Figures that are no predictions from training cells."""
Verdict = Literal["better than", "no better than", "worse than"]


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; None where undefined."""

    value: float | None
    interval: tuple[float, float] | None = None

    @property
    def beyond_zero(self) -> bool:
        """Whether the figure is above 0, interval and all."""
        low = self.interval[0] if self.interval else self.value
        return low is not None and low > 0


@dataclass(frozen=True)
class HeldOut:
    """A held-out figure.

    Attributes:
        level: what it is a figure of.
        tier: the support tier that was held out.
        of: the condition or the set of conditions.
        metric: name.
        model: the checkpoint's figure.
        simple: name of the best simple predictor; None where none was compared.
        best: its figure.
        against_simple: what the difference of the two says.
        n_cells: held-out perturbed cells; None where not recorded.
        n_contrasts: held-out conditions.
        n_folds: ways in which they were held out; None where not recorded.
        adapted: whether choices were steered by held-out figures of this condition.
    """

    level: Level
    tier: str
    of: str
    metric: str
    model: Figure
    simple: str | None
    best: Figure | None
    against_simple: Verdict | None
    n_cells: int | None
    n_contrasts: int | None
    n_folds: int | None
    adapted: bool = False

    @property
    def better_than_nothing(self) -> bool:
        """Whether the prediction was better than no change, interval and all."""
        return self.model.beyond_zero

    @property
    def holds(self) -> bool:
        """Whether it was better than no change and no simple predictor was better than it."""
        return self.better_than_nothing and self.against_simple in (None, "better than")


def held_out(
    checkpoint: Checkpoint, context: Mapping[str, str], interventions: Iterable[Intervention]
) -> HeldOut | None:
    """Return the figure of a condition, or the nearest there is; None where nothing was held out.

    Null labels have none.
    """
    interventions = tuple(interventions)
    # A null label has no effect that held-out cells could confirm.
    if any(i.kind == "sham" for i in interventions):
        return None
    tier = checkpoint.support(context, interventions).tier
    adapted = _adapted(checkpoint.evidence, context, interventions)
    return _of_condition(
        checkpoint.evidence, tier, context, interventions, adapted=adapted
    ) or of_tier(checkpoint, tier, adapted=adapted)


def of_tier(checkpoint: Checkpoint, tier: Tier, *, adapted: bool = False) -> HeldOut | None:
    """Return the figure over a support tier, or over the nearest one that was held out."""
    for place in (tier, *NEAREST[tier]):
        measured = _tiers(checkpoint.evidence).get(place)
        if measured:
            # `overall` is over all held-out conditions; not all evidence has it.
            head = measured.get("overall") or measured["headline"]
            level = TIER if place == tier else BORROWED
            certain = ((measured.get("certainty") or {}).get("calibration")) or {}
            n = certain.get("n_contrasts") or _set_size(measured, head["set"])
            folds = measured.get("n_folds")
            return _figure(level, place, head, n_cells=None, n=n, folds=folds, adapted=adapted)
    return None


def of_each(checkpoint: Checkpoint) -> list[tuple[dict[str, str], list[dict[str, Any]], HeldOut]]:
    """Return context, interventions and figure of every condition that has a figure."""
    return [
        (entry["context"], entry["interventions"], _of_entry(entry, name, tier))
        for tier, measured in _tiers(checkpoint.evidence).items()
        for name, entry in (measured.get("per_perturbation") or {}).items()
        # Entries of earlier formats name a condition without its context.
        if "context" in entry
    ]


def _tiers(evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tier for name, tier in (evidence.get("tiers") or {}).items() if tier}


def _of_condition(
    evidence: Mapping[str, Any],
    tier: str,
    context: Mapping[str, str],
    interventions: tuple[Intervention, ...],
    *,
    adapted: bool,
) -> HeldOut | None:
    wanted = _identity(i.model_dump(exclude_none=True) for i in interventions)
    # All cells of a seen condition may have been held out too: a harder question, and its own.
    for place in dict.fromkeys((tier, *(NEAREST[tier] if tier == "seen" else ()))):
        entries = (_tiers(evidence).get(place) or {}).get("per_perturbation") or {}
        for name, entry in entries.items():
            if entry.get("context") == dict(context) and (
                _identity(entry["interventions"]) == wanted
            ):
                return _of_entry(entry, name, place, adapted=adapted)
    return None


def _of_entry(entry: Mapping[str, Any], name: str, tier: str, *, adapted: bool = False) -> HeldOut:
    return _figure(
        CONDITION,
        tier,
        {**entry, "set": name},
        n_cells=entry["n_test_cells"],
        n=1,
        folds=entry["n_folds"],
        adapted=adapted,
    )


def _figure(
    level: Level,
    tier: str,
    head: Mapping[str, Any],
    *,
    n_cells: int | None,
    n: int | None,
    folds: int | None,
    adapted: bool,
) -> HeldOut:
    model, (simple, best) = _value(head["model"]), _best_simple(head)
    return HeldOut(
        level=level,
        tier=tier,
        of=str(head["set"]),
        metric=head["metric"],
        model=model,
        simple=simple,
        best=best,
        against_simple=_against(head, simple, model, best),
        n_cells=n_cells,
        n_contrasts=n,
        n_folds=folds,
        adapted=adapted,
    )


def _best_simple(head: Mapping[str, Any]) -> tuple[str | None, Figure | None]:
    best = head.get("best_simple")
    if best:
        return best["predictor"], _value(best)
    baselines = head.get("baselines") or {}
    # Evidence without `best_simple`: the largest known figure is taken.
    known = {
        name: figure
        for name, value in baselines.items()
        if name not in REFERENCES and (figure := _value(value)).value is not None
    }
    if not known:
        return None, None
    return max(known.items(), key=_size)


def _size(named: tuple[str, Figure]) -> float:
    return named[1].value or 0.0


def _against(
    head: Mapping[str, Any], simple: str | None, model: Figure, best: Figure | None
) -> Verdict | None:
    """Return what the paired difference says; without one, which figure is larger."""
    if simple is None or best is None or best.value is None:
        return None
    # An undefined figure is no better than any that is defined.
    if model.value is None:
        return "worse than"
    verdicts = head.get("verdicts") or {}
    said = (head.get("best_simple") or {}).get("verdict") or verdicts.get(simple)
    # Evidence of earlier formats has no paired comparison.
    if said is None:
        return "better than" if model.value > best.value else "worse than"
    known: dict[str, Verdict] = {"win": "better than", "loss": "worse than"}
    return known.get(said, "no better than")


def _adapted(
    evidence: Mapping[str, Any], context: Mapping[str, str], interventions: tuple[Intervention, ...]
) -> bool:
    targets = [i.target for i in interventions]
    listed = (evidence.get("data") or {}).get("adapted_to") or []
    return any(
        # Fields of a context that the entry leaves out are free.
        targets == [entry["target"]] and entry["context"].items() <= dict(context).items()
        for entry in listed
    )


def _set_size(measured: Mapping[str, Any], name: str) -> int | None:
    members = (measured.get("sets") or {}).get(name)
    return len(members) if members else measured.get("n_perturbations") if name == "all" else None


def _value(value: Mapping[str, Any] | float | None) -> Figure:
    if not isinstance(value, Mapping):
        return Figure(value)
    interval = value.get("interval")
    span = (interval[0], interval[1]) if interval and None not in interval else None
    return Figure(value.get("value"), span)


def _identity(interventions: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    # Independent of order; no dose and dose 0 are the same.
    return sorted((i["kind"], i["target"], i.get("dose") or 0.0) for i in interventions)
