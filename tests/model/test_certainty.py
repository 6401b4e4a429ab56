"""Errors by size, calibration and null labels in the evidence that training writes."""

from dataclasses import replace

import numpy as np
import pytest
from made_training import GENES, training_cells

from lingshu_model.contracts import Intervention
from lingshu_model.contracts.error_model import DEFAULT, ErrorModel
from lingshu_model.contracts.posterior import Posterior
from lingshu_model.evaluate.evidence import evidence as written_evidence
from lingshu_model.evaluate.evidence import extended
from lingshu_model.evaluate.report import Report
from lingshu_model.evaluate.rows import HeldOut
from lingshu_model.finishing import evidence, null_labels
from lingshu_model.finishing.certainty import certainty, tally
from lingshu_model.finishing.error_model import Judged, fitted, left_out

HEAD = {"checkpoint_digest": "d", "data": {}, "settings": {"n_cells": 1, "steps": 1}, "cost": {}}


def judged(
    n: int, *, error: float, noise: float, sd: float, genes: int = 400, seed: int = 0
) -> list[Judged]:
    """Contrasts whose predictions are off by `error`, seen through `noise`, with posterior `sd`."""
    rng = np.random.default_rng(seed)
    tallies: list[Judged] = []
    for i in range(n):
        truth = rng.normal(0, 0.5, genes)
        mean = truth + rng.normal(0, error, genes)
        seen = truth + rng.normal(0, noise, genes)
        names = [f"G{g}" for g in range(genes)]
        seen[i] = 50.0  # the target's own gene
        held_out = HeldOut(
            f"G{i}", "seen", "cells", f"fold {i % 2}", {"line": "a"},
            [{"kind": "knockout", "target": f"G{i}"}], (50, 50, 50), names,
            mean, seen, np.full(genes, noise**2),
        )  # fmt: skip
        tallies.append(tally(held_out, Posterior.normal(mean, np.full(genes, sd))))
    return tallies


def test_the_error_of_each_size_is_free_of_the_noise_of_held_out_cells():
    figures = certainty(judged(8, error=0.1, noise=0.3, sd=0.1), "seen")
    assert figures is not None
    rows = [row for row in figures["error_by_size"] if row["n"] > 400]
    assert len(rows) >= 3
    for row in rows:
        assert row["rms"] == pytest.approx(np.hypot(0.1, 0.3), rel=0.1)
        assert row["error"] == pytest.approx(0.1, abs=0.06)
        assert (row["n_contrasts"], row["n_folds"]) == (8, 2)
    assert sum(row["n"] for row in figures["error_by_size"]) == 8 * 399  # its target is left out


def test_coverage_and_wrong_signs_hold_for_a_right_posterior_and_not_for_a_narrow_one():
    right = certainty(judged(8, error=0.1, noise=0.3, sd=0.1), "seen")["calibration"]
    assert right["covered"] == pytest.approx(0.95, abs=0.02)
    assert right["slope_of_called"] == pytest.approx(1.0, abs=0.1)
    assert right["wrong_signs"] <= 3 * right["expected_wrong_signs"] + 20
    wide = certainty(judged(8, error=0.6, noise=0.1, sd=0.1), "seen")["calibration"]
    assert wide["covered_by_posterior"] < 0.5
    assert wide["covered"] > 0.8
    assert wide["n_called"] == 0


def test_noise_alone_is_not_counted_as_wrong_signs():
    noisy = certainty(judged(20, error=0.05, noise=1.0, sd=0.05), "seen")["calibration"]
    assert noisy["n_called"] > 5000
    assert noisy["wrong_signs"] < 0.05 * noisy["n_called"]


def replicated(
    n: int, *, between: float, square: float, sd: float = 0.02, seed: int = 1
) -> list[Judged]:
    """Contrasts in a new experiment, which differs by gene variance and by size."""
    rng = np.random.default_rng(seed)
    genes, result = 2000, []
    for i in range(n):
        mean = rng.normal(0, 0.1, genes) * rng.choice([1, 10], genes, p=(0.8, 0.2))
        variance = rng.gamma(2.0, 0.2, genes)
        spread = sd**2 + between * variance + square * mean**2
        truth = mean + rng.normal(0, np.sqrt(spread))
        noise = rng.gamma(4.0, 0.0005, genes)
        seen = truth + rng.normal(0, np.sqrt(noise))
        posterior = Posterior.normal(mean, np.full(genes, sd))
        result.append(
            Judged((f"cells {i}", "x", "seen"), "f", 60, posterior, seen, noise, variance)
        )
    return result


@pytest.mark.parametrize(
    ("between", "square"), [(0.0, 0.0), (0.02, 0.0), (0.0, 0.15), (0.02, 0.15), (0.05, 1.0)]
)
def test_the_error_of_a_new_experiment_is_estimated(between: float, square: float):
    model = fitted(replicated(12, between=between, square=square))
    assert model.n_contrasts == 12
    assert model.between == pytest.approx(between, abs=0.002 + 0.1 * between)
    assert model.square == pytest.approx(square, abs=0.005 + 0.1 * square)
    assert 0 <= model.posterior <= 1


@pytest.mark.parametrize(("between", "square"), [(0.02, 0.0), (0.0, 0.15), (0.02, 0.3)])
def test_intervals_hold_95_percent_at_every_size_by_the_factors_of_other_contrasts(
    between: float, square: float
):
    figures = certainty(replicated(9, between=between, square=square), "seen")
    for row in figures["error_by_size"]:
        if row["n"] > 300:
            assert row["covered"] == pytest.approx(0.95, abs=0.025)
    largest = figures["error_by_size"][-1]
    assert largest["covered_by_posterior"] < 0.7
    assert figures["error_model"]["square"] == pytest.approx(square, abs=0.03)


def test_signs_that_a_new_experiment_turns_are_not_called():
    # Every size is off by as much as it is: no sign is certain, whatever the posterior sd.
    figures = certainty(replicated(9, between=0.0, square=1.0), "seen")["calibration"]
    assert figures["n_called"] == 0
    tight = certainty(replicated(9, between=0.0, square=0.05), "seen")["calibration"]
    assert tight["n_called"] > 1000
    off = abs(tight["seen_wrong"] - tight["seen_wrong_expected"])
    assert off <= 3 * tight["seen_wrong_standard_error"] + 10
    assert tight["seen_wrong"] > 20


def test_no_contrast_is_judged_by_factors_that_it_had_part_in():
    quiet = replicated(6, between=0.0, square=0.0)
    loud = replicated(1, between=0.0, square=4.0, seed=7)[0]
    loud = replace(loud, contrast=("cells x", "x", "seen"))
    models = {j.contrast: model for j, model in left_out([*quiet, loud])}
    assert models[loud.contrast].square < 0.05
    assert min(m.square for c, m in models.items() if c != loud.contrast) > 0.2


def test_below_three_contrasts_the_width_is_that_of_other_data():
    two = replicated(2, between=0.05, square=0.5)
    assert fitted(two) is None
    assert {model for _, model in left_out(two)} == {DEFAULT}
    figures = certainty(two, "seen")
    assert figures["error_model"] is None
    assert figures["calibration"]["covered_standard_error"] is None


def test_genes_that_hardly_any_held_out_cell_has_are_not_judged():
    held_out = HeldOut(
        "x", "seen", "cells", "f", {"line": "a"}, [{"kind": "knockout", "target": "G0"}],
        (40, 60, 50), ["G0", "G1", "G2", "G3"], None, np.array([1.0, 0.1, 0.2, np.nan]),
        np.full(4, 0.01),
    )  # fmt: skip
    posterior = Posterior.normal(np.full(4, 0.1), np.full(4, 0.1))
    judged = tally(held_out, posterior, np.ones(4), np.array([50, 4, 5, 50]))
    assert judged.observed.tolist() == [0.2]
    assert (judged.rare, judged.cells) == (1, 40)


def test_a_wider_distribution_makes_no_sign_more_certain():
    rng = np.random.default_rng(3)
    mean, sd = rng.normal(0, 0.3, 500), rng.gamma(2.0, 0.05, 500)
    stored = Posterior(mean, sd, np.minimum(Posterior.normal(mean, sd).lfsr + 0.01, 1.0))
    variance = np.full(500, 0.4)
    before = stored.lfsr
    for square in (0.0, 0.1, 0.5, 2.0):
        wider = ErrorModel(1.0, 0.01, square, 5, 5).widened(stored, variance)
        assert (wider.lfsr >= before).all()
        assert (wider.sd >= stored.sd).all()
        # A called sign is one that the interval at 90 % does not leave.
        assert (np.abs(mean) >= 1.644 * wider.sd)[wider.lfsr <= 0.05].all()
        before = wider.lfsr
    nothing = Posterior(np.zeros(1), np.zeros(1), np.ones(1))
    unmeasured = DEFAULT.widened(nothing, np.ones(1))
    assert (unmeasured.sd[0], unmeasured.lfsr[0]) == (0.0, 1.0)


def test_fewer_than_three_contrasts_give_no_error():
    figures = certainty(judged(2, error=0.1, noise=0.3, sd=0.1), "seen")
    assert {row["error"] for row in figures["error_by_size"]} == {None}
    assert figures["calibration"]["slope_standard_error"] is None
    assert certainty(judged(2, error=0.1, noise=0.3, sd=0.1), "unseen") is None


def test_null_labels_are_matched_in_context_and_number_of_cells():
    cells = training_cells(cells=60, contexts=("a", "b"), targets=("G3", "G5"))
    measured = np.ones((1, GENES), bool)
    measured[0, :20] = False
    checks = null_labels.null_check(replace(cells, measured=measured))
    assert [(c["context"], c["n_cells"]) for c in checks] == [
        ({"line": "a"}, 60),
        ({"line": "b"}, 60),
    ]
    for check in checks:
        assert check["n_labels"] == 100
        assert check["n_genes"] == GENES - 20
        assert check["share_called"] < 0.005
        assert check["labels_with_a_call"] <= 20


def test_a_label_is_at_most_half_of_the_control_cells_that_it_is_drawn_from(
    monkeypatch: pytest.MonkeyPatch,
):
    # Every size: conditions with more cells than labels are drawn from, and with more than half.
    monkeypatch.setattr(null_labels, "LABELS", 2)
    monkeypatch.setattr(null_labels, "MOST_CELLS", 32)
    for size in (12, 20, 60):
        cells = training_cells(cells=size, targets=("G3", "G5"))
        (check,) = null_labels.null_check(cells)
        assert check["n_cells"] == min(size, 16)


def test_many_contexts_leave_a_label_of_each_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(null_labels, "MOST_LABELS", 1)
    cells = training_cells(cells=20, contexts=("a", "b"), targets=("G3",))
    assert [check["n_labels"] for check in null_labels.null_check(cells)] == [1, 1]


def test_control_cells_that_differ_are_no_effect_of_labels_drawn_from_them():
    # Two kinds of control cells: a label has some of either.
    cells = training_cells(cells=40, targets=("G3", "G5"))
    cells = replace(cells, condition=np.where(cells.condition == 1, 0, cells.condition))
    (check,) = null_labels.null_check(cells)
    assert check["n_cells"] == 40
    assert check["share_called"] < 0.005


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "DRAWS", evidence.Draws(bootstrap=5, monte_carlo=2, halves=3))
    monkeypatch.setattr(null_labels, "LABELS", 5)


def test_every_condition_has_its_own_figure_and_every_tier_all_of_them(quick: None):
    del quick
    cells = training_cells(cells=60, contexts=("a", "b", "c"), targets=("G3", "G5"))
    written = evidence.rotated(cells, {}, [], HEAD)
    seen = written["tiers"]["seen"]
    assert len(seen["per_perturbation"]) == 6
    places = {(p["context"]["line"], p["interventions"][0]["target"], p["n_test_cells"])
              for p in seen["per_perturbation"].values()}  # fmt: skip
    assert places == {(c, t, 60) for c in "abc" for t in ("G3", "G5")}
    assert seen["overall"]["set"] == "all"
    for tier in ("seen", "seen_elsewhere"):
        calibration = written["tiers"][tier]["certainty"]["calibration"]
        assert calibration["n_contrasts"] == 6
    assert seen["certainty"]["calibration"]["n_folds"] == evidence.PARTS
    assert [n["context"]["line"] for n in written["null_labels"]] == ["a", "b", "c"]


def test_doses_of_a_target_have_figures_of_their_own(quick: None):
    del quick
    cells = training_cells(cells=60, targets=("G3", "G5"))
    dosed = [
        replace(c, interventions=(Intervention(kind="drug", target="X", dose=float(i)),))
        if c.interventions
        else c
        for i, c in enumerate(cells.conditions)
    ]
    written = evidence.rotated(replace(cells, conditions=tuple(dosed)), {}, [], HEAD)
    figures = written["tiers"]["seen"]["per_perturbation"]
    assert sorted(figures) == ["X 1", "X 2"]
    assert figures["X 2"]["interventions"] == [{"kind": "drug", "target": "X", "dose": 2.0}]
    assert figures["X 1"]["model"] != figures["X 2"]["model"]


def test_an_evaluation_keeps_what_only_the_rotation_says(quick: None):
    del quick
    cells = training_cells(cells=60, targets=("G3", "G5"))
    head = {**HEAD, "data": {"adapted_to": [{"context": {"line": "a"}, "target": "G3"}]}}
    before = evidence.rotated(cells, {}, [], head)
    held_out = HeldOut(
        "G3", "seen", "cells", "later", {"line": "a"}, [{"kind": "knockout", "target": "G3"}],
        (50, 50, 50), ["G1"], None, np.zeros(1), np.ones(1),
    )  # fmt: skip
    from lingshu_model.evaluate.rows import NamedSet

    sets = [NamedSet("all", "contrasts", "seen", frozenset({("cells", "G3")}))]
    later = written_evidence(Report([], [held_out], sets), None, HEAD)
    kept = extended(later, before)
    assert kept["null_labels"] == before["null_labels"]
    assert kept["data"]["adapted_to"] == before["data"]["adapted_to"]
    assert kept["tiers"]["seen"]["certainty"] == before["tiers"]["seen"]["certainty"]
    assert "null_labels" not in extended(later, {})


def test_a_tier_of_which_nothing_is_held_out_keeps_its_rotation():
    columns = ["metric", "tier", "value"]
    rotated = {
        "folds": ["rep_1"],
        "figures": {"columns": columns, "rows": [["r", "seen", 0.1], ["r", "unseen", 0.2]]},
        "tiers": {"seen": {"n_folds": 2}, "unseen": {"n_folds": 5}, "seen_elsewhere": None},
        "not_estimable": {"seen_elsewhere": "one context", "unseen": "said of another run"},
    }
    later = {
        "folds": ["rep_3"],
        "data": {},
        "figures": {"columns": columns, "rows": [["r", "seen", 0.3]]},
        "tiers": {"seen": {"n_folds": 1}, "unseen": None, "seen_elsewhere": None},
    }
    kept = extended(later, rotated)
    assert kept["tiers"] == {
        "seen": {"n_folds": 1},
        "unseen": {"n_folds": 5},
        "seen_elsewhere": None,
    }
    assert kept["figures"]["rows"] == [["r", "seen", 0.3], ["r", "unseen", 0.2]]
    assert kept["folds"] == ["rep_3", "rep_1"]
    assert kept["not_estimable"] == {"seen_elsewhere": "one context"}
