"""Tilts: shrunken effects of the training cells, brought straight to each gene's logits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_model import CONTEXT, GENES, SPEC
from scipy import sparse

from lingshu_model.contracts import Intervention
from lingshu_model.network.config import PRESETS
from lingshu_model.train.data import sources as data
from lingshu_model.train.data.cells import add_shams
from lingshu_model.train.data.expression import LEVELS, Levels
from lingshu_model.train.effect_offsets.estimates import LARGEST, Laws, shrink
from lingshu_model.train.initialisation import Birth


def normal(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(5)).standard_normal(shape)


def test_noise_is_shrunk_away_and_a_strong_effect_is_kept() -> None:
    noise = normal(12, 400)
    noise[0, :40] += 6
    kept = shrink(noise, np.ones_like(noise), np.ones(12, bool))
    assert np.abs(kept[0, :40] - 6).mean() < 1.5
    assert np.abs(kept[1:]).mean() < 0.1 * np.abs(noise[1:]).mean()


def test_what_was_not_measured_has_no_effect() -> None:
    effect = np.array([[3.0, np.nan], [3.0, 3.0]])
    kept = shrink(effect, np.full((2, 2), 0.01), np.ones(2, bool))
    assert kept[0, 1] == 0
    assert kept[1, 1] == pytest.approx(3.0, rel=0.01)


def poisson_laws(*rates: float) -> Laws:
    n = np.random.Generator(np.random.Philox(3))
    draws = [n.poisson(rate, 4000) for rate in rates]
    return Laws.of(np.stack([np.bincount(d, minlength=281) for d in draws]))


def cells_of(*columns: list[int]) -> Levels:
    values = sparse.csr_matrix(np.log1p(np.array(columns, float).T))
    n, genes = values.shape
    return Levels(values, np.zeros(n, np.int64), np.ones((1, genes), bool))


@pytest.mark.parametrize("goal", [0.05, 0.4, 1.0, 1.6])
def test_a_tilt_brings_the_mean_to_its_goal(goal: float) -> None:
    laws = poisson_laws(2.0)
    (theta,) = laws.tilt_to(np.array([goal]))
    ((_, law),) = laws.parts
    levels = LEVELS[: law.shape[1]]
    tilted = law[0] * np.exp(theta * levels)
    assert tilted @ levels / tilted.sum() == pytest.approx(goal, abs=1e-5)


def test_a_gene_that_control_cells_happen_to_lack_can_still_rise() -> None:
    laws = poisson_laws(0.1, 0.1)
    control = cells_of([0] * 30, [0, 0, 1] * 10)
    risen, fallen = (
        laws.tilt_by(np.array([1.0, 0.0]), control),
        laws.tilt_by(np.array([0.0, -0.2]), control),
    )
    assert 3 < risen[0] <= LARGEST
    assert risen[1] == fallen[0] == 0
    assert fallen[1] < -2


def test_a_gene_that_vanishes_stops_at_the_bound_and_one_without_spread_stays() -> None:
    counts = np.zeros((2, 281), np.int64)
    counts[0, :9] = 100
    counts[1, 0] = 900
    laws = Laws.of(counts)
    assert laws.tilt_to(np.array([-1.0, 1.0])).tolist() == [-LARGEST, 0.0]


def test_tilts_know_what_a_knock_out_takes_away(folder: Path) -> None:
    birth = Birth(SPEC, add_shams(data.read_cells(SPEC, folder), 2, 0))
    theta = birth.tilts.theta
    of = {about["target"]: theta[1 + i] for i, about in enumerate(birth.tilts.about)}
    assert set(of) == {"G1", "G5", "sham-00", "sham-01"}
    assert not theta[0].any()
    assert of["G1"][[1, 2]].max() < -1
    others = [values for target, values in of.items() if target != "G1"]
    assert np.abs(np.stack(others)).mean() < 0.1


def test_a_gene_that_nobody_measured_has_no_tilt(folder: Path) -> None:
    cells = data.read_cells(SPEC, folder)
    counts = cells.tokens.toarray()
    counts[:, 2] = 0
    measured = cells.measured.copy()
    measured[:, 2] = False
    cells = replace(cells, tokens=sparse.csr_matrix(counts), measured=measured)
    assert not Birth(SPEC, cells).tilts.theta[:, 2].any()


def test_interventions_add_their_tilts_and_control_has_none(folder: Path) -> None:
    birth = Birth(SPEC, data.read_cells(SPEC, folder))
    network, vocabulary = birth.network(), birth.vocabulary
    assert network.tilt
    hidden = torch.zeros(1, len(GENES), PRESETS[SPEC.network].d_gene)

    def theta(*targets: str) -> torch.Tensor:
        assert network.tilt
        interventions = [Intervention(kind="knockout", target=t) for t in targets]
        named = vocabulary.conditions(CONTEXT, interventions)
        return network.tilt(hidden, named, network.prefix.gene_features)[0]

    torch.testing.assert_close(theta("G1", "G5"), theta("G1") + theta("G5"))
    assert not theta().any()


def test_a_level_moves_logits_along_ln_one_plus_count(folder: Path) -> None:
    network = Birth(SPEC, data.read_cells(SPEC, folder)).network()
    bucket = max(network.readout, key=lambda b: b.width)
    hidden = torch.randn(1, PRESETS[SPEC.network].d_gene)
    member = torch.tensor([0])
    moved, still = (
        network.readout.of_rows(bucket, torch.cat([hidden, torch.tensor([[t]])], 1), member)
        for t in (0.7, 0.0)
    )
    known = still[0].isfinite()
    levels = network.readout.levels[: bucket.width]
    torch.testing.assert_close((moved - still)[0][known], 0.7 * levels[known])
