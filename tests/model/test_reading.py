"""The paper's shape is read without W_up; the plain reference sampler draws alike."""

import numpy as np
import pytest
import torch

from benchmarks.speed import plain, samplers
from lingshu_model.network import numerics, tokens
from lingshu_model.network.config import PRESETS, NetworkConfig
from lingshu_model.sampling.logits import Reading
from lingshu_model.sampling.sampler import Sampler

GENES = 41


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Sampler:
    """A sampler of the paper's family, small, with weights large enough to tell genes apart."""
    config = NetworkConfig(32, 2, 2, 64, group=4, d_gene=32)
    monkeypatch.setitem(PRESETS, "paper-tiny", config)
    monkeypatch.setattr(numerics, "MIDDLE", 4)
    monkeypatch.setattr(numerics, "SHORT", 2)
    checkpoint = samplers.timed_sampler("paper-tiny", genes=GENES, steps=3, guidance=2.0, tile=64)
    network, vocabulary = samplers.network_of(checkpoint)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return Sampler(checkpoint, network, vocabulary, torch.float32)


def test_logits_straight_from_groups_are_those_of_w_up_and_the_head(sampler: Sampler) -> None:
    network = sampler.network
    assert sampler.reading.folded is not None
    current = torch.randint(0, 282, (3, GENES), generator=torch.Generator().manual_seed(1))
    condition = sampler.vocabulary.conditions(samplers.CONTEXT, ()).expand(3)
    (bucket,) = network.readout
    cell, member = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([40, 3, 3, 0, 17])
    with torch.inference_mode():
        hidden = network(current, condition)[cell, bucket.genes[member]]
        expected = network.readout.of_rows(bucket, hidden, member)
        rows = sampler.reading.result(current, condition)
        result = torch.full_like(expected, torch.nan)
        for logits, part in sampler.reading.logits(rows, bucket, cell, member):
            result[part] = logits
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_a_long_network_with_a_level_path_is_read_gene_by_gene(sampler: Sampler) -> None:
    checkpoint = samplers.timed_sampler("lingshu-tiny", genes=GENES, steps=3, guidance=0.0, tile=4)
    network, _ = samplers.network_of(checkpoint)
    assert network.groups > numerics.MIDDLE
    assert Reading.of(network).folded is None


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_the_plain_reference_sampler_draws_the_same_law(sampler: Sampler, guidance: float) -> None:
    arm = samplers.arm_of(sampler.checkpoint, None, guidance)
    ours = np.concatenate([sampler.sample_tile(arm, tile) for tile in range(24)])
    generator = torch.Generator().manual_seed(2)
    theirs = plain.sample(
        sampler.network, sampler.vocabulary, arm, "cosine", len(ours), generator
    ).numpy()
    assert ours.shape == theirs.shape
    ours = tokens.encode(ours)
    for gene in range(0, GENES, 8):
        bins = [np.bincount(x[:, gene] // 40, minlength=8) / len(x) for x in (ours, theirs)]
        # Total variation between two samples of 1,536 over 8 values stays under this.
        assert np.abs(bins[0] - bins[1]).sum() / 2 < 0.08
