"""Rows of contrasts in one context, on synthetic cells whose truth is known."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from synthetic import CONTROL, GENES, SIZES, Truth, study, without_effect

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_model.evaluate import Draws, Report, Source, Study, evaluate, figures
from lingshu_model.evaluate.contrasts import strengths
from lingshu_model.evaluate.evidence import evidence
from lingshu_model.evaluate.figures import Figure, named_sets
from lingshu_model.evaluate.metrics.agreement import PEARSON
from lingshu_model.evaluate.metrics.changes import Change, pearson
from lingshu_model.evaluate.metrics.matrices import csr
from lingshu_model.evaluate.predictors import Training
from lingshu_model.evaluate.rows import MODEL, MONTE_CARLO, NOISE_CEILING
from lingshu_model.evaluate.study import tier_of
from lingshu_model.train.data.cells import Condition

DRAWS = Draws(bootstrap=200, monte_carlo=100)
Cells = Mapping[str, np.ndarray]


def report(sampled: list[Cells], real: Study | None = None, **further) -> Report:
    arms = [{name: csr(cells) for name, cells in each.items()} for each in sampled]
    model = Source([*range(len(arms))], arms, paired=True)
    return evaluate(real or Truth().study(), {MODEL: model}, DRAWS, further, cells=False)


def figure(actual: Report, predictor: str, metric: str = PEARSON, name: str = "all") -> Figure:
    every = figures(actual.rows, actual.sets)
    (mine,) = [
        f for f in every if (f.row.metric, f.row.predictor, f.row.set) == (metric, predictor, name)
    ]
    return mine


def of_contrast(actual: Report, name: str, predictor: str) -> float:
    values = [
        row.value
        for row in actual.rows
        if (row.metric, row.set, row.predictor) == (PEARSON, name, predictor)
    ]
    return float(np.mean(values))


@pytest.fixture(scope="module")
def honest() -> Report:
    """A model that draws from the truth."""
    truth = Truth()
    return report([truth.arms(600, 5), truth.arms(600, 6)])


def test_strength_ranks_effects_and_is_about_one_for_none():
    result = strengths(Training(Truth().study().populations[0]), Draws())
    assert result["strong"] > result["middling"] > result["weak"] > 0
    assert result["nothing"] == pytest.approx(1, abs=0.35)


def test_the_strongest_are_chosen_among_perturbations_with_fifty_held_out_cells():
    truth = Truth()
    test = truth.arms(200, 2)
    test["strong"] = test["strong"][:49]
    few = study(truth.arms(300, 1), test)
    sets = {s.name: s for s in named_sets(few, {("cells", name): v for name, v in SIZES.items()})}
    units = {unit for _, unit in sets["four strongest"].units}
    assert units == {"middling", "weak", "nothing"}
    assert len(sets["all"].units) == len(SIZES) - 1


def test_the_noise_ceiling_is_what_the_truth_itself_reaches(honest: Report):
    truth = Truth()
    observed = {each.name: each.observed for each in honest.held_out}
    for name in ("strong", "middling"):
        reached = float(pearson(truth.change(name), observed[name]))
        assert of_contrast(honest, name, NOISE_CEILING) == pytest.approx(reached, abs=0.05)


def test_a_model_that_draws_from_the_truth_reaches_the_noise_ceiling(honest: Report):
    assert (
        of_contrast(honest, "strong", MODEL) > of_contrast(honest, "strong", NOISE_CEILING) - 0.03
    )
    assert figure(honest, "control_mean").verdict == "win"
    assert figure(honest, "mean_shift").verdict == "win"


def test_a_model_that_draws_from_the_truth_has_the_real_magnitude(honest: Report):
    assert figure(honest, MODEL, "magnitude_ratio").row.value == pytest.approx(1, abs=0.1)
    assert figure(honest, "control_mean", "magnitude_ratio").row.value == 0


def test_a_halved_effect_has_half_the_magnitude_and_the_same_pearson():
    halved = report([Truth().arms(2000, 5, scale=0.5)])
    assert figure(halved, MODEL, "magnitude_ratio").row.value == pytest.approx(0.5, abs=0.06)
    assert (
        of_contrast(halved, "strong", MODEL) > of_contrast(halved, "strong", NOISE_CEILING) - 0.06
    )


def test_no_change_is_scored_zero_and_costs_the_whole_squared_change(honest: Report):
    assert figure(honest, "control_mean").row.value == 0
    assert not figure(honest, "control_mean").row.draws.any()
    expected = np.mean([(each.observed**2).mean() for each in honest.held_out])
    assert figure(honest, "control_mean", "mse_of_change").row.value == pytest.approx(expected)


def test_a_model_that_ignores_the_perturbation_wins_nothing():
    result = report([without_effect(Truth().arms(600, 5))])
    assert figure(result, "control_mean").verdict != "win"
    assert figure(result, "replicate_reference").verdict == "loss"
    assert figure(result, MODEL, "magnitude_ratio").row.value < 0.3


def test_a_model_equal_to_a_predictor_ties_with_it():
    truth = Truth()
    result = report([truth.arms(300, 1)])
    less = figure(result, "replicate_reference").difference
    assert less is not None
    assert less.value == pytest.approx(0, abs=1e-12)
    assert figure(result, "replicate_reference").verdict == "tie"


def test_seeds_are_scored_each_and_averaged(honest: Report):
    seeds = figure(honest, MODEL).by_seed
    assert seeds[0] != seeds[1]
    assert figure(honest, MODEL).row.value == pytest.approx(np.mean([*seeds.values()]))
    assert not figure(honest, "mean_shift").by_seed


def test_monte_carlo_error_falls_with_the_cells_sampled():
    spread = []
    for n in (100, 900):
        rows = report([Truth().arms(n, 5)]).rows
        (mine,) = [
            r.draws
            for r in rows
            if (r.metric, r.set, r.predictor) == (PEARSON, "strong", MONTE_CARLO)
        ]
        spread.append(mine.std())
    # By a factor of 3 where Pearson is far from 1, of up to 9 where it is near.
    assert 2 < spread[0] / spread[1] < 12


def test_a_combination_is_predicted_by_the_sum_of_its_parts():
    truth = Truth()
    truth.folds["strong+weak"] = truth.folds["strong"] + truth.folds["weak"]
    train = truth.arms(300, 1)
    test = truth.arms(200, 2) | {"strong+weak": truth.cells("strong+weak", 200, 9)}
    result = evaluate(study(train, test), {}, DRAWS, cells=False)
    (contrast,) = [each for each in result.held_out if each.name == "strong+weak"]
    assert contrast.tier == "combination_of_seen"
    assert contrast.targets == "strong+weak"
    assert of_contrast(result, "strong+weak", "additive") > 0.9
    tier = evidence(result, None, {})["tiers"]["combination_of_seen"]
    assert tier["headline"]["set"] == "strong+weak"
    assert tier["headline"]["model"] is None
    assert tier["headline"]["baselines"]["additive"]["value"] > 0.9
    assert tier["residuals"] is None


def test_what_was_never_trained_on_is_a_tier_of_its_own():
    truth = Truth()
    train = {name: cells for name, cells in truth.arms(300, 1).items() if name != "strong"}
    result = evaluate(study(train, truth.arms(200, 2)), {}, DRAWS, cells=False)
    (contrast,) = [each for each in result.held_out if each.name == "strong"]
    assert contrast.tier == "unseen"
    names = {row.predictor for row in result.rows if row.set == "strong"}
    assert {"control_mean", "mean_shift"} <= names
    assert not names & {"replicate_reference", "resampled_training_cells"}
    tiers = evidence(result, None, {})["tiers"]
    assert sorted(tiers["unseen"]["per_perturbation"]) == ["strong"]
    assert sorted(tiers["seen"]["per_perturbation"]) == ["middling", "nothing", "weak"]


def test_a_further_predictor_is_a_row_of_every_table():
    truth = Truth()

    def oracle(_training: Training, contrast) -> Change:
        value = truth.change(contrast.name)
        return Change(value, 0 * value)

    result = report([without_effect(truth.arms(200, 5))], oracle=oracle)
    assert figure(result, "oracle").verdict == "loss"
    assert of_contrast(result, "strong", "oracle") > 0.9


def test_folds_are_merged_into_one_report(honest: Report):
    other = report([Truth().arms(300, 7)])
    rows = [row.__class__(**{**row.__dict__, "fold": "second"}) for row in other.rows]
    held_out = [each.__class__(**{**each.__dict__, "fold": "second"}) for each in other.held_out]
    both = honest.merged(Report(rows, held_out, other.sets))
    result = figure(both, MODEL)
    assert result.row.fold == "2 folds"
    expected = np.mean([figure(each, MODEL).row.value for each in (honest, other)])
    assert result.row.value == pytest.approx(expected)
    tier = evidence(both, None, {})["tiers"]["seen"]
    assert tier["n_folds"] == 2
    assert tier["per_perturbation"]["weak"]["n_folds"] == 2
    assert tier["per_perturbation"]["weak"]["n_test_cells"] == 400
    assert tier["residuals"]["folds"] == ["test"] * 4 + ["second"] * 4


def test_the_evidence_of_a_perturbation_names_its_best_simple_predictor(honest: Report):
    tier = evidence(honest, None, {})["tiers"]["seen"]
    assert sorted(tier["per_perturbation"]) == sorted({*SIZES} - {CONTROL})
    strong = tier["per_perturbation"]["strong"]
    simple = {n: v["value"] for n, v in strong["baselines"].items() if n != "split_half_reference"}
    assert strong["best_simple"]["predictor"] == max(simple, key=lambda name: simple[name])
    assert strong["best_simple"]["verdict"] in ("win", "tie", "loss")
    assert strong["interventions"] == [{"kind": "knockout", "target": "strong"}]
    assert (strong["n_test_cells"], strong["n_train_cells"]) == (200, 300)
    assert strong["noise_ceiling"] == pytest.approx(of_contrast(honest, "strong", NOISE_CEILING))
    assert strong["magnitude_ratio"] == pytest.approx(1, abs=0.1)
    assert tier["residuals"]["genes"] == GENES
    index = tier["residuals"]["names"].index("strong")
    residual = np.array(tier["residuals"]["values"][index])
    predicted = np.array(tier["residuals"]["predicted"][index])
    (observed,) = [each.observed for each in honest.held_out if each.name == "strong"]
    np.testing.assert_allclose(predicted - residual, observed, atol=1.1e-4)


@pytest.mark.parametrize(
    ("context", "targets", "tier"),
    [
        ("here", "A", "seen"),
        ("here", "B", "seen"),
        ("there", "A", "seen_elsewhere"),
        ("here", "A+B", "combination_of_seen"),
        ("there", "A+B", "unseen"),
        ("here", "A+C", "unseen"),
        ("here", "C", "unseen"),
        ("here", "D+E", "seen"),
        ("there", "D+E", "seen_elsewhere"),
    ],
)
def test_tiers_are_those_that_a_checkpoint_reports(context: str, targets: str, tier: str):
    def about(context: str, targets: str) -> Condition:
        parts = targets.split("+") if targets else []
        finished = tuple(Intervention(kind="knockout", target=part) for part in parts)
        return Condition((("line", context),), finished)

    trained = [about("here", t) for t in ("", "A", "B", "D+E")] + [about("there", "")]
    seen = [
        {
            "context": dict(c.context),
            "interventions": [i.model_dump() for i in c.interventions],
            "n_cells": 5,
        }
        for c in trained
    ]
    contexts = [{"context": {"line": name}} for name in ("here", "there")]
    checkpoint = Checkpoint("x", Path(), "", {"seen": seen, "contexts": contexts}, {})
    wanted = about(context, targets)
    assert tier_of(wanted, {*trained}) == tier
    assert checkpoint.support(dict(wanted.context), wanted.interventions).tier == tier
