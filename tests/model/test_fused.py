"""Functions with gradients written out agree with plain expressions and their autograd."""

from contextlib import nullcontext

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from benchmarks.speed.__main__ import main
from benchmarks.speed.before import plain_training
from benchmarks.speed.samplers import timed_sampler
from benchmarks.speed.training import Step
from lingshu_model.network import diffusion, numerics
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions, VocabularySizes
from lingshu_model.network.config import PRESETS, NetworkConfig
from lingshu_model.network.tokens import MASK

GENES, CELLS = 41, 6
PAPER = NetworkConfig(32, 2, 2, 64, group=4, d_gene=32)
SIZES = VocabularySizes(context_values=2, targets=3, kinds=2, gene_features=4, tilts=1)


def network_of(config: NetworkConfig) -> Network:
    """A network whose genes have largest tokens of every width, and weights that matter."""
    largest = torch.tensor([0, 1, 3, 7, 12, 30, 99, 280]).repeat(6)[:GENES]
    network = Network(config, GENES, SIZES, seed=3, ceiling=largest)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def batch() -> tuple[Tensor, Tensor, Conditions, Tensor, Tensor]:
    """Cells with an unmeasured gene, a count above its largest token, and an all-masked cell."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.poisson(torch.full((CELLS, GENES), 1.5), generator=generator).long()
    tokens[:, 4], tokens[0, 1] = MASK, 9
    first = torch.zeros(CELLS, 1, dtype=torch.int64)
    conditions = Conditions(first, first, first, first, first, first.float(), torch.zeros(CELLS))
    times = torch.linspace(0.05, 1.0, CELLS)
    return tokens, tokens != MASK, conditions, times, torch.rand(tokens.shape, generator=generator)


def loss_and_gradients(
    network: Network, dtype: torch.dtype, *, plain: bool
) -> tuple[float, dict[str, Tensor]]:
    network.zero_grad()
    with plain_training() if plain else nullcontext(), torch.autocast(
        "cpu", dtype, enabled=dtype != torch.float32
    ):  # fmt: skip
        loss = diffusion.loss(network, *batch())
    # A factor other than 1, as of a micro-batch.
    (loss * 0.25).backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    return loss.item(), gradients


@pytest.mark.parametrize("short", [2, 64], ids=["long sequence", "short sequence"])
@pytest.mark.parametrize(
    "config", [PAPER, PRESETS["lingshu-tiny"].without_offsets()], ids=["paper's", "small"]
)
@pytest.mark.parametrize("logits", [1 << 19, 300], ids=["whole", "in chunks"])
def test_loss_and_gradients_are_those_of_the_plain_expressions(
    config: NetworkConfig, short: int, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "SHORT", short)
    monkeypatch.setattr(numerics, "LOGITS", logits)
    network = network_of(config)
    loss, gradients = loss_and_gradients(network, torch.float32, plain=False)
    expected, of_plain = loss_and_gradients(network, torch.float32, plain=True)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == of_plain.keys()
    for name, gradient in gradients.items():
        scale = float(of_plain[name].abs().max()) + 1e-12
        assert float((gradient - of_plain[name]).abs().max()) < 2e-4 * scale, name


def test_a_training_step_is_timed_before_and_after_with_the_same_loss() -> None:
    checkpoint = timed_sampler("lingshu-tiny", genes=GENES, steps=1, guidance=0.0, tile=4)
    step = Step(checkpoint, batch=4, micro_batch=4, threads=1, device="cpu", whole=False)
    (cells,) = step.cells.batches(0, step.spec, 0, 1)
    after = step.model(cells).item()
    with plain_training():
        before = step.model(cells).item()
    assert after == pytest.approx(before, rel=1e-2)  # bf16 where the CPU has it
    step()
    assert CliRunner().invoke(main, ["compare", "--help"]).exit_code == 0


def test_as_many_steps_come_to_the_same_loss() -> None:
    checkpoint = timed_sampler("lingshu-tiny", genes=GENES, steps=1, guidance=0.0, tile=4)
    losses = []
    for plain in (True, False):
        step = Step(checkpoint, batch=8, micro_batch=4, threads=1, device="cpu", whole=False)
        step.plain = plain
        losses.append([step() for _ in range(12)])
    # Rounding grows with the steps; a wrong gradient would show in the second.
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
