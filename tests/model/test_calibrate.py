"""Calibration: sampled changes are brought to what the training cells' effects say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_model import CONTEXT, GENES, SPEC

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_model.sampling.sampler import Sampler
from lingshu_model.train import checkpoint as build
from lingshu_model.train.data import sources as data
from lingshu_model.train.data.cells import add_shams
from lingshu_model.train.effect_offsets.calibration import Calibration, calibrated
from lingshu_model.train.effect_offsets.estimates import Goal, Laws
from lingshu_model.train.initialisation import Birth

DONE = {"G1": Intervention(kind="knockout", target="G1")}
HOME = tuple(CONTEXT.items())


@pytest.fixture
def birth(folder: Path) -> Birth:
    return Birth(SPEC, add_shams(data.read_cells(SPEC, folder), 2, 0))


@pytest.fixture
def newborn(birth: Birth, tmp_path: Path) -> Checkpoint:
    """A checkpoint that has learned nothing, with the tilts of its training cells."""
    build.write(tmp_path, SPEC, birth.config, birth.cells, birth.network(), {}, None)
    return Catalogue([tmp_path]).load(SPEC.name)


def goal(**change: float) -> Goal:
    wanted = np.zeros(len(GENES))
    for gene, value in change.items():
        wanted[GENES.index(gene)] = value
    return Goal("G1", HOME, wanted)


def test_sampled_changes_are_brought_to_their_goal(birth: Birth, newborn: Checkpoint) -> None:
    sampler = Sampler.load(newborn, threads=1)
    row = 1 + [item.target for item in birth.tilts.goals].index("G1")
    assert row == 1
    calibration = Calibration(sampler, birth.median_depth, birth.laws)
    calibration.theta[row] = 0.7
    wanted = goal(G10=0.8, G11=-0.5, G20=0.3)
    steps = list(calibration.run([wanted], DONE, [192, 192, 192, 384]))
    assert steps[0].pearson < 0.5
    assert steps[-1].pearson > 0.95
    _, change = calibration.sampled(wanted, DONE["G1"], 9, 768)
    assert np.abs(change.mean(axis=0) - wanted.change).max() < 0.15


def test_a_row_that_ran_away_goes_back_to_where_it_was(
    birth: Birth, newborn: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration(Sampler.load(newborn, threads=1), birth.median_depth, birth.laws)
    wanted, flooded = goal(G10=0.8, G11=-0.5), slice(20, 30)
    move, seen = Calibration._move, list[torch.Tensor]()

    def flood(self: Calibration, row: int, *measured: Any) -> None:
        move(self, row, *measured)
        if len(seen) == 1:
            self.theta[row, flooded] = 8.0
        seen.append(self.theta[row].clone())

    monkeypatch.setattr(Calibration, "_move", flood)
    steps = list(calibration.run([wanted], DONE, [192, 192, 192, 192]))
    assert [step.round for step in steps] == [0, 1, 2, 3, 4]
    assert len(seen) == 3
    assert (seen[2][flooded] < 2.0).all()
    assert (seen[2] - seen[0]).abs().max() < 1.0
    assert steps[2].distance > 3 * steps[1].distance
    assert steps[4].distance < steps[1].distance


def test_a_gene_whose_last_move_took_it_away_goes_back_alone(
    birth: Birth, newborn: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration(Sampler.load(newborn, threads=1), birth.median_depth, birth.laws)
    wanted, flooded = goal(G10=0.8, G11=-0.5), GENES.index("G25")
    move, seen = Calibration._move, list[torch.Tensor]()

    def flood(self: Calibration, row: int, *measured: Any) -> None:
        was = self.theta[row].clone()
        move(self, row, *measured)
        if len(seen) == 1:
            self.moved[row].asked[flooded] = 0.1
            self.theta[row, flooded] = was[flooded] + 1.0
        seen.append(self.theta[row].clone())

    monkeypatch.setattr(Calibration, "_move", flood)
    steps = list(calibration.run([wanted], DONE, [192, 192]))
    assert len(seen) == 2
    assert steps[2].distance < 3 * steps[1].distance
    assert calibration.theta[1, flooded] == seen[0][flooded]
    stayed = calibration.theta[1] == seen[1]
    assert stayed[GENES.index("G10")]
    assert stayed.float().mean() > 0.8


def test_where_all_is_as_it_should_be_noise_moves_next_to_nothing(
    birth: Birth, newborn: Checkpoint
) -> None:
    calibration = Calibration(Sampler.load(newborn, threads=1), birth.median_depth, birth.laws)
    calibration.theta[1, :10] = torch.linspace(-1, 1, 10)
    before = calibration.theta[1].clone()
    change = calibration.sampled(goal(), DONE["G1"], 0, 1024)[1].mean(axis=0)
    list(calibration.run([Goal("G1", HOME, change)], DONE, [256]))
    moved = (calibration.theta[1] - before).abs()
    assert (moved == 0).float().mean() > 0.8
    assert moved.max() < 0.2


def test_the_same_cells_give_the_same_tilts(birth: Birth, newborn: Checkpoint) -> None:
    first, second = (calibrated(newborn, birth, [32]) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (1 + len(birth.tilts.goals), len(GENES))
    assert not first[0].any()


def test_a_network_without_tilts_cannot_be_calibrated(newborn: Checkpoint) -> None:
    sampler = Sampler.load(newborn, threads=1)
    sampler.network.tilt = None
    with pytest.raises(ValueError, match="made has no tilts to calibrate"):
        list(Calibration(sampler, 100.0, Laws(())).theta)


def test_laws_of_drawn_cells_lean_on_the_others_where_few_were_drawn() -> None:
    counts = np.zeros((1, 281), np.int64)
    counts[0, [0, 4]] = 500
    laws = Laws.of(counts)
    drawn = np.zeros((9, 1), np.int64)
    assert laws.among(drawn, 1.0).mean[0] == pytest.approx(laws.mean[0] / 10)
    assert laws.among(drawn, 9.0).mean[0] == pytest.approx(laws.mean[0] / 2)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_tilt_reaches_a_mean_at_another_depth(scale: float) -> None:
    draws = np.random.Generator(np.random.Philox(3)).poisson(2.0, 4000)
    laws = Laws.of(np.bincount(draws, minlength=281)[None])
    wanted = 1.3 * laws.mean_of(scale)
    theta = laws.tilt_to(wanted, scale)
    ((_, law),) = laws.parts
    count = np.arange(law.shape[1])
    tilted = law[0] * np.exp(theta * np.log1p(count))
    moved = tilted @ np.log1p(scale * count) / tilted.sum()
    assert moved == pytest.approx(wanted[0], rel=1e-4)


def test_tilts_are_stored_as_calibrated(birth: Birth, newborn: Checkpoint) -> None:
    theta = calibrated(newborn, birth, [16])
    network = birth.network()
    assert network.tilt
    network.tilt.theta.copy_(torch.from_numpy(theta))
    again = build.write(newborn.path.parent, SPEC, birth.config, birth.cells, network, {}, None)
    result = Sampler.load(Catalogue([again.parent]).load(SPEC.name), threads=1).network.tilt
    assert result
    assert np.array_equal(result.theta.numpy(), theta)


def test_training_ends_with_calibrated_tilts(folder: Path) -> None:
    spec = SPEC.model_dump(mode="json") | {"epochs": 1, "calibration": [16]}
    (folder / "made.json").write_text(json.dumps(spec), "utf-8")
    command = [
        sys.executable,
        "-m",
        "lingshu_model.train",
        "made.json",
        "--data",
        ".",
        "--out",
        ".",
    ]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    trained = Catalogue([folder / "made" / "checkpoint"]).load("made")
    assert trained.config["training"]["calibration"] == [16]
    assert not list((folder / "made").glob(".uncalibrated-*"))
    born = Birth(SPEC, add_shams(data.read_cells(SPEC, folder), 2, 0)).tilts
    result = Sampler.load(trained, threads=1).network.tilt
    assert result
    assert result.theta.shape == born.theta.shape
    assert not np.array_equal(result.theta.numpy(), born.theta)
