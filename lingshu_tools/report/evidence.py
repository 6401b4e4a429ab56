"""What a checkpoint may be believed: support and held-out evidence, as views and as sentences.

A figure is never quoted without the trivial baselines' beside it, and where there is none, or the
checkpoint does not beat them, the sentence says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lingshu_model.contracts import Checkpoint, Support
from lingshu_tools.calls.results import BaselineView, Cost, EvidenceView, SupportView

TRIVIAL = ("mean_shift", "control_mean")
REFERENCES = ("replicate_reference", "split_half_reference")
NO_EVIDENCE = (
    "No held-out figure exists for {tier} perturbations of this checkpoint, so nothing but the "
    "training supports this prediction."
)


def support_view(support: Support) -> SupportView:
    """Return the view of one condition's support."""
    return SupportView(tier=support.tier, n_cells=support.n_cells, note=support.note)


def evidence_view(checkpoint: Checkpoint, tier: str) -> EvidenceView | None:
    """Return the held-out figures of a support tier, or None where none were measured."""
    measured = (checkpoint.evidence.get("tiers") or {}).get(tier)
    if not measured:
        return None
    headline = measured["headline"]
    baselines = headline.get("baselines") or {}
    return EvidenceView(
        tier=tier,  # type: ignore[arg-type]
        metric=headline["metric"],
        set=headline["set"],
        model=_figure(headline["model"]),
        baselines={name: _figure(value) for name, value in baselines.items()},
        verdict=str(headline.get("verdict", "not compared")),
        beats_trivial_baseline=headline.get("beats_trivial_baseline"),
    )


def evidence_sentence(checkpoint: Checkpoint, tier: str) -> str:
    """Return one sentence on how far predictions of this tier held up on data held out."""
    view = evidence_view(checkpoint, tier)
    if view is None:
        return NO_EVIDENCE.format(tier=tier.replace("_", " "))
    beaten = {n: b for n, b in view.baselines.items() if n in TRIVIAL}
    baselines = ", ".join(f"{n.replace('_', ' ')} {_shown(b)}" for n, b in beaten.items())
    figure = (
        f"{view.metric.replace('_', ' ')} {_shown(view.model)} over {view.set}, "
        f"against {baselines or 'no baseline'}"
    )
    figure = f"{figure}{_better(view)}"
    if view.beats_trivial_baseline:
        return f"On held-out cells of {tier.replace('_', ' ')} perturbations: {figure}."
    return f"On held-out cells the checkpoint does not beat the trivial baselines: {figure}."


def _better(view: EvidenceView) -> str:
    """Name what beats the model without being trivial; the reference is no predictor."""
    model = view.model.value
    better = [
        f"{name.replace('_', ' ')} {_shown(baseline)}"
        for name, baseline in view.baselines.items()
        if name not in (*TRIVIAL, *REFERENCES)
        and model is not None
        and baseline.value is not None
        and baseline.value > model
    ]
    return f"; better than the model: {', '.join(better)}" if better else ""


def cost_of(checkpoint: Checkpoint, n_cells: int) -> Cost:
    """Return what sampling `n_cells` would take, and what that figure is based on."""
    cost = checkpoint.evidence.get("cost") or checkpoint.config.get("cost") or {}
    per_cell = cost.get("seconds_per_cell")
    if per_cell is None:
        return Cost(n_cells=n_cells, seconds=None, basis="no measured cost for this checkpoint")
    machine = cost.get("machine", "an unnamed machine")
    basis = f"{per_cell:.3g} s per cell, measured on {machine}; this machine may differ"
    return Cost(n_cells=n_cells, seconds=n_cells * per_cell, basis=basis)


def cost_sentence(cost: Cost) -> str:
    """Return a cost in words."""
    time = "an unknown time" if cost.seconds is None else f"about {cost.seconds:.2g} s"
    return f"{cost.n_cells:,} cells to sample, {time} ({cost.basis})"


def _figure(value: Mapping[str, Any] | float | None) -> BaselineView:
    if not isinstance(value, Mapping):
        return BaselineView(value=value)
    interval: Sequence[float] | None = value.get("interval")
    return BaselineView(value=value.get("value"), interval=list(interval) if interval else None)


def _shown(figure: BaselineView) -> str:
    if figure.value is None:
        return "undefined"
    span = f" [{figure.interval[0]:.2f}, {figure.interval[1]:.2f}]" if figure.interval else ""
    return f"{figure.value:.2f}{span}"
