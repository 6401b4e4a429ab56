"""Candidates by rule: all are scored as the stored effects say, and the best are kept."""

from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_testing import FakeEngine
from lingshu_tools.analysis import Objective
from lingshu_tools.analysis.certainty import score_posterior
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError
from lingshu_tools.planner.beam import best_combinations
from lingshu_tools.planner.closed_form import Singles
from lingshu_tools.planner.rules import resolve_rule, seen_alone

OBJECTIVE = Objective(("TNFRSF14",), ("PSMB9", "STAT1", "UBE2L6"))
LOWER = {"checkpoint": "thp1-crispr", "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]}}


def singles(checkpoint: Checkpoint, n: int = 25) -> Singles:
    context = checkpoint.contexts[0]
    known = Singles.of(checkpoint, context, seen_alone(checkpoint, context)[:n], OBJECTIVE)
    assert known is not None
    return known


def plan(app: App, **arguments):
    return call(app, "plan_screen", {**LOWER, **arguments})


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_score_is_that_of_the_stored_effect(thp1: Checkpoint, size: int):
    known = singles(thp1)
    members = np.array(list(combinations(range(25), size)))[::41]
    for row, score in zip(members, known.scores(members), strict=True):
        parts = [known.interventions[i] for i in row]
        weights = OBJECTIVE.weights(thp1.panel, {i.target for i in parts})
        assert weights is not None
        posterior = thp1.effects.effect(thp1.contexts[0], parts).posterior  # type: ignore[union-attr]
        stored = score_posterior(posterior, weights)
        assert score == pytest.approx(stored.mean, abs=1e-12)
        assert known.scores(row[None])[0] == score


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_beam_that_calls_itself_exact_has_the_best_of_all(thp1: Checkpoint, size: int):
    known = singles(thp1, n=18)
    whole = best_combinations(known, size, 12)
    assert (whole.n, whole.n_scored, whole.exact) == (comb(18, size), comb(18, size), True)
    pruned = best_combinations(known, size, 12, most=comb(18, size) // 2)
    assert pruned.n_scored < whole.n_scored
    assert pruned.exact
    np.testing.assert_array_equal(pruned.members, whole.members)


def test_a_beam_that_dropped_something_better_says_that_it_is_not_exact(thp1: Checkpoint):
    known = singles(thp1)
    rng = np.random.Generator(np.random.Philox(5))
    # Equal singles: nothing tells beforehand which pairs are good, and a narrow beam must drop.
    noise = rng.normal(0, 0.3, known.means.shape)
    changed = Singles(**{**vars(known), "means": noise})
    narrow = best_combinations(changed, 4, 12, most=60)
    whole = best_combinations(changed, 4, 12)
    assert narrow.scores[-1] <= whole.scores[-1]
    assert not narrow.exact


def test_a_target_is_never_combined_with_itself(thp1: Checkpoint):
    context = thp1.contexts[0]
    twice = [Intervention(kind="knockout", target="STAT1", dose=d) for d in (None, 1.0)]
    known = singles(thp1, n=2)
    changed = Singles(**{**vars(known), "target_numbers": np.zeros(2, np.intp)})
    assert len(twice) == 2
    assert np.isnan(changed.scores(np.array([[0, 1]]))).all()
    assert context


@pytest.mark.parametrize(
    ("candidates", "n"),
    [
        ({"pairs_of": "all_seen"}, comb(25, 2)),
        (["pairs_of all_seen"], comb(25, 2)),
        ([{"pairs_of": ["STAT1", "JAK2", "IRF1"]}], 3),
        ({"combinations_of": ["STAT1", "JAK2", "IRF1", "SPI1"], "size": 3}, 4),
        (["combinations_of 3 STAT1, JAK2, IRF1, SPI1"], 4),
        (["all_seen", {"pairs_of": "all_seen"}], 25 + comb(25, 2)),
        (["STAT1 + JAK2", "pairs_of STAT1, IRF1"], 2),
        (["all_panel"], 315),
    ],
)
def test_a_rule_is_planned_without_simulation(
    app: App, engine: FakeEngine, candidates: object, n: int
):
    created = plan(app, candidates=candidates)
    assert created.n_candidates == n
    assert not engine.arms
    assert created.best[0].score >= created.best[-1].score
    assert any("scored in closed form" in c and "training cells" in c for c in created.caveats)
    assert plan(app, candidates=candidates).screen_id == created.screen_id


def test_what_cannot_be_simulated_is_counted_and_left_out(app: App, thp1: Checkpoint):
    created = plan(app, candidates=["all_panel"])
    assert {c.split()[0] for c in created.candidates} <= set(thp1.targets["knockout"])
    (said,) = [c for c in created.caveats if "closed form" in c]
    assert "25 have training cells" in said
    assert "290 of these from features alone" in said


def test_nothing_is_planned_where_nothing_is_known(app: App):
    head = str(app.ledger.head())
    with pytest.raises(InputError) as caught:
        call(app, "plan_screen", {
            "checkpoint": "pbmc", "context": {"cell_type": "B cell", "dataset": "kang2018"},
            "objective": {"raise": ["ISG15"]}, "candidates": ["all_panel"],
        })  # fmt: skip
    assert "nothing is known of 18,080" in str(caught.value)
    assert "cytokine" in str(caught.value)
    assert str(app.ledger.head()) == head


def test_gene_sets_are_read_from_the_home(app: App, thp1: Checkpoint):
    folder = app.home / "gene_sets"
    folder.mkdir(parents=True)
    (folder / "mine.gmt").write_text("JAKSTAT\tsource\tSTAT1\tJAK2\tIFNGR1\tNOTAGENE\n", "utf-8")
    created = plan(app, candidates={"pairs_of": {"gene_set": "JAKSTAT"}})
    assert created.n_candidates == 3
    rule = resolve_rule(thp1, thp1.contexts[0], "gene_set JAKSTAT", app.home)
    assert rule.left_out == ("NOTAGENE",)
    with pytest.raises(InputError, match="JAKSTAT"):
        plan(app, candidates=["gene_set JAKSTATS"])


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ({"pairs_of": ["STAT1"]}, ["combines 2 of 1"]),
        ({"combinations_of": "all_seen"}, ["no rule", "combinations_of"]),
        ({"combinations_of": "all_seen", "size": 40}, ["size from 1 to 16"]),
        ({"triples_of": "all_seen"}, ["triples_of", "pairs_of"]),
        (["pairs_of STAT1, STAT11"], ["STAT11", "Did you mean"]),
        (["pairs_of"], ["pairs_of"]),
        (["all_panel cytokine"], ["cytokine", "knockout"]),
        ({"pairs_of": 3}, ["pairs_of"]),
    ],
)
def test_a_wrong_rule_is_refused_with_what_is_allowed(app: App, candidates: object, words: list):
    head = str(app.ledger.head())
    with pytest.raises(InputError) as caught:
        plan(app, candidates=candidates)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert str(app.ledger.head()) == head


def test_a_text_that_names_a_file_is_no_gene_set(app: App, tmp_path: Path):
    file = tmp_path / "x.gmt"
    file.write_text("X\ts\tSTAT1\tJAK2\n", "utf-8")
    with pytest.raises(InputError, match="no gene set"):
        plan(app, candidates=[f"gene_set {file}"])
