"""The next batch of a screen whose perturbations were measured, as two tools give it.

`record_measurements` chooses it when values are recorded, and keeps it beside them. `propose_batch`
with `aim="learned"` puts the same one on a plate: equal states of a screen give equal picks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lingshu_tools.calls.results import call_text
from lingshu_tools.errors import InputError
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.designs import label_of
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.ledger import Ledger, Screen
from lingshu_tools.planner import Plan, rank
from lingshu_tools.planner.batch import Batch, Pool, batch_of, pool_of
from lingshu_tools.planner.candidates import resolve_candidate
from lingshu_tools.planner.learning import (
    HIT_SHARE,
    Next,
    averaged,
    features_of,
    next_candidates,
    threshold,
    value_payloads,
)
from lingshu_tools.planner.proposals import proposal_pool, simulated_pool

if TYPE_CHECKING:
    from lingshu_tools.app import App

LEARNED = "learned"
"""The aim of a batch that follows what was measured."""
OTHER_SCREENS = 20
KNOWN_GENES = "known genes"


def seed_of(plan: Plan) -> int:
    """Return the seed of all choices for a plan: equal plans give equal ones in every home."""
    return int(plan.digest[-8:], 16)


def measured_pool(app: App, plan: Plan, screen: Screen, labels: Collection[str]) -> Pool:
    """Return the candidates of a screen, with all that were measured among them.

    Raises:
        InputError: nothing has a predicted score.
    """
    seed = seed_of(plan)
    if plan.control.checkpoint.effects is None:
        # Without stored effects the simulated scores are what is known.
        simulated = simulated_pool(
            rank(plan, app.ledger, candidates_of(app.ledger, screen.id)), seed
        )
        if simulated is not None:
            return simulated
        run = call_text("run_screen", screen_id=screen.id)
        message = f"nothing of {screen.id!r} is simulated yet to compare values with: {run} first"
        raise InputError(message)
    pool = proposal_pool(plan, seed)
    known = {label_of(c): c for c in pool.candidates} if pool else {}
    # A rule keeps its best combinations; any other of it may be measured too.
    missing = [
        resolve_candidate(plan.control.checkpoint, label)
        for label in sorted(labels)
        if label not in known
    ]
    if missing:
        pool = pool_of(plan.control, plan.objective, [*known.values(), *missing], seed)
    if pool is None:
        message = (
            f"no candidate of {screen.id!r} has a predicted score: no gene of the objective is "
            "left beside its own targets; plan another objective. Nothing was stored"
        )
        raise InputError(message)
    return pool


def next_of(
    ledger: Ledger,
    screen: Screen,
    plan: Plan,
    pool: Pool,
    payloads: Sequence[Mapping[str, Any]],
    n: int,
    known: set[str],
) -> Next:
    """Return what to measure next after the last of some recordings.

    Args:
        ledger: for the values of other screens.
        screen: the screen.
        plan: of the screen.
        pool: its candidates.
        payloads: its recordings, oldest first.
        n: how many to choose.
        known: labels to be tried early.
    """
    *before, last = payloads
    stored = [stored_effect(replace(plan.control, interventions=c)) for c in pool.candidates]
    nothing = np.zeros(len(plan.control.checkpoint.panel))
    # [candidates, genes], log1p_cp10k.
    effects = [nothing if effect is None else effect.posterior.mean for effect in stored]
    return next_candidates(
        pool,
        features_of(pool, np.stack(effects), _other_values(ledger, screen)),
        averaged(payloads),
        before,
        n=n,
        hit_at=threshold(last["hit_at"], last["better"]),
        known=known,
        seed=seed_of(plan) + len(before),
    )


def _other_values(ledger: Ledger, screen: Screen) -> list[dict[str, float]]:
    """Return the values of other screens, never of this one, by label."""
    result: list[dict[str, float]] = []
    for other in ledger.find_screens(limit=OTHER_SCREENS):
        payloads = value_payloads(ledger.measurements(other.id)) if other.id != screen.id else []
        if payloads and other.plan["context"] == screen.plan["context"]:
            result.append({label: m.value for label, m in averaged(payloads).items()})
    return result


@dataclass(frozen=True)
class Chosen:
    """Picks, and how they were chosen.

    Attributes:
        pool: the candidates.
        batch: of them.
        words: how many each strategy chose, as a phrase; empty where predictions alone decided.
    """

    pool: Pool
    batch: Batch
    words: str = ""


def learned_batch(
    app: App, plan: Plan, screen: Screen, payloads: Sequence[Mapping[str, Any]], n: int
) -> Chosen:
    """Return the batch that follows the values of a screen: that of `record_measurements`.

    Raises:
        InputError: no values are recorded.
    """
    if not payloads:
        other = call_text("propose_batch", screen_id=screen.id)
        message = (
            f'aim="{LEARNED}" follows measured values, and {screen.id!r} has none: '
            f"record_measurements stores them; {other} chooses by predictions"
        )
        raise InputError(message)
    pool = measured_pool(app, plan, screen, averaged(payloads))
    chosen: Mapping[str, Sequence[str]] = payloads[-1]["next"]
    if len(chosen) != n:
        # Another size than the one that is kept: chosen anew in the same state.
        known = {label for label, names in chosen.items() if KNOWN_GENES in names}
        chosen = next_of(app.ledger, screen, plan, pool, payloads, n, known).chosen
    labels = [label_of(c) for c in pool.candidates]
    # Best first by prediction: canonical JSON keeps no order of names.
    places = [i for i, label in enumerate(labels) if label in chosen]
    counts = Counter(chosen[labels[i]][0] for i in places)
    words = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return Chosen(pool, batch_of(pool, places), words)


def hits_sentence(plan: Plan, pool: Pool, last: Mapping[str, Any]) -> str:
    """Return what a hit is among recorded values, and among predictions.

    Args:
        plan: of the screen.
        pool: its candidates.
        last: the newest recording.
    """
    units, hit_at = last["units"], last["hit_at"]
    side = "below" if last["better"] == "lower" else "above"
    values = (
        f"at or {side} hit_at = {hit_at:g} {units}"
        if hit_at is not None
        else f"of the best {HIT_SHARE:.0%}, in {units}"
    )
    return (
        f"Recorded hits are values {values}; hit_chance and expected_hits are of predicted scores "
        f"of at least {pool.hit_at:.2f} {plan.objective.units}."
    )
