"""Sampling with fewer passes over memory draws the cells that the plain expressions draw."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from benchmarks.speed import comparison_sampling, samplers
from benchmarks.speed.__main__ import main
from benchmarks.speed.before_sampling import alternately
from benchmarks.speed.training import largest_of, made_counts
from lingshu_model.network import numerics, tokens
from lingshu_model.network.blocks import NORM_EPS, norm, rotary, rotated
from lingshu_model.network.config import PRESETS, NetworkConfig
from lingshu_model.sampling.sampler import Sampler

GENES, TILE = 150, 16
DTYPES = (torch.float32, torch.bfloat16)


def sampler_of(preset: str, dtype: torch.dtype, *, guidance: float, schedule: str) -> Sampler:
    """A sampler with genes of every width and weights that tell genes and conditions apart."""
    checkpoint = samplers.timed_sampler(
        preset, genes=GENES, steps=3, guidance=guidance, tile=TILE, schedule=schedule
    )
    network, vocabulary = samplers.network_of(checkpoint, largest_of(made_counts(64, GENES)))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Sampler(checkpoint, network, vocabulary, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("preset", "guidance", "schedule"),
    [
        ("lingshu-tiny", 0.0, "cosine"),
        ("lingshu-1m-s13", 0.0, "information"),
        ("lingshu-paper-tiny", 2.0, "cosine"),
    ],
)
def test_cells_are_those_of_the_plain_expressions(
    preset: str, guidance: float, schedule: str, dtype: torch.dtype
) -> None:
    sampler = sampler_of(preset, dtype, guidance=guidance, schedule=schedule)
    plain = samplers.arm_of(sampler.checkpoint, None, guidance)
    for arm in (plain, plain.model_copy(update={"clamp": {"G7": 3}})):
        before, after = alternately(lambda a=arm: sampler.sample_tile(a, 1))
        drawn = after()
        # Products of other shapes may round otherwise, which decides a draw now and then.
        assert (before() != drawn).mean() < 0.005
        assert len(np.unique(drawn, axis=0)) == TILE


def test_completed_cells_are_those_of_the_plain_expressions() -> None:
    sampler = sampler_of("lingshu-tiny", torch.float32, guidance=0.0, schedule="cosine")
    arm = samplers.arm_of(sampler.checkpoint, None, 0.0)
    # Other genes are known in every cell.
    known = np.where(np.random.Generator(np.random.Philox(1)).random((TILE, GENES)) < 0.5, 2, 281)
    assert tokens.MASK == 281
    depth = np.linspace(7, 9, TILE).astype(np.float32)
    before, after = alternately(lambda: sampler.complete_tile(arm, 0, known, depth))
    completed = after()
    assert (before() != completed).mean() < 0.005
    assert (completed[known == 2] == 2).all()


def test_the_rows_of_a_folded_readout_are_those_of_the_plain_expressions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PRESETS, "folded", NetworkConfig(32, 2, 2, 64, group=4, d_gene=32))
    monkeypatch.setattr(numerics, "MIDDLE", 4)
    sampler = sampler_of("folded", torch.float32, guidance=2.0, schedule="cosine")
    assert sampler.reading.folded is not None
    before, after = alternately(
        lambda: sampler.sample_tile(samplers.arm_of(sampler.checkpoint, None, 2.0), 0)
    )
    assert (before() != after()).mean() < 0.005


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rotation_is_that_of_its_formula_to_the_bit(dtype: torch.dtype) -> None:
    config = PRESETS["lingshu-1m-s13"]
    x = torch.randn(3, 11, 2, config.n_heads, 32, generator=torch.Generator().manual_seed(1))
    x = x.to(dtype)
    rope = rotary(7, 4, config, x.device)
    cos, sin = (angles.to(dtype)[:, None, None] for angles in rope)
    a, b = x.chunk(2, dim=-1)
    expected = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    assert torch.equal(rotated(x, (rope[0].to(dtype), rope[1].to(dtype))), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_is_torchs_to_the_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(5, 7, 96, generator=generator), torch.rand(96, generator=generator)
    x = x.to(dtype)
    before = x.clone()
    expected = F.rms_norm(before, (96,), weight.to(dtype), NORM_EPS)
    assert torch.equal(norm(x, weight), expected)
    assert torch.equal(x, before)  # the input is a residual: it stays


def test_rows_of_genes_are_those_of_the_network_to_the_bit() -> None:
    sampler = sampler_of("lingshu-tiny", torch.float32, guidance=0.0, schedule="cosine")
    generator = torch.Generator().manual_seed(1)
    current = torch.randint(0, 282, (5, GENES), generator=generator)
    conditions = sampler.vocabulary.conditions(samplers.CONTEXT, ()).expand(5)
    conditions = conditions.at_depth(torch.linspace(7, 9, 5))
    cell, gene = (torch.randint(0, n, (400,), generator=generator) for n in (5, GENES))
    with torch.inference_mode():
        rows = sampler.reading.result(current, conditions)
        assert torch.equal(rows(cell, gene), sampler.network(current, conditions)[cell, gene])


def test_cells_with_the_same_tokens_are_packed_together() -> None:
    network = sampler_of("lingshu-tiny", torch.float32, guidance=0.0, schedule="cosine").network
    row = torch.randint(0, 282, (1, GENES), generator=torch.Generator().manual_seed(1))
    shapes: list[torch.Size] = []
    network.group_down.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    with torch.inference_mode():
        expanded, copied = (network._pack(x) for x in (row.expand(6, -1), row.repeat(6, 1)))
    torch.testing.assert_close(expanded, copied)
    assert [shape[0] for shape in shapes] == [1, 6]


def test_compare_prints_a_row_of_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        comparison_sampling, "CASES", (("lingshu-tiny", GENES, TILE, 2, 0.0, False),)
    )
    monkeypatch.setattr(comparison_sampling, "PRODUCTS", 1)
    result = CliRunner().invoke(
        main, ["compare", "--sampling", "--rounds", "1", "--case", "0"], catch_exceptions=False
    )
    cells = [cell.strip() for cell in result.output.strip().strip("|").split("|")]
    assert cells[:2] == ["lingshu-tiny", str(GENES)]
    assert len(cells) == len(comparison_sampling.HEAD)
