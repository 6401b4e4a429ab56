"""A paragraph on methods for a paper, every number of it taken from the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lingshu_model.contracts import Tier
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.designs import Design, context_label
from lingshu_tools.experiments.lookup import is_screen, locate_screen
from lingshu_tools.ledger import Ledger, Outcome
from lingshu_tools.planner import Plan, plan_of
from lingshu_tools.report.evidence import design_sentence, screen_sentence, tier_sentence
from lingshu_tools.report.experiment_views import shown

if TYPE_CHECKING:
    from lingshu_tools.app import App

SIMULATED = "These are predictions of a model; no cell was measured."


def methods_paragraph(app: App, name: str) -> str:
    """Return how an experiment or a screen was made, in words fit for a paper.

    Raises:
        NotFoundError: no such id.
        MissingCheckpointError: its checkpoint is not here.
    """
    if is_screen(name):
        return _of_screen(app, name)
    record = shown(app, name)
    state = record.outcome.kind if record.outcome else record.ledger.status(name)
    what = f"{record.design.label} in {record.design.place}"
    sentences = [
        f"Experiment {name} simulated {what}.",
        _sampling(record.design),
        *([f"Its state is {state}."] if state != "succeeded" else []),
        *_computed(record.ledger, [record.outcome] if record.outcome else []),
        design_sentence(record.design),
        *_replays(record.ledger, [name]),
        _recorded(record.ledger),
    ]
    return " ".join(sentences)


def _of_screen(app: App, name: str) -> str:
    ledger, screen = locate_screen(app, name)
    plan = plan_of(app, screen.plan)
    # Of a candidate that was begun again only the newest experiment counts.
    ids = [child.id for child in candidates_of(ledger, name)]
    outcomes = ledger.outcomes(ids)
    succeeded = [o for o in outcomes.values() if o.kind == "succeeded"]
    tiers: Counter[Tier] = Counter(design.support.tier for design in plan.designs)
    sentences = [
        f"Screen {name} ranked {len(plan.candidates)} perturbations in "
        f"{context_label(plan.control.context)} by how far they {plan.wanted.words} (score in "
        f"{plan.objective.units}); {_simulated(plan, len(succeeded))}.",
        _sampling(plan.control),
        "All candidates share one control arm.",
        *_computed(ledger, succeeded),
        *_evidence(plan, sorted(tiers)),
        *_replays(ledger, ids),
        _recorded(ledger),
    ]
    return " ".join(sentences)


def _simulated(plan: Plan, n_succeeded: int) -> str:
    if plan.race is None:
        return f"{n_succeeded} were simulated"
    return (
        f"of {plan.n_candidates:,} scored in closed form; cells were spent in {n_succeeded} "
        "batches, where the best were not settled yet"
    )


def _evidence(plan: Plan, tiers: Sequence[Tier]) -> list[str]:
    checkpoint = plan.control.checkpoint
    figures = screen_sentence(plan.held_out, checkpoint, tiers[0])
    pooled = [tier_sentence(checkpoint, tier) for tier in tiers]
    # The same sentence may be given for the candidates and for a tier.
    return list(dict.fromkeys([figures, *pooled]))


def _sampling(design: Design) -> str:
    checkpoint = design.checkpoint
    if design.cells is not None and design.tool != "perturb_cells":
        what = "scored under trained contexts" if design.tool == "score_cells" else "completed"
        return (
            f"{design.n_cells:,} cells of the file {design.cells['file']} "
            f"({design.cells['file_digest']}) were {what} (seed {design.seed}) with checkpoint "
            f"{checkpoint.name} ({checkpoint.digest}; {len(checkpoint.panel):,} genes)."
        )
    if design.cells is not None:
        return (
            f"{design.n_cells:,} cells of the file {design.cells['file']} "
            f"({design.cells['file_digest']}) were taken as control, and the effect that was "
            f"carried to them from trained contexts was delivered to them (seed {design.seed}) "
            f"with checkpoint {checkpoint.name} ({checkpoint.digest}; {len(checkpoint.panel):,} "
            "genes)."
        )
    paired = "for each of two paired arms" if len(design.arms) == 2 else "in one arm"
    # The control of a screen stands for the sampling of all its candidates.
    if not design.interventions and design.tool == "perturb_cells":
        paired = "for each candidate and for the control, paired by their random streams"
    pairs = [f"{gene} to {count}" for gene, count in design.clamp.items()]
    clamped = f", counts set beforehand: {', '.join(pairs)}" if pairs else ""
    return (
        f"{design.n_cells:,} cells were sampled {paired} (seed {design.seed}, first cell "
        f"{design.first_cell}, {design.steps} sampling steps, guidance {design.guidance:g}"
        f"{clamped}) from "
        f"checkpoint {checkpoint.name} ({checkpoint.digest}; {len(checkpoint.panel):,} genes)."
    )


def _computed(ledger: Ledger, outcomes: Sequence[Outcome]) -> list[str]:
    digests = sorted({o.environment_digest for o in outcomes if o.environment_digest})
    if not digests:
        return []
    # One sentence for each environment: a screen may have run under several.
    return [f"Computed with {_versions(ledger.environment(digest))}." for digest in digests]


def _versions(environment: dict[str, Any]) -> str:
    profile, versions = environment.get("profile", {}), environment.get("versions", {})
    parts = [f"lingshu-tools {versions['lingshu_tools']}"] if "lingshu_tools" in versions else []
    parts += [f"torch {profile['torch']}"] if "torch" in profile else []
    parts += [f"{profile['dtype']} on {profile['device']}"] if "dtype" in profile else []
    return ", ".join(parts) or "an environment without versions"


def _replays(ledger: Ledger, ids: Sequence[str]) -> list[str]:
    verdicts = Counter(v.verdict for v in ledger.verifications_of(ids))
    if not verdicts:
        return ["No replay is recorded."]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    return [f"Recorded replays: {counts}."]


def _recorded(ledger: Ledger) -> str:
    return f"The record is in the hash-chained ledger with head {ledger.head()}. {SIMULATED}"
