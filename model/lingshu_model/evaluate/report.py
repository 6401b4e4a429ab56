"""One evaluation from beginning to end: sample, compare, and hold the results.

Knows nothing of how they are written down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lingshu_model.evaluate.arms import ArmStore, Interventions, shams, single_interventions
from lingshu_model.evaluate.changes import Change, Counts, log1p_cp10k, paired_change
from lingshu_model.evaluate.copies import CopyCheck, copy_check
from lingshu_model.evaluate.distribution import DistributionError, compare_distributions
from lingshu_model.evaluate.effects import EffectTable, compare_effects
from lingshu_model.evaluate.observed import CONTROL, Observed
from lingshu_model.evaluate.pairing import PairingGain, pairing_gain, screen_score
from lingshu_model.evaluate.scores import ScoreTable, score_predictors

Each = Callable[[], object]
PAIRING_TARGETS = ("STAT1", "SMAD4", "CD86")
PAIRING_STEPS = (3, 8, 32)
APART = 1_000_003
"""Added to a seed for cells that are to share no stream with it."""


@dataclass(frozen=True)
class Report:
    """What one evaluation found.

    Attributes:
        seeds: sampling seeds.
        effects: changes of the model and its baselines.
        distributions: errors by condition, the control included.
        copies: one check per seed.
        shams: the changes of the sham interventions, first seed.
        scores: the public challenges' metrics.
    """

    seeds: Sequence[int]
    effects: EffectTable
    distributions: dict[str, DistributionError]
    copies: list[CopyCheck]
    shams: list[Change]
    scores: ScoreTable


def n_arms(store: ArmStore, observed: Observed, seeds: Sequence[int]) -> int:
    """Return how many arms `make_report` asks for."""
    return len(seeds) * (1 + len(observed.perturbations)) + len(shams(store.checkpoint))


def make_report(store: ArmStore, observed: Observed, seeds: Sequence[int], each: Each) -> Report:
    """Return the evaluation of a checkpoint on held-out cells.

    Args:
        store: where the model's cells come from.
        observed: the real cells.
        seeds: sampling seeds; the statistics have a fixed seed of their own.
        each: called after every arm.
    """
    sampled = [_sample(store, observed.perturbations, seed, each) for seed in seeds]
    control = log1p_cp10k(sampled[0][CONTROL])
    sham_changes: list[Change] = []
    for sham in shams(store.checkpoint):
        sham_changes.append(paired_change(log1p_cp10k(store.counts(sham, seeds[0])), control))
        each()
    generator = np.random.default_rng(0)
    return Report(
        seeds=seeds,
        effects=compare_effects(observed, sampled, generator),
        distributions=compare_distributions(observed, sampled, generator),
        copies=copy_check(observed, sampled, generator),
        shams=sham_changes,
        scores=score_predictors(observed, sampled, np.random.default_rng(0)),
    )


def conditions(store: ArmStore, perturbations: Sequence[str]) -> dict[str, Interventions]:
    """Return the interventions of the control and of each perturbation.

    Raises:
        ValueError: a perturbation the checkpoint was not trained on.
    """
    known = single_interventions(store.checkpoint)
    unknown = [name for name in perturbations if name not in known]
    if unknown:
        message = (
            f"{store.checkpoint.name} was not trained on {', '.join(unknown[:5])}; "
            f"it knows {', '.join(sorted(known)[:8])} …"
        )
        raise ValueError(message)
    return {CONTROL: (), **{name: known[name] for name in perturbations}}


def _sample(
    store: ArmStore, perturbations: Sequence[str], seed: int, each: Each
) -> dict[str, Counts]:
    arms: dict[str, Counts] = {}
    for name, interventions in conditions(store, perturbations).items():
        arms[name] = store.counts(interventions, seed)
        each()
    return arms


def n_pairing_arms() -> int:
    """Return how many arms `make_pairing` asks for."""
    return len(PAIRING_STEPS) * (2 + len(PAIRING_TARGETS))


def make_pairing(
    store: ArmStore, genes: Sequence[str], seed: int, each: Each
) -> dict[int, dict[str, PairingGain]]:
    """Return the gain of pairing by number of steps and knock-out."""
    arms = conditions(store, PAIRING_TARGETS)
    gains: dict[int, dict[str, PairingGain]] = {}
    for steps in PAIRING_STEPS:
        cells: dict[str, Counts] = {}
        for name, interventions in arms.items():
            cells[name] = store.counts(interventions, seed, steps=steps)
            each()
        apart = store.counts((), seed + APART, steps=steps)
        each()
        gains[steps] = {
            name: _gain(cells[name], cells[CONTROL], apart, genes, name) for name in PAIRING_TARGETS
        }
    return gains


def _gain(
    perturbed: Counts, paired: Counts, apart: Counts, genes: Sequence[str], name: str
) -> PairingGain:
    arms = (perturbed, paired, apart)
    first, second, third = (screen_score(counts, genes, name) for counts in arms)
    return pairing_gain(
        *(log1p_cp10k(counts) for counts in arms),
        scores=(first, second, third),
        generator=np.random.default_rng(0),
    )
