"""One, two and four real gloo ranks train alike; one that dies ends the others with one line."""

import csv
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from made_model import SPEC
from safetensors.torch import load_file

from lingshu_model.network.vocabulary import stack
from lingshu_model.train import loop, ranks
from lingshu_model.train.data import sources as data
from lingshu_model.train.initialisation import InitialState
from lingshu_model.train.spec import TrainingSpec

LOSS_TOLERANCE = 1e-3
"""Relative: gradients of smaller parts, rounded to bf16, are added in another order."""
WEIGHT_TOLERANCE = 1e-2
"""Of the weights' length; Adam makes a whole step of what rounding left of a small gradient."""


def rank_command(count: int, spec: Path, folder: Path) -> list[str]:
    arguments = [str(spec), "--data", str(folder), "--out", str(folder / f"ranks-{count}")]
    module = ["-m", "lingshu_model.train", *arguments, "--threads", "1", "--ranks", str(count)]
    if count == 1:
        return [sys.executable, *module]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    return [*launch, "--num_processes", str(count), "--main_process_port", "0", *module]


def environ() -> dict[str, str]:
    return os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def spec_file(folder: Path) -> Path:
    spec = SPEC.model_copy(update={"epochs": 2})
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    return path


@pytest.fixture
def batches(folder: Path) -> loop.CellBatches:
    initial_state = InitialState(SPEC, data.read_cells(SPEC, folder))
    conditions = stack(
        [
            initial_state.vocabulary.conditions(dict(c.context), c.interventions)
            for c in initial_state.cells.conditions
        ]
    )
    return loop.CellBatches.of(initial_state.cells, conditions, torch.device("cpu"))


@pytest.mark.parametrize("count", [2, 4])
def test_the_ranks_of_a_step_have_its_cells_and_its_noise_between_them(
    batches: loop.CellBatches, count: int
) -> None:
    spec = SPEC.model_copy(update={"micro_batch": 2})
    (whole,) = batches.batches(3, SPEC.model_copy(update={"micro_batch": 16}), 0, 1)
    for rank in range(count):
        parts = list(batches.batches(3, spec, rank, count))
        for name in ("tokens", "times", "uniform"):
            mine = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(mine, getattr(whole, name)[rank::count])


def test_a_step_that_ranks_cannot_share_evenly_is_refused(batches: loop.CellBatches) -> None:
    with pytest.raises(ranks.RanksError, match="16 cells cannot be shared evenly by 3 ranks"):
        next(batches.batches(0, SPEC, 0, 3))


def test_another_number_of_processes_than_asked_for_is_refused_with_the_recipe() -> None:
    with pytest.raises(ranks.RanksError, match=r"there are 1 processes.*ACCELERATE_USE_CPU=true"):
        ranks.check(Accelerator(cpu=True), 2)


def test_an_error_of_ones_own_is_not_a_lost_rank() -> None:
    with (
        pytest.raises(RuntimeError, match="gloo, but alone"),
        ranks.together(Accelerator(cpu=True)),
    ):
        raise RuntimeError("gloo, but alone")


@pytest.mark.slow
def test_one_two_and_four_ranks_come_to_the_same_losses_and_weights(
    folder: Path, spec_file: Path
) -> None:
    losses, weights = {}, {}
    for count in (1, 2, 4):
        subprocess.run(
            rank_command(count, spec_file, folder), env=environ(), check=True, capture_output=True
        )
        run = folder / f"ranks-{count}" / SPEC.name
        with (run / "log.csv").open() as log:
            rows = list(csv.DictReader(log))
        losses[count] = [
            float(row[name]) for row in rows for name in ("train_nats", "validation_nats")
        ]
        weights[count] = load_file(run / "checkpoint" / SPEC.name / "model-00.safetensors")
    assert len(losses[1]) == 2 * 2
    for count in (2, 4):
        assert losses[count] == pytest.approx(losses[1], rel=LOSS_TOLERANCE)
        apart = sum(float((weights[count][n] - w).square().sum()) for n, w in weights[1].items())
        length = sum(float(w.square().sum()) for w in weights[1].values())
        assert (apart / length) ** 0.5 < WEIGHT_TOLERANCE


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the rank in /proc")
def test_a_rank_that_dies_ends_the_others_with_one_line_and_the_run_goes_on(
    folder: Path, spec_file: Path
) -> None:
    spec = TrainingSpec.read(spec_file).model_copy(update={"epochs": 100_000})
    spec_file.write_text(spec.model_dump_json())
    with (folder / "group.log").open("w") as log:
        group = subprocess.Popen(
            rank_command(2, spec_file, folder), env=environ(), stdout=log, stderr=log
        )
    pause = threading.Event()
    while not (folder / "ranks-2" / SPEC.name / "log.csv").exists():
        assert group.poll() is None, (folder / "group.log").read_text()
        pause.wait(0.05)
    os.kill(pid_of_rank(group.pid, 1), signal.SIGKILL)
    assert group.wait(60) != 0
    lines = (folder / "group.log").read_text().splitlines()
    said = [line for line in lines if line.startswith("lingshu train:")]
    assert len(said) == 1
    assert "rank 0 ends: another rank is gone" in said[0]
    assert "Run the same command again" in said[0]
    assert not any("train/loop.py" in line for line in lines)  # no traceback of ours


def pid_of_rank(launcher: int, rank: int) -> int:
    """The launcher's child with this rank, from Linux's own records."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"launcher {launcher} has no rank {rank}")
