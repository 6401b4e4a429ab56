"""Tilts: shrunken effects of the training cells, brought straight to each gene's logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_model import CONTEXT, GENES, SPEC

from lingshu_model.config import PRESETS
from lingshu_model.network import Network
from lingshu_model.tokens import MASK
from lingshu_model.train import build, data
from lingshu_model.train.tilt import LARGEST, LEVELS, shrink, tilt_by, tilts
from lingshu_model.vocabulary import Vocabulary
from lingshu_model.wire import Intervention


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


@pytest.mark.parametrize("change", [-0.6, -0.1, 0.0, 0.2, 0.5])
def test_a_tilt_moves_the_mean_by_what_was_asked(change: float) -> None:
    frequency = np.exp(-0.5 * (np.arange(281) - 4.0) ** 2 / 9)[None]
    frequency /= frequency.sum()
    (theta,) = tilt_by(np.array([change]), frequency)
    tilted = frequency * np.exp(theta * LEVELS)
    assert tilted @ LEVELS / tilted.sum() - frequency @ LEVELS == pytest.approx(change, abs=1e-6)


def test_a_gene_that_vanishes_stops_at_the_bound_and_one_without_spread_stays() -> None:
    frequency = np.zeros((2, 281))
    frequency[0, :9] = 1 / 9
    frequency[1, 0] = 1
    mean = frequency @ LEVELS
    assert tilt_by(np.array([-2 * mean[0], 0.0]), frequency).tolist() == [-LARGEST, 0.0]


def test_tilts_know_what_a_knock_out_takes_away(folder: Path) -> None:
    cells = data.add_shams(data.read_cells(SPEC, folder), 2, 0)
    targets = build.config_json(SPEC, cells)["targets"]
    theta = tilts(cells, targets)
    of = {target: theta[1 + i] for i, target in enumerate(targets)}
    assert not theta[0].any()
    assert of["G1"][[1, 2]].max() < -1
    others = [of[t] for t in targets if t != "G1"]
    assert np.abs(np.stack(others)).mean() < 0.1
    cells.tokens[:, 2] = MASK
    assert not tilts(cells, targets)[:, 2].any()


def test_interventions_add_their_tilts_and_control_has_none(folder: Path) -> None:
    cells = data.read_cells(SPEC, folder)
    vocabulary = Vocabulary.from_config(build.config_json(SPEC, cells), cells.panel)
    network = Network(PRESETS[SPEC.network], len(GENES), vocabulary.sizes)
    assert network.tilt
    build.set_from_data(network, cells, vocabulary.targets)
    tokens = torch.full((1, len(GENES)), MASK)

    def theta(*targets: str) -> torch.Tensor:
        interventions = [Intervention(kind="knockout", target=t) for t in targets]
        return network(tokens, vocabulary.conditions(CONTEXT, interventions))[0, :, -1]

    torch.testing.assert_close(theta("G1", "G5"), theta("G1") + theta("G5"))
    assert not theta().any()
    hidden = torch.randn(1, PRESETS[SPEC.network].d_gene)
    gene = torch.tensor([2])
    moved, still = (
        network.logits(torch.cat([hidden, torch.tensor([[t]])], 1), gene) for t in (0.7, 0.0)
    )
    torch.testing.assert_close((moved - still)[0], 0.7 * network.tilt.levels)
