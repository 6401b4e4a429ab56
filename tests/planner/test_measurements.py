"""Measured values: checked before anything is stored, compared, and learned from."""

import json

import numpy as np
import pytest

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError
from lingshu_tools.planner.portfolio import Credit, credited, fill, shares
from lingshu_tools.planner.surrogate import Surrogate, rank_correlation, ranked

SCREEN = {"checkpoint": "thp1-crispr", "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]}}
GENES = ("STAT1", "JAK2", "IFNGR1", "IFNGR2", "IRF1", "SPI1", "BRD4", "SMAD4", "MYC", "CAV1")


def planned(app: App, candidates: object = "all_seen", **more) -> str:
    return call(app, "plan_screen", {**SCREEN, "candidates": candidates, **more}).screen_id


def record(app: App, screen_id: str, values, units: str = "log1p_cp10k", **more):
    rows = [dict(zip(("perturbation", "value", "replicate"), row, strict=False)) for row in values]
    arguments = {"screen_id": screen_id, "values": rows, "units": units, **more}
    return call(app, "record_measurements", arguments)


def truth(thp1: Checkpoint, noise: float = 0.0, seed: int = 1):
    """What a lab would measure if the stored effects were true."""
    rng = np.random.Generator(np.random.Philox(seed))
    genes = [thp1.panel.index(g) for g in ("PSMB9", "STAT1", "UBE2L6")]
    result = []
    for gene in GENES:
        done = [Intervention(kind="knockout", target=gene)]
        effect = thp1.effects.effect(thp1.contexts[0], done).posterior  # type: ignore[union-attr]
        kept = [g for g in genes if thp1.panel[g] != gene]
        value = float(-effect.mean[kept].mean())
        result += [(gene, value + float(rng.normal(0, noise)), r) for r in (1, 2)]
    return result


def test_true_predictions_are_seen_to_be_true(app: App, thp1: Checkpoint):
    screen_id = planned(app)
    result = record(app, screen_id, truth(thp1, 0.02))
    assert (result.n_measured, result.n_compared) == (10, 10)
    assert result.rank_correlation > 0.6
    assert result.coverage >= 0.9
    assert result.enrichment == pytest.approx(2.0)
    assert result.hits == ["STAT1 knockout"]
    measured = {f"{gene} knockout" for gene in GENES}
    assert not measured & {v.perturbation for v in result.next_batch}
    (row,) = app.ledger.measurements(screen_id)
    assert row.id == result.measurement_id
    assert len(row.payload["values"]) == 20
    assert app.ledger.verify().ok


def test_turned_predictions_are_seen_to_be_wrong(app: App, thp1: Checkpoint):
    turned = [(gene, -value, r) for gene, value, r in truth(thp1)]
    result = record(app, planned(app), turned)
    assert result.rank_correlation < 0
    assert result.coverage < 0.9
    assert any("disagree" in c for c in result.caveats)
    better = record(app, planned(app, seed=1), turned, better="lower")
    assert better.rank_correlation > 0.6


def test_control_wells_are_taken_off(app: App, thp1: Checkpoint):
    moved = [(gene, value + 3.0, r) for gene, value, r in truth(thp1, 0.02)]
    result = record(app, planned(app), [*moved, ("control", 3.1, 1), ("control", 2.9, 2)])
    assert result.coverage >= 0.9
    assert result.n_measured == 10


def test_the_same_values_again_are_recorded_once_and_give_the_same(app: App, thp1: Checkpoint):
    screen_id = planned(app)
    first = record(app, screen_id, truth(thp1, 0.05))
    again = record(app, screen_id, truth(thp1, 0.05))
    assert again == first
    assert len(app.ledger.measurements(screen_id)) == 1


def test_a_well_that_is_recorded_again_with_others_counts_once(app: App):
    screen_id = planned(app)
    record(app, screen_id, [("STAT1", 1.0, 1), ("JAK2", 0.0, 1)])
    record(app, screen_id, [("STAT1", 1.0, 1), ("IRF1", 0.5, 1)])
    from lingshu_tools.planner.learning import averaged, value_payloads

    measured = averaged(value_payloads(app.ledger.measurements(screen_id)))
    assert measured["STAT1 knockout"].n == 1
    assert set(measured) == {"STAT1 knockout", "JAK2 knockout", "IRF1 knockout"}


@pytest.mark.parametrize(
    ("values", "units", "words"),
    [
        ([("STAT1", float("nan"))], "z_score", ["value"]),
        ([("STAT1", float("inf"))], "z_score", ["value"]),
        ([("STAT1", 1.0), ("STAT1", 1.2)], "z_score", ["'STAT1 knockout'", "twice", "replicate"]),
        ([("STAT1", 1.0), ("stat1 knockout", 1.2)], "z_score", ["twice"]),
        ([("STAT11", 1.0)], "z_score", ["values[0]", "STAT11", "STAT1"]),
        ([("JAK2", 1.0), ("STAT1 + JAK2", 1.0)], "z_score", ["values[1]", "no candidate"]),
        ([("STAT1", 1.0)], "counts", ["units", "log1p_cp10k"]),
        ([("STAT1", 50.0)], "log1p_cp10k", ["50", "between -10 and 10", "units"]),
        ([("STAT1", -3.0)], "percent_of_control", ["-3", "percent_of_control"]),
        ([("control", 1.0)], "z_score", ["control wells alone"]),
        ([], "z_score", ["values"]),
        ([("STAT1", 1.0, 0)], "z_score", ["replicate"]),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_stored(app: App, values, units, words):
    screen_id = planned(app)
    head = str(app.ledger.head())
    with pytest.raises(InputError) as caught:
        record(app, screen_id, values, units)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert str(app.ledger.head()) == head


@pytest.mark.parametrize(
    ("second", "more", "words"),
    [
        ([("JAK2", 1.0)], {"units": "z_score"}, ["log1p_cp10k", "z_score"]),
        ([("JAK2", 1.0)], {"better": "lower"}, ["better"]),
        ([("STAT1", 1.5)], {}, ["replicate 1", "1.5"]),
        ([("JAK2", 1.0)], {"known_set": "ESSENTIAL"}, ["ESSENTIAL", "gene_sets"]),
    ],
)
def test_values_that_contradict_earlier_ones_are_refused(app: App, second, more, words):
    screen_id = planned(app)
    record(app, screen_id, [("STAT1", 1.0)])
    head = str(app.ledger.head())
    with pytest.raises(InputError) as caught:
        record(app, screen_id, second, **more)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert str(app.ledger.head()) == head


def test_values_without_a_pattern_are_said_to_have_no_useful_feature(app: App):
    # Of ten values one order in twenty follows a prediction by chance; this one does not.
    rng = np.random.Generator(np.random.Philox(12))
    values = [(gene, float(rng.normal())) for gene in GENES]
    result = record(app, planned(app), values, units="z_score")
    assert result.coverage is None
    assert result.surrogate_skill < 0.5
    assert any("No useful feature" in c for c in result.caveats)
    strategies = {name for v in result.next_batch for name in v.strategies}
    assert strategies <= {"model", "random", "known genes"}


def test_known_genes_of_a_file_are_tried_early(app: App):
    folder = app.home / "gene_sets"
    folder.mkdir(parents=True)
    (folder / "known.gmt").write_text("ESSENTIAL\ts\tETV7\tATF2\n", "utf-8")
    result = record(app, planned(app), [("STAT1", 1.0)], known_set="ESSENTIAL", n_next=12)
    named = {v.perturbation: v.strategies for v in result.next_batch}
    assert "known genes" in named["ETV7 knockout"]
    assert any("Too few values" in c for c in result.caveats)


def test_what_is_measured_is_not_proposed_again(app: App, thp1: Checkpoint):
    screen_id = planned(app)
    record(app, screen_id, truth(thp1))
    batch = call(app, "propose_batch", {"screen_id": screen_id, "wait_s": 0})
    measured = {f"{gene} knockout" for gene in GENES}
    assert not measured & {p.perturbation for p in batch.picks}


def test_the_surrogate_is_the_textbook_posterior():
    rng = np.random.Generator(np.random.Philox(2))
    x, new = rng.normal(size=(40, 6)), rng.normal(size=(9, 6))
    y = x @ rng.normal(size=6) + rng.normal(0, 0.5, 40)
    fitted = Surrogate.fit(x, y)
    centred, moved = x - x.mean(0), new - x.mean(0)
    precision = centred.T @ centred + fitted.ridge * np.eye(6)
    weights = np.linalg.solve(precision, centred.T @ (y - y.mean()))
    np.testing.assert_allclose(fitted.mean(new), y.mean() + moved @ weights)
    variance = fitted.noise**2 * np.einsum("ij,jk,ik->i", moved, np.linalg.inv(precision), moved)
    np.testing.assert_allclose(fitted.sd(new), np.sqrt(variance))
    drawn = fitted.draws(new, 20_000, rng)
    np.testing.assert_allclose(drawn.std(axis=0), fitted.sd(new), rtol=0.05)
    np.testing.assert_allclose(drawn.mean(axis=0), fitted.mean(new), atol=0.02)
    left_out = []
    for i in range(40):
        kept = np.arange(40) != i
        c = x[kept] - x[kept].mean(0)
        w = np.linalg.solve(c.T @ c + fitted.ridge * np.eye(6), c.T @ (y[kept] - y[kept].mean()))
        left_out.append(y[kept].mean() + (x[i] - x[kept].mean(0)) @ w)
    np.testing.assert_allclose(fitted.loo, left_out, rtol=1e-6)
    assert fitted.skill > 0.8
    orders = ranked(fitted, new, np.arange(9), 5, rng)
    assert orders["exploit"].tolist() == np.argsort(-fitted.mean(new))[:5].tolist()
    assert all(len(set(order.tolist())) == 5 for order in orders.values())


def test_rank_correlation_is_scipys():
    from scipy import stats

    rng = np.random.Generator(np.random.Philox(9))
    a, b = rng.integers(0, 5, 30).astype(float), rng.normal(size=30)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_correlation(np.ones(5), b[:5]) == 0.0


def test_a_strategy_that_hits_gets_the_plate_and_the_others_keep_a_share():
    credit = {"good": Credit(12, 30), "bad": Credit(0, 30), "new": Credit()}
    share = shares(credit, 12 / 60)
    assert sum(share.values()) == pytest.approx(1)
    assert share["good"] > 0.6 > share["new"] > share["bad"] >= 0.03
    orders = {name: list(range(100 * i, 100 * i + 90)) for i, name in enumerate(credit)}
    chosen = fill(orders, share, 60)
    assert len(chosen) == 60
    counts = {name: sum(names == [name] for names in chosen.values()) for name in credit}
    assert counts["good"] == pytest.approx(60 * share["good"], abs=1.5)
    after = credited({}, chosen, set(range(5)))
    assert after["good"].hits == 5
    assert json.dumps(after["bad"].hits) == "0"


@pytest.mark.parametrize("controls", [[], [("control", 100.0)]])
def test_a_threshold_of_hits_is_in_the_units_and_direction_of_the_values(app: App, controls):
    """A hit is at or below `hit_at` where lower is better, whether or not controls are recorded."""
    values = [("STAT1", 18.0), ("JAK2", 31.0), ("IRF1", 92.0), ("SMAD4", 108.0), *controls]
    wanted = {"units": "percent_of_control", "better": "lower", "hit_at": 50.0}
    result = record(app, planned(app), values, **wanted)
    assert result.hits == ["STAT1 knockout", "JAK2 knockout"]


def test_a_negative_threshold_is_one_of_values_that_fall(app: App):
    values = [("IRF1", -1.8), ("CUL3", -0.2), ("STAT2", 0.1)]
    wanted = {"units": "log2_fold_change", "better": "lower", "hit_at": -1.0}
    assert record(app, planned(app), values, **wanted).hits == ["IRF1 knockout"]
