"""Effects reach sampled cells: in bounds, whole counts, and the same however they are asked for."""

from pathlib import Path

import numpy as np
import pytest
from made_training import KINDS, PANEL, finished, training_cells
from scipy import sparse

from lingshu_model.contracts import ArmRequest, Checkpoint, Intervention
from lingshu_model.contracts.effects import (
    CARRIED,
    COMBINATION,
    FEATURES,
    NoEffectError,
    pack_lfsr,
    pack_sd,
    unpack_lfsr,
    unpack_sd,
)
from lingshu_model.finishing.finish import request
from lingshu_model.finishing.fitness import CERTAIN, delivered, judge
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.pool import Pool
from lingshu_model.sampling.sampler import sample_arm


def knockout(*targets: str) -> tuple[Intervention, ...]:
    return tuple(Intervention(kind="knockout", target=t) for t in targets)


def arm(checkpoint: Checkpoint, *targets: str, n: int = 64, context: str = "a") -> ArmRequest:
    return request(checkpoint, {"line": context}, knockout(*targets), n, 5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    targets = ("G3", "G5", "G7", "G9", "G11")
    cells = training_cells(cells=60, contexts=("a", "b"), targets=targets, absent=(("b", "G5"),))
    return finished(cells, tmp_path_factory.mktemp("made")).checkpoint


@pytest.mark.parametrize("cells", [30, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_cells_change_by_the_effect(kind: str, cells: int, tmp_path: Path):
    built = finished(training_cells(kind, cells=cells, targets=("G3",)), tmp_path, shams=0)
    assert [f.reasons for f in built.checked] == [()]
    sampler = load_sampler(built.checkpoint)
    # Cells that neither the movers nor the check have seen.
    moved, control = (
        sparse.csr_matrix(
            sample_arm(sampler, arm(built.checkpoint, *t, n=2048)).counts, dtype=float
        )
        for t in (("G3",), ())
    )
    assert built.checkpoint.effects
    effect = built.checkpoint.effects.effect({"line": "a"}, knockout("G3"))
    if kind == "plain" and cells == 150:
        assert (effect.posterior.lfsr < CERTAIN).sum() >= 8
    assert judge(delivered(moved, control), effect.posterior, effect.library)["reasons"] == ()


@pytest.mark.parametrize("targets", [(), ("G3",), ("G3", "G5")])
def test_counts_do_not_depend_on_how_they_are_asked_for(
    checkpoint: Checkpoint, targets: tuple[str, ...]
):
    whole = sample_arm(load_sampler(checkpoint), arm(checkpoint, *targets, n=96)).counts
    fresh = load_sampler(checkpoint)
    requested = arm(checkpoint, *targets, n=96)
    backwards = [fresh.sample_tile(requested, i) for i in (2, 1, 0)]
    assert np.array_equal(np.concatenate(backwards[::-1]), whole)
    part = requested.model_copy(update={"first_cell": 40, "n_cells": 7})
    assert np.array_equal(sample_arm(load_sampler(checkpoint), part).counts, whole[40:47])
    assert np.array_equal(sample_arm(fresh, requested, workers=3).counts, whole)


def test_a_perturbed_cell_is_its_control_cell_moved(checkpoint: Checkpoint):
    sampler = load_sampler(checkpoint)
    control = sample_arm(sampler, arm(checkpoint)).counts
    moved = sample_arm(sampler, arm(checkpoint, "G3")).counts
    assert checkpoint.effects
    effect = checkpoint.effects.effect({"line": "a"}, knockout("G3")).posterior
    up, down = effect.mean > 0.3, effect.mean < -0.3
    assert up.any()
    assert down.any()
    assert (moved[:, up] >= control[:, up]).mean() > 0.95
    assert (moved[:, down] <= control[:, down]).mean() > 0.95
    # Other cells are not as near: genes of small effect mostly keep their counts.
    assert (moved == control).mean() > 1.3 * (np.roll(moved, 1, axis=0) == control).mean()


def test_clamped_genes_keep_their_counts(checkpoint: Checkpoint):
    requested = arm(checkpoint, "G3").model_copy(update={"clamp": {"G0": 7, "G3": 0}})
    counts = sample_arm(load_sampler(checkpoint), requested).counts
    assert set(counts[:, 0]) == {7}
    assert set(counts[:, 3]) == {0}


def test_a_perturbation_is_carried_to_a_context_without_cells_of_it(checkpoint: Checkpoint):
    assert checkpoint.effects
    here, there = (checkpoint.effects.effect({"line": c}, knockout("G5")) for c in "ab")
    assert there.source == CARRIED
    assert np.corrcoef(here.posterior.mean, there.posterior.mean)[0, 1] > 0.8
    counts = sample_arm(load_sampler(checkpoint), arm(checkpoint, "G5", context="b")).counts
    control = sample_arm(load_sampler(checkpoint), arm(checkpoint, context="b")).counts
    assert (counts != control).any()


def test_a_combination_does_more_than_a_part_and_less_than_the_sum(checkpoint: Checkpoint):
    assert checkpoint.effects
    both = checkpoint.effects.effect({"line": "a"}, knockout("G3", "G5"))
    parts = [checkpoint.effects.effect({"line": "a"}, knockout(t)) for t in ("G3", "G5")]
    assert both.source == COMBINATION
    assert both.additive is not None
    assert np.allclose(both.additive.mean, sum(p.posterior.mean for p in parts))
    assert 0 < both.posterior.mean @ both.additive.mean < both.additive.mean @ both.additive.mean
    sampler = load_sampler(checkpoint)
    pair = [sample_arm(sampler, arm(checkpoint, *t, n=256)).counts for t in (("G3", "G5"), ())]
    cells, control = (sparse.csr_matrix(c, dtype=float) for c in pair)
    assert judge(delivered(cells, control), both.posterior, 1.0)["reasons"] == ()


def test_a_target_never_perturbed_has_what_the_others_say(checkpoint: Checkpoint):
    assert checkpoint.effects
    observed = checkpoint.effects.effect({"line": "a"}, knockout("G20"))
    assert observed.source == FEATURES
    assert "perturbed targets" in observed.note
    assert sample_arm(load_sampler(checkpoint), arm(checkpoint, "G20")).counts.shape == (64, 120)


def test_what_nothing_is_known_of_is_refused(checkpoint: Checkpoint):
    other = (Intervention(kind="crispra", target="G3"),)
    requested = request(checkpoint, {"line": "a"}, other, 8, 0)
    with pytest.raises(NoEffectError, match="nothing is known of crispra of 'G3'"):
        load_sampler(checkpoint).sample_tile(requested, 0)
    assert checkpoint.effects
    with pytest.raises(NoEffectError, match="there are no control cells"):
        checkpoint.effects.effect({"line": "c"}, knockout("G3"))


def test_control_cells_are_those_of_training(checkpoint: Checkpoint):
    pool = Pool.of_tables(checkpoint.tables("pool"), len(PANEL))
    known = {row.tobytes() for row in pool.of(0).toarray()}
    counts = sample_arm(load_sampler(checkpoint), arm(checkpoint, n=32)).counts
    assert {row.tobytes() for row in counts} <= known
    assert len({row.tobytes() for row in counts}) > 20


def test_an_effect_is_stored_to_within_its_codes():
    sd = np.exp(np.linspace(-9, 2, 500))
    assert np.abs(unpack_sd(pack_sd(sd)) / sd - 1).max() < 0.025
    assert unpack_sd(pack_sd(np.zeros(2))).tolist() == [0.0, 0.0]
    lfsr = np.exp(np.linspace(-25, 0, 500))
    assert np.abs(unpack_lfsr(pack_lfsr(lfsr)) / lfsr - 1).max() < 0.055
    assert unpack_lfsr(pack_lfsr(np.array([0.0, 1.0]))).tolist()[1] == 1.0


def test_an_unfit_condition_has_reasons_and_so_has_a_combination_with_it(tmp_path: Path):
    built = finished(training_cells(targets=("G3", "G5")), tmp_path, shams=0).checkpoint
    entry = built.fitness["conditions"][0]
    entry["reasons"] = ["slope 2.00"]
    bad = entry["interventions"][0]["target"]
    assert built.unfit({"line": "a"}, knockout(bad)) == ["slope 2.00"]
    assert built.unfit({"line": "a"}, knockout("G3", "G5")) == ["slope 2.00"]
    assert built.unfit({"line": "b"}, knockout(bad)) == []
