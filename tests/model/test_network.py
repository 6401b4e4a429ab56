"""The network has the published shape, and prefix order and unmeasured genes mean nothing to it."""

import pytest
import torch

from lingshu_model.network import numerics
from lingshu_model.network.blocks import Block, attend
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions, VocabularySizes
from lingshu_model.network.config import PRESETS, NetworkConfig
from lingshu_model.network.tokens import MASK
from lingshu_model.train.ema import PowerEMA, gamma_of

SIZES = VocabularySizes(context_values=2, targets=5, kinds=3, gene_features=4)


@pytest.mark.parametrize("name", ["lingshu-85m-s8", "lingshu-85m-s32"])
def test_the_paper_presets_have_the_papers_backbone(name: str) -> None:
    config = PRESETS[name]
    block = 4 * config.d_model**2 + 3 * config.d_model * config.d_ff + 2 * config.d_model
    with torch.device("meta"):
        blocks = [p for _ in range(config.n_layers) for p in Block(config).parameters()]
    assert sum(p.numel() for p in blocks) + config.d_model == 85_214_080
    assert config.n_layers * block + config.d_model == 85_214_080
    assert (config.group_embedding, config.gene_bias, config.d_gene) == (False, False, 640)
    assert not config.levelled


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="d_model 65"):
        NetworkConfig(65, 1, 4, 8, 2, 8)


def condition(*slots: tuple[int, int, int], present: list[bool] | None = None) -> Conditions:
    target, kind, gene = (torch.tensor([part]) for part in zip(*slots, strict=True))
    shown = None if present is None else torch.tensor([present])
    dose = torch.zeros(1, len(slots))
    offset = torch.zeros_like(target)
    return Conditions(
        torch.tensor([[0, 1]]), target, kind, gene, offset, dose, torch.zeros(1), shown
    )


def test_the_order_of_interventions_changes_no_more_than_rounding() -> None:
    network = Network(PRESETS["lingshu-tiny"], 10, SIZES).eval()
    tokens = torch.arange(10)[None]
    item = network(tokens, condition((1, 1, 2), (3, 2, 4)))
    other = network(tokens, condition((3, 2, 4), (1, 1, 2)))
    torch.testing.assert_close(item, other, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(item, network(tokens, condition((1, 1, 2), (2, 2, 4))), atol=1e-5)


def test_an_unused_slot_is_not_attended_to() -> None:
    network = Network(PRESETS["lingshu-tiny"], 10, SIZES).eval()
    tokens = torch.arange(10)[None]
    alone = network(tokens, condition((1, 1, 2)))
    padded = condition((1, 1, 2), (0, 0, 0), present=[True, False])
    torch.testing.assert_close(alone, network(tokens, padded), rtol=1e-4, atol=1e-5)


def test_genes_come_out_in_the_order_they_went_in() -> None:
    network = Network(PRESETS["lingshu-tiny"], 10, SIZES).eval()
    masked = torch.full((1, 10), MASK)
    shown = masked.clone()
    shown[0, 7] = 40
    position = int(network.permutation.tolist().index(7)) // network.config.group
    packed = network._pack(shown) - network._pack(masked)
    assert packed.abs().sum(dim=(0, 2)).nonzero().flatten().tolist() == [position]
    inverse = network._unpack(torch.arange(12.0).repeat_interleave(32).view(1, 3, 128))
    assert inverse[0, :, 0].tolist() == network.inverse.tolist()


def test_the_averages_exponent_is_edm2s() -> None:
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.01)


def test_the_average_is_the_power_weighted_mean_of_all_steps() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    ema = PowerEMA(module, sigma_rel=0.1)
    values = [3.0, -1.0, 4.0, 1.0]
    for value in values:
        with torch.no_grad():
            module.weight.fill_(value)
        ema.update(module)
    exponent = ema.gamma + 1
    weights = [(t / 4) ** exponent - ((t - 1) / 4) ** exponent for t in range(1, 5)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True))
    assert ema.average["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_packing_by_table_adds_up_to_the_product() -> None:
    network = Network(PRESETS["lingshu-tiny"], 10, SIZES).eval()
    tokens = torch.tensor([[0, 5, MASK, 280, 1, 1, 99, MASK, 2, 7], [MASK] * 10])
    product = network._pack(tokens)
    network.tabulate()
    torch.testing.assert_close(network._pack(tokens), product, rtol=1e-5, atol=1e-6)
    assert "table" not in network.state_dict()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_long_sequences_is_the_fused_one_but_for_rounding(
    monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 200, 16, generator=generator).bfloat16()
    mask = torch.rand(2, 1, 1, 200, generator=generator) < 0.8 if masked else None
    fused = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask)
    monkeypatch.setattr(numerics, "SCORES", 2 * 200**2)
    parts = attend(q, k, v, mask)
    torch.testing.assert_close(parts.float(), fused, rtol=0.05, atol=0.02)
    monkeypatch.setattr(numerics, "SCORES", 1 << 40)
    assert torch.equal(attend(q, k, v, mask), parts)
