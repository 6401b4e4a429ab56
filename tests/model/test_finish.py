"""A training ends with effects in the checkpoint, a fitness check, and held-out figures."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_model import CONTEXT, SPEC, made_cells
from made_training import PANEL, spec, training_cells

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_model.finishing import choice, estimate, evidence, finish, fitness
from lingshu_model.finishing.estimate import EffectFit
from lingshu_model.finishing.finish import request
from lingshu_model.sampling.delivery import MOVED, PINNED, TRAINING_CELLS, DeliveringSampler
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.sampler import Sampler, sample_arm
from lingshu_model.train import command
from lingshu_model.train.spec import TrainingSpec

LOST = [18, 20, 22, 24]
KNOCKOUT = (Intervention(kind="knockout", target="G1"),)


def trained(folder: Path, n: int = 120, **changes: object) -> Checkpoint:
    """The checkpoint that the command makes of `n` made cells."""
    cells = made_cells(n)
    # Four genes of middling expression are lost too, so that some changes are certain.
    cells.X[np.ix_(cells.obs["guide"] == "G1", LOST)] = 0
    cells.write_h5ad(folder / "made.h5ad")
    allowed = {"allow_unfit": True, "epochs": 1, **changes}
    fields = TrainingSpec.model_validate(SPEC.model_dump() | allowed)
    (folder / "spec.json").write_text(fields.model_dump_json())
    command.train(folder / "spec.json", folder, folder / "runs", 1, None, None)
    return Catalogue([folder / "runs" / "made" / "checkpoint"]).load("made")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bootstrap draws: what is written counts here, not how exact it is."""
    monkeypatch.setattr(evidence, "DRAWS", evidence.Draws(bootstrap=5, monte_carlo=2, halves=3))


@pytest.mark.usefixtures("quick")
def test_a_trained_network_gets_effects_a_check_and_evidence(tmp_path: Path):
    checkpoint = trained(tmp_path, delivery="moved")
    assert checkpoint.delivery == MOVED
    assert "specification" in checkpoint.config["delivery_basis"]["reason"]
    sampler = load_sampler(checkpoint)
    assert isinstance(sampler, DeliveringSampler)
    assert isinstance(sampler.base, Sampler)
    assert sampler.base.network.tilt is None
    control, moved = (
        sample_arm(sampler, request(checkpoint, CONTEXT, done, 64, 3)).counts
        for done in ((), KNOCKOUT)
    )
    assert moved[:, LOST].sum() < 0.2 * control[:, LOST].sum()
    checked = {c["interventions"][0]["target"]: c for c in checkpoint.fitness["conditions"]}
    assert set(checked) == {"G1", "G5", "sham-00", "sham-01"}
    # All cells are used in the end, those that chose the delivery among them.
    assert checked["G1"]["n_cells"] == 40
    tiers = checkpoint.evidence["tiers"]
    assert tiers["unseen"] is None
    assert checkpoint.evidence["not_estimable"]["seen"].endswith("the largest has 40; 50 would do")
    assert len(checkpoint.evidence["sham"]["changes"]) == 2


@pytest.mark.usefixtures("quick")
def test_the_delivery_is_chosen_on_validation_cells(tmp_path: Path):
    checkpoint = trained(tmp_path, n=360, validation=0.25, shams=0)
    basis = checkpoint.config["delivery_basis"]
    # Two knock-outs and their control cells.
    assert basis["conditions"] == 3
    basis.setdefault("reason", "")
    assert checkpoint.delivery in (MOVED, TRAINING_CELLS)
    less = basis[MOVED] - basis[TRAINING_CELLS]
    nearer = less > basis["standard_error_of_difference"]
    assert (checkpoint.delivery == TRAINING_CELLS) == (nearer or "unfit" in basis["reason"])
    assert len(checkpoint.evidence["folds"]) == evidence.PARTS


@pytest.mark.usefixtures("quick")
def test_cells_of_training_deliver_what_the_cells_of_a_poor_network_cannot(tmp_path: Path):
    # After one epoch the network draws the lost genes too rarely in control cells to lose them.
    (tmp_path / "moved").mkdir()
    poor = trained(tmp_path / "moved", delivery="moved")
    assert poor.unfit(CONTEXT, KNOCKOUT)
    checkpoint = trained(tmp_path)
    assert checkpoint.delivery == TRAINING_CELLS
    assert checkpoint.config["delivery_basis"]["reason"] == (
        "1 of 4 conditions were unfit with the network's cells"
    )
    assert not checkpoint.unfit(CONTEXT, KNOCKOUT)


@pytest.mark.usefixtures("quick")
def test_pinned_genes_have_moved_counts_and_the_network_draws_the_rest(tmp_path: Path):
    checkpoint = trained(tmp_path, delivery=PINNED, shams=0)
    sampler = load_sampler(checkpoint)
    assert isinstance(sampler, DeliveringSampler)
    assert checkpoint.effects
    certain = checkpoint.effects.effect(CONTEXT, KNOCKOUT).posterior.lfsr < 0.05
    assert certain[LOST].all()
    requested = request(checkpoint, CONTEXT, KNOCKOUT, 48, 3)
    pinned = sample_arm(sampler, requested).counts
    sampler.delivery = MOVED
    moved = sample_arm(sampler, requested).counts
    assert np.array_equal(pinned[:, certain], moved[:, certain])
    again = load_sampler(checkpoint)
    assert np.array_equal(again.sample_tile(requested, 1), pinned[16:32])


@pytest.mark.usefixtures("quick")
def test_an_unfit_condition_fails_the_command_unless_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(fitness, "SLOPES", (2.0, 3.0))
    with pytest.raises(SystemExit) as ended:
        trained(tmp_path, recipe="effects", allow_unfit=False, shams=0)
    assert ended.value.code == command.UNFIT
    said = capsys.readouterr()
    assert "G1" in said.err
    assert "unfit: slope" in said.out
    kept = Catalogue([tmp_path / "runs" / "made" / "checkpoint"]).load("made")
    assert kept.unfit(CONTEXT, KNOCKOUT)[0].startswith("slope")
    again = tmp_path / "again"
    again.mkdir()
    assert trained(again, recipe="effects", shams=0).unfit(CONTEXT, KNOCKOUT)


def test_effects_without_a_network_need_no_name_of_one():
    fields = {"name": "x", "sources": [{"file": "a", "context": {"line": "a"}}]}
    assert TrainingSpec.model_validate({**fields, "recipe": "effects"}).network is None
    with pytest.raises(ValueError, match="needs a network, one of"):
        TrainingSpec.model_validate(fields)


def test_perturbations_that_are_not_carried_are_said(monkeypatch: pytest.MonkeyPatch):
    fit = EffectFit(
        training_cells(cells=20, contexts=("a", "b"), targets=("G3",), absent=(("b", "G3"),))
    )
    whole = fit.run()
    assert len(whole.rows) == 2
    assert whole.notes == ()
    monkeypatch.setattr(estimate, "MOST_ROWS", 1)
    less = fit.run()
    assert len(less.rows) == 1
    assert "1 perturbations of contexts without cells of them are not predicted" in less.notes[0]


def test_a_condition_without_control_cells_is_named():
    cells = training_cells(cells=20, contexts=("a", "b"))
    control_b = [i for i, c in enumerate(cells.conditions) if dict(c.context) == {"line": "b"}
                 and not c.interventions]  # fmt: skip
    left = cells.take(np.flatnonzero(~np.isin(cells.condition, control_b)))
    with pytest.raises(ValueError, match=r"'G3' .*'line': 'b'.* no control cells"):
        EffectFit(left).run()


def test_null_labels_have_no_certain_change():
    from lingshu_model.train.data.cells import add_shams

    cells = add_shams(training_cells(cells=60, targets=("G3",)), 4, 0)
    null = [r for r in EffectFit(cells).run().rows if r.condition.interventions[0].kind == "sham"]
    assert len(null) == 4
    assert sum((row.posterior.lfsr < 0.05).sum() for row in null) <= 1
    assert all(row.cells == (60, 240) for row in null)


def test_each_tier_is_rotated_over_folds_and_what_is_missing_is_said(quick: None):
    del quick
    cells = training_cells(cells=60, contexts=("a", "b", "c"), targets=("G3", "G5"))
    head = {"checkpoint_digest": "d", "data": {}, "settings": {"n_cells": 1, "steps": 1},
            "cost": {}}  # fmt: skip
    observed = json.loads(json.dumps(evidence.rotated(cells, {}, [], head)))
    seen, carried = (observed["tiers"][t]["headline"] for t in ("seen", "seen_elsewhere"))
    assert seen["model"]["value"] > seen["baselines"]["resampled_training_cells"]["value"] > 0.2
    assert carried["model"]["value"] > 0.4
    # A posterior mean is no estimate whose squared length noise inflates.
    rows = observed["tiers"]["seen_elsewhere"]["per_perturbation"].values()
    assert all(row["magnitude_ratio"] > 0.3 for row in rows)
    assert observed["tiers"]["seen"]["n_folds"] == evidence.PARTS
    assert observed["tiers"]["seen_elsewhere"]["n_folds"] == 3
    assert set(observed["not_estimable"]) == {"combination_of_seen", "unseen"}
    assert "0 combinations" in observed["not_estimable"]["combination_of_seen"]
    assert "2 perturbed targets" in observed["not_estimable"]["unseen"]


def test_replicates_that_arms_share_are_left_out_in_turn():
    cells = training_cells(cells=60, targets=("G3",))
    from dataclasses import replace

    names = np.array(["r1", "r2", "r3"])[np.arange(len(cells)) % 3]
    folds = [f for f in evidence._folds(replace(cells, replicate=names), {}) if f.tier == "seen"]
    assert [f.name for f in folds] == ["replicate r1", "replicate r2", "replicate r3"]
    perturbed = cells.condition > 0
    separate = np.where(perturbed, np.where(np.arange(len(cells)) % 2, "p1", "p2"),
                   np.where(np.arange(len(cells)) % 2, "c1", "c2"))  # fmt: skip
    folds = [f for f in evidence._folds(replace(cells, replicate=separate), {}) if f.tier == "seen"]
    assert [f.name for f in folds] == ["replicates p1 and c1", "replicates p2 and c2"]
    assert all({*f.train} | {*f.test} == {*range(len(cells))} for f in folds)


def test_recipe_and_unfit_are_fields_of_the_specification():
    assert spec(replicate="donor").replicate == "donor"
    assert not spec().allow_unfit


@pytest.mark.parametrize("held", [("G5",), ("G5", "")])
def test_validation_cells_of_a_condition_without_training_cells_choose_no_delivery(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: tuple[str, ...]
):
    cells = training_cells(cells=30, controls=60, targets=("G3", "G5"))
    target = np.array(
        [c.interventions[0].target if c.interventions else "" for c in cells.conditions]
    )
    of_cell = target[cells.condition]
    train = cells.take(np.flatnonzero(of_cell != "G5"))
    held_out = cells.take(np.flatnonzero(np.isin(of_cell, held)))
    run = finish.Finish(spec(), train, held_out, None)
    either = dict.fromkeys((MOVED, TRAINING_CELLS))
    monkeypatch.setattr(finish.Finish, "candidate", lambda *_: either)
    monkeypatch.setattr(choice, "_distances", lambda _c, _h, judged, _f: [1.0 for _ in judged])
    delivery, basis = choice.choose(run, tmp_path)
    assert delivery == MOVED
    assert "no condition with 8 validation cells" in basis["reason"]


def test_the_seconds_of_a_cell_count_the_cells_of_repeated_checks(monkeypatch: pytest.MonkeyPatch):
    class Fake:
        tile = 32

        def profile(self) -> dict[str, str]:
            return {}

    def check(conditions: Any, pairs: int) -> list[Any]:
        for row, sample in conditions:
            for times in row["rounds"]:
                sample(times * pairs)
        return []

    rows = [
        {"context": {"line": line}, "rounds": rounds}
        for line, rounds in (("a", (1, 4)), ("a", (1,)), ("b", (1, 4, 16)))
    ]
    checkpoint: Any = SimpleNamespace(effects=SimpleNamespace(rows=rows), panel=PANEL)
    clock = iter([10.0, 10.0 + 5.0])
    monkeypatch.setattr(finish, "DeliveringSampler", Fake)
    monkeypatch.setattr(finish, "load_sampler", lambda *_, **__: Fake())
    monkeypatch.setattr(finish, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(finish, "_pair", lambda *_: None)
    monkeypatch.setattr(fitness, "check", check)
    checked = finish.check_checkpoint(checkpoint)
    # Perturbed cells of every round; control cells of a context are sampled once.
    units = (1 + 4) + 1 + (1 + 4 + 16) + 4 + 16
    assert checked.seconds_per_cell == pytest.approx(5.0 / (units * checked.pairs))
