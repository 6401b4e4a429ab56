"""The script for GPUs runs on a CPU at a tiny size; the network has no tensor on another device."""

import csv
import subprocess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.gpu import __main__ as script
from benchmarks.gpu.replay import Sampled
from lingshu_model.network import numerics
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions, VocabularySizes
from lingshu_model.network.config import PRESETS

TINY = ["--device", "cpu", "--tiny", "--minutes", "0"]


def test_it_trains_samples_and_replays_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    result = CliRunner().invoke(script.main, [*TINY, "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = csv.DictReader(out.read_text("utf-8").splitlines())
    values = {row["quantity"]: row["value"] for row in rows}
    for name in (
        "two trainings are equal to the bit",
        "loss falls",
        "sampling: the profile of a second process is the same",
        "sampling: its cells are equal to the bit",
    ):
        assert values[name] == "True"
    assert float(values["cells per second"]) > 0
    assert float(values["mean UMI of a cell"]) > 0
    assert "| training | loss falls | True |" in result.output


def test_a_difference_of_a_replay_ends_with_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Sampled(["0"], "sha256:0", 1.0, 1.0)
    monkeypatch.setattr(script, "sampled_in_a_child", lambda _tiles: other)
    result = CliRunner().invoke(script.main, TINY)
    assert result.exit_code == 1
    assert "failed: " in result.output
    assert "its cells are equal to the bit" in result.output.split("failed: ")[1]


def test_without_a_gpu_it_says_what_can_be_run() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = subprocess.run(["benchmarks/gpu/run"], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "--device cpu --tiny" in run.stderr


@pytest.mark.parametrize("name", ["lingshu-1m-s13", "lingshu-7m-s128", "lingshu-paper-1m-s13"])
def test_a_network_computes_on_another_device_as_far_as_shapes_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Autocast does not know the meta device.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _device: False)
    sizes = VocabularySizes(context_values=2, targets=3, kinds=2, gene_features=4)
    network = Network(PRESETS[name].without_offsets(), 300, sizes).to("meta")
    index = torch.zeros(2, 1, dtype=torch.int64, device="meta")
    number = torch.zeros(2, 1, device="meta")
    conditions = Conditions(index, index, index, index, index, number, number[:, 0])
    tokens = torch.zeros(2, 300, dtype=torch.int64, device="meta")
    # Meta tensors have a device and a shape and no values: operands of two devices are refused.
    packed, level = network.packed(tokens, conditions)
    packed.sum().backward()
    assert packed.device.type == "meta"
    assert packed.shape[1] == network.groups
    assert level is None or level.shape == (2, 300)
    assert network.group_down.weight.grad is not None


def test_float32_products_are_not_tf32() -> None:
    numerics.prepare(1)
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    # torch.compile reads the older setting, which must not contradict the newer.
    assert torch.get_float32_matmul_precision() == "highest"
