"""The benchmark on untuned data: nothing held out is trained on, and worse is called worse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from made_counts import draw, rows, shares

from benchmarks.any_data import predictors, sets
from benchmarks.any_data import run as command
from benchmarks.any_data.compare import Comparison, compare, holm
from benchmarks.any_data.fitness import fitness
from benchmarks.any_data.predictors import PREDICTORS, Priors
from benchmarks.any_data.sets import CONTROL, Cells
from lingshu_model.effects import Mover, moved

GENES = 40
NOTHING = Priors({}, frozenset())


def built(
    conditions: tuple[str, ...] = ("x", "y"),
    contexts: tuple[str, ...] = ("a", "b", "c", "d"),
    replicates: tuple[str, ...] = ("",),
    cells: int = 30,
) -> Cells:
    """Cells whose first gene is a number of their own, so that a cell can be told from another."""
    rng = np.random.default_rng(0)
    p = shares(rng, GENES, 0.8)
    counts, labels = [], []
    for context in contexts:
        here = p * np.exp(0.2 * rng.normal(size=GENES))
        for condition in (CONTROL, *conditions):
            share = here * np.exp(0.8 * np.random.default_rng(len(condition)).normal(size=GENES))
            for replicate in replicates:
                counts.append(draw(rng, share / share.sum(), cells, 900.0))
                labels += [(condition, context, replicate)] * cells
    whole = np.concatenate(counts)
    whole[:, 0] = np.arange(len(whole)) + 1
    condition, context, replicate = (np.array(each) for each in zip(*labels, strict=True))
    return Cells(rows(whole), tuple(f"g{i}" for i in range(GENES)), condition, context, replicate)


def tags(cells: Cells) -> set[int]:
    return set(cells.counts[:, 0].toarray().ravel().astype(int))


def held_out(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Cells, Cells]]:
    """Record the cells of every truth that is taken."""
    taken: list[tuple[Cells, Cells]] = []
    original = sets.truth

    def recorded(perturbed: Cells, control: Cells):
        taken.append((perturbed, control))
        return original(perturbed, control)

    monkeypatch.setattr(sets, "truth", recorded)
    return taken


@pytest.mark.parametrize("split", [sets.fifths, sets.replicates, sets.animals])
def test_no_cell_of_a_truth_is_trained_on(split, monkeypatch: pytest.MonkeyPatch):
    if split is sets.animals:
        cells = built(("x",), replicates=("r1", "r2", "r3"))
        arm = np.where(cells.condition == CONTROL, "c", "k")
        cells = Cells(
            cells.counts, cells.genes, cells.condition, cells.context,
            np.char.add(arm, cells.replicate),
        )  # fmt: skip
    else:
        cells = built(
            replicates=("r1", "r2", "r3") if split is sets.replicates else ("",), cells=60
        )
    taken = held_out(monkeypatch)
    judged = 0
    for fold in split(cells):
        for perturbed, control in taken:
            assert not tags(fold.train) & (tags(perturbed) | tags(control))
        judged += len(fold.judged)
        taken.clear()
    assert judged >= 3 * 4


def test_a_context_is_left_out_whole_and_its_control_halves_share_no_cell(
    monkeypatch: pytest.MonkeyPatch,
):
    cells, taken = built(("x",)), held_out(monkeypatch)
    variants = []
    for fold in sets.contexts(cells):
        ((perturbed, control),) = taken
        taken.clear()
        (judged,) = fold.judged
        variants.append(judged.variant)
        assert not tags(fold.train) & tags(perturbed)
        assert set(fold.train.condition[fold.train.context == judged.context]) == {CONTROL}
        shared = tags(fold.train) & tags(control)
        assert bool(shared) == (judged.variant == "shared control")
    assert variants.count("disjoint") == 8
    assert variants.count("shared control") == 4


def test_a_target_is_left_out_of_every_context():
    for fold in sets.targets(sets.fifths(built(cells=60))):
        (target,) = {j.condition for j in fold.judged}
        assert target not in fold.train.condition


def test_doubles_are_left_out_with_half_of_the_control_cells(monkeypatch: pytest.MonkeyPatch):
    names = ("a", "b", "c", "d", "a+b", "a+c", "a+d", "b+c", "b+d")
    taken = held_out(monkeypatch)
    judged = []
    for fold in sets.doubles(built(names, contexts=("all",))):
        for perturbed, control in taken:
            assert not tags(fold.train) & (tags(perturbed) | tags(control))
        taken.clear()
        judged += [j.condition for j in fold.judged]
        assert set("abcd") <= set(fold.train.condition)
    assert sorted(judged) == sorted(n for n in names if "+" in n)


def fold_of(tier: str):
    if tier == "carried":
        return next(sets.contexts(built(("x",))))
    if tier == "unseen":
        cells = built(("v", "ww", "xxx", "yyyy", "zzzzz", "uuuuuu"), ("a",), cells=60)
        return next(sets.targets(sets.fifths(cells)))
    if tier == "combination":
        singles = tuple("abcdef")
        doubles = tuple(f"{a}+{b}" for a in singles for b in singles if a < b)
        return next(sets.doubles(built((*singles, *doubles), ("all",))))
    return next(sets.fifths(built(cells=60)))


@pytest.mark.parametrize(
    ("kind", "tier"),
    [(k, t) for k in PREDICTORS for t in ("seen", "carried", "unseen", "combination")
     if t in k.tiers],
    ids=lambda each: getattr(each, "name", each),
)  # fmt: skip
def test_every_predictor_predicts_in_its_tiers(kind, tier: str):
    fold = fold_of(tier)
    predicted = kind().fit(fold.train, tier, NOTHING).predict_change(fold.judged[0])
    assert predicted.shape == (GENES,)
    assert np.isfinite(predicted).all()
    assert predicted.any() == (kind.name != "no_change")


def test_simple_predictors_are_what_the_protocol_says():
    fold = fold_of("seen")
    judged, m = fold.judged[0], fold.train.measured
    row = int(m.rows(condition=judged.condition, context=judged.context)[0])
    by = {k.name: k().fit(fold.train, "seen", NOTHING).predict_change(judged) for k in PREDICTORS
          if "seen" in k.tiers}  # fmt: skip
    here = m.rows(context=judged.context)
    np.testing.assert_allclose(by["training_mean"], m.change[row])
    np.testing.assert_allclose(by["mean_shift"], m.change[here].mean(axis=0))
    (other,) = [i for i in here if i != row]
    np.testing.assert_allclose(by["nearest"], m.change[other])
    ratio = by["training_mean_shrunken"] / by["training_mean"]
    assert ratio.std() < 1e-9
    assert 0 < ratio[0] < 1


def scores(seed: int, units: int, pearson: float, mse: float):
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.3, 0.7, units)
    noise = rng.normal(size=(2, units))
    noise -= noise.mean(axis=1, keepdims=True)
    simple = {f"u{i}": (float(b), 1.0) for i, b in enumerate(base)}
    ours = {
        f"u{i}": (float(b + pearson + 0.01 * noise[0, i]), mse + 0.05 * float(noise[1, i]))
        for i, b in enumerate(base)
    }
    return {"ours": ours, "simple": simple}


@pytest.mark.parametrize(
    ("pearson", "mse", "units", "verdicts"),
    [
        (0.0, 1.0, 20, ["non-inferior", "non-inferior"]),
        (-0.1, 1.2, 20, ["beyond the margin", "beyond the margin"]),
        (-0.028, 1.04, 7, ["undecided, mean within the margin"] * 2),
        (0.0, 1.0, 4, ["within the margin (few units)"] * 2),
        (-0.1, 1.2, 4, ["beyond the margin (few units)"] * 2),
    ],
)
def test_margins_decide(pearson: float, mse: float, units: int, verdicts: list[str]):
    result = holm(compare(scores(0, units, pearson, mse), "ours", ["simple"]))
    assert [c.metric for c in result] == ["pearson", "mse"]
    assert [c.verdict for c in result] == verdicts
    assert all(c.worst <= c.difference + 0.06 for c in result if c.metric == "pearson")


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    given = [0.01, 0.04, 0.03, 0.005]
    made_up = [Comparison(str(p), "pearson", 0.0, p, 0.0, "u", 9, "") for p in given]
    assert [c.p for c in holm(made_up)] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_cells_that_do_not_move_are_unfit(monkeypatch: pytest.MonkeyPatch):
    train = built(("x",), ("a",), cells=80)
    assert not any(row["reasons"] for row in fitness(train, NOTHING))
    still = predictors.fit_mover

    def unmoved(*words) -> Mover:
        return replace(still(*words), log_fold=np.zeros(GENES), library=1.0, dispersion=0.0)

    monkeypatch.setattr(predictors, "fit_mover", unmoved)
    result = fitness(train, NOTHING)
    assert all(any("slope" in reason for reason in row["reasons"]) for row in result)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The command on a made set, with no file of priors."""
    cells = built(("x",), ("a", "b", "c"), cells=50)
    monkeypatch.setattr(sets, "READERS", {"made": lambda data: cells})
    monkeypatch.setattr(moved, "FIT_CELLS", 32)
    few = [k for k in PREDICTORS if k.name in ("effects", "mean_shift")]
    monkeypatch.setattr(command, "PREDICTORS", few)
    monkeypatch.setattr(command, "TIERS", (("made", "seen"), ("made", "carried")))
    monkeypatch.setattr(command, "_priors", lambda data: NOTHING)
    return ["--data", str(tmp_path), "--out", str(tmp_path / "out")]


def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the folds that are evaluated."""
    evaluated: list[str] = []
    original = command._evaluate

    def recorded(fold: sets.Fold, *rest: Any) -> Any:
        evaluated.append(fold.name)
        return original(fold, *rest)

    monkeypatch.setattr(command, "_evaluate", recorded)
    return evaluated


def test_a_second_run_goes_on_where_the_first_ended(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = CliRunner().invoke(command.main, small, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert {r["predictor"] for r in results["scores"]} == {"effects", "mean_shift"}
    (tmp_path / "out" / "made.seen.fifth-3.json").unlink()
    evaluated = []
    original = command._evaluate
    monkeypatch.setattr(
        command,
        "_evaluate",
        lambda fold, *rest: evaluated.append(fold.name) or original(fold, *rest),
    )
    again = CliRunner().invoke(command.main, small, catch_exceptions=False)
    assert again.exit_code == 0
    assert evaluated == ["fifth-3"]
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8")) == results


def test_folds_of_another_recipe_are_made_again(small: list[str], monkeypatch: pytest.MonkeyPatch):
    CliRunner().invoke(command.main, small, catch_exceptions=False)
    monkeypatch.setattr(command, "_recipe", lambda: "another")
    evaluated = []
    original = command._evaluate
    monkeypatch.setattr(
        command,
        "_evaluate",
        lambda fold, *rest: evaluated.append(fold.name) or original(fold, *rest),
    )
    CliRunner().invoke(command.main, small, catch_exceptions=False)
    assert len(evaluated) == 5 + 9


def test_an_unknown_set_is_named_beside_those_that_are_there(small: list[str]):
    result = CliRunner().invoke(command.main, [*small, "--set", "atlas"])
    assert result.exit_code == 1
    assert "'atlas'" in result.output
    assert "made" in result.output
