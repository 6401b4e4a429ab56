"""Sampled cells follow the model's distribution, and depend on seed, cell and condition alone."""

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from made_model import GENES, arm

from lingshu_model.contracts import Checkpoint, decode_cells, encode_cells
from lingshu_model.contracts.streams import Purpose, raw
from lingshu_model.network import numerics, tokens
from lingshu_model.network.vocabulary import ConditionError
from lingshu_model.sampling import sampler as sampling
from lingshu_model.sampling.pool import numeric_libraries
from lingshu_model.sampling.sampler import (
    Sampler,
    Stopped,
    cumulative,
    inverse_cdf,
    running_sums,
    sample_arm,
)
from lingshu_model.sampling.schedule import reveal_counts, reveal_steps


def test_the_cosine_schedule_reveals_the_papers_counts() -> None:
    assert reveal_counts(18_080, 3, "cosine").tolist() == [2422, 6618, 9040]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(("genes", "steps"), [(299, 8), (5, 8), (1, 1), (18_080, 256)])
def test_every_gene_is_revealed_once(genes: int, steps: int, schedule: str) -> None:
    counts = reveal_counts(genes, steps, schedule)
    assert counts.sum() == genes
    assert counts.min() >= 0


def test_the_information_schedule_begins_with_few_telling_genes() -> None:
    weights = np.concatenate([np.full(20, 10.0), np.full(980, 0.01)])
    counts = reveal_counts(1000, 8, "information", weights)
    assert counts.sum() == 1000
    assert counts[0] < 5
    assert counts[-1] > 900
    keys = np.random.Generator(np.random.Philox(2)).integers(0, 2**64, 1000, np.uint64)
    steps = reveal_steps(keys, counts, weights)
    assert np.bincount(steps, minlength=8).tolist() == counts.tolist()
    early = np.argsort(reveal_steps(keys, np.ones(1000, np.int64), weights))[:20]
    assert np.mean(early < 20) > 0.6


def test_a_gene_of_twice_the_weight_comes_first_twice_as_often() -> None:
    keys = np.random.Generator(np.random.Philox(3)).integers(0, 2**64, (6000, 3), np.uint64)
    one_by_one, weights = np.ones(3, np.int64), np.array([1.0, 2.0, 1.0])
    first = [reveal_steps(k, one_by_one, weights).argmin() for k in keys]
    assert np.bincount(first) / 6000 == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="'quadratic' is not known; it is one of cosine, linear"):
        reveal_counts(10, 2, "quadratic")


@pytest.mark.parametrize("n_cells", [1, 7, 33])
def test_a_cell_is_the_same_whoever_is_beside_it(
    sampler: Sampler, checkpoint: Checkpoint, n_cells: int
) -> None:
    whole = sample_arm(sampler, arm(checkpoint, "G1", n_cells=40)).counts
    assert np.array_equal(
        sample_arm(sampler, arm(checkpoint, "G1", n_cells=n_cells)).counts, whole[:n_cells]
    )


def test_a_range_of_cells_asked_for_alone_equals_that_range_of_the_whole(
    sampler: Sampler, checkpoint: Checkpoint
) -> None:
    whole = sample_arm(sampler, arm(checkpoint, "G1", n_cells=40)).counts
    part = sample_arm(sampler, arm(checkpoint, "G1", first_cell=16, n_cells=16)).counts
    assert np.array_equal(part, whole[16:32])


def test_tiles_may_be_computed_in_any_order_by_a_fresh_sampler(checkpoint: Checkpoint) -> None:
    request = arm(checkpoint, "G5", n_cells=48)
    forward = Sampler.load(checkpoint, dtype="float32", threads=1, device="cpu")
    backward = Sampler.load(checkpoint, dtype="float32", threads=1, device="cpu")
    ahead = [forward.sample_tile(request, t) for t in (0, 1, 2)]
    behind = [backward.sample_tile(request, t) for t in (2, 1, 0)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(ahead, behind, strict=True))


def test_seeds_and_conditions_give_other_cells(sampler: Sampler, checkpoint: Checkpoint) -> None:
    base = sample_arm(sampler, arm(checkpoint, "G1")).counts
    assert not np.array_equal(base, sample_arm(sampler, arm(checkpoint, "G1", seed=12)).counts)
    assert not np.array_equal(base, sample_arm(sampler, arm(checkpoint)).counts)


def test_guidance_zero_is_the_plain_condition_and_two_is_not(
    sampler: Sampler, checkpoint: Checkpoint
) -> None:
    plain = sample_arm(sampler, arm(checkpoint, "G1")).counts
    guided = sample_arm(sampler, arm(checkpoint, "G1", guidance=2.0)).counts
    assert not np.array_equal(plain, guided)
    control = sample_arm(sampler, arm(checkpoint)).counts
    assert np.array_equal(control, sample_arm(sampler, arm(checkpoint, guidance=2.0)).counts)


def test_one_step_draws_each_genes_marginal(sampler: Sampler, checkpoint: Checkpoint) -> None:
    request = arm(checkpoint, "G1", steps=1, n_cells=1600)
    counts = sample_arm(sampler, request).counts
    network = sampler.network
    conditions = sampler.vocabulary.conditions(request.context, request.interventions)
    depths = checkpoint.depth_quantiles(request.context, request.interventions)
    middles = torch.from_numpy((depths[1:] + depths[:-1]) / 2).float()
    masked = torch.full((len(middles), len(GENES)), 281)
    with torch.inference_mode():
        rows = network(masked, conditions.expand(len(middles)).at_depth(middles))
        for bucket in network.readout:
            distributions = (
                network.readout.of_bucket(bucket, rows[:, bucket.genes]).softmax(-1).mean(0)
            )
            for gene, distribution in zip(
                bucket.genes.tolist(), distributions.double().numpy(), strict=True
            ):
                seen = np.bincount(counts[:, gene], minlength=len(distribution)) / len(counts)
                # Total variation of 1,600 draws from the distribution itself stays well under this.
                assert np.abs(seen - distribution).sum() / 2 < 0.12


def test_clamped_genes_keep_their_count_in_every_cell(
    sampler: Sampler, checkpoint: Checkpoint
) -> None:
    counts = sample_arm(sampler, arm(checkpoint, clamp={"G3": 0, "G9": 57})).counts
    assert set(counts[:, 3]) == {0}
    assert set(counts[:, 9]) == {57}


def test_control_and_perturbed_cells_share_their_uniforms(
    sampler: Sampler, checkpoint: Checkpoint
) -> None:
    control = sample_arm(sampler, arm(checkpoint, n_cells=160)).counts
    paired = sample_arm(sampler, arm(checkpoint, "G1", n_cells=160)).counts
    other = sample_arm(sampler, arm(checkpoint, "G1", n_cells=160, seed=99)).counts
    gene = len(GENES) - 1
    together = np.corrcoef(control[:, gene], paired[:, gene])[0, 1]
    apart = np.corrcoef(control[:, gene], other[:, gene])[0, 1]
    assert together > 0.5 > abs(apart) + 0.2


def test_sampling_stops_between_two_steps(sampler: Sampler, checkpoint: Checkpoint) -> None:
    answers: Iterator[bool] = iter([False, True])
    with pytest.raises(Stopped):
        sampler.sample_tile(arm(checkpoint), 0, lambda: next(answers))
    assert next(answers, None) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": {"cell_line": "K562"}}, "cell_line is 'K562'; known: made"),
        ({"context": {}}, "must have"),
        ({"interventions": [{"kind": "drug", "target": "G1"}]}, "kind 'drug' was never trained"),
        ({"interventions": [{"kind": "knockout", "target": "TP53"}]}, "'TP53' was never"),
    ],
)
def test_a_condition_without_a_token_is_refused(
    sampler: Sampler, checkpoint: Checkpoint, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConditionError, match=words):
        sampler.sample_tile(arm(checkpoint, **changes), 0)


def test_no_gene_is_drawn_above_the_largest_count_that_training_saw(
    checkpoint: Checkpoint,
) -> None:
    sampler = Sampler.load(checkpoint, threads=1)
    with torch.no_grad():
        for bucket in sampler.network.readout:
            if bucket.bias is not None:
                bucket.bias[:, -1] += 50.0
    seen = tokens.decode(sampler.network.ceiling.numpy())
    assert seen.max() < 30
    for guidance in (0.0, 2.0):
        request = arm(checkpoint, "G1", n_cells=16, guidance=guidance)
        assert (sample_arm(sampler, request).counts <= seen).all()


def test_inverse_cdf_is_monotone_and_never_leaves_the_vocabulary() -> None:
    cdf = cumulative(torch.tensor([[0.0, 1.0, 2.0]]).expand(4, -1))
    uniform = torch.tensor([1e-17, 0.3, 0.999, 1 - 1e-16], dtype=torch.float64)
    assert inverse_cdf(cdf, uniform).tolist() == [0, 1, 2, 2]


def test_running_sums_as_a_product_are_the_running_sums() -> None:
    values = torch.rand(5, 281, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(running_sums(values), values.cumsum(dim=-1), rtol=1e-13, atol=0)


def test_cells_travel_without_loss(sampler: Sampler, checkpoint: Checkpoint) -> None:
    cells = sample_arm(sampler, arm(checkpoint, n_cells=5))
    blob = encode_cells(cells)
    assert np.array_equal(decode_cells(blob).counts, cells.counts)
    assert encode_cells(decode_cells(blob)) == blob
    with pytest.raises(ValueError, match="lingshu-cells-1"):
        decode_cells(blob[:-7])


@pytest.mark.parametrize("steps", [1, 3, 8, 64])
def test_genes_are_revealed_in_the_order_of_their_keys(steps: int) -> None:
    counts = reveal_counts(40, steps, "cosine")
    keys = raw(5, 7, Purpose.ORDER, 40)
    ranked = np.empty(40, np.int64)
    ranked[np.argsort(keys, kind="stable")] = np.repeat(np.arange(steps), counts)
    assert reveal_steps(keys, counts).tolist() == ranked.tolist()


def test_of_equal_keys_the_first_gene_is_revealed_first() -> None:
    keys = np.array([3, 9, 3, 3, 1], np.uint64)
    assert reveal_steps(keys, np.array([2, 0, 1, 2])).tolist() == [0, 3, 2, 3, 0]


def test_a_tile_in_parts_has_the_cells_of_the_whole(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = arm(checkpoint, "G1", n_cells=16, guidance=2.0)
    whole = Sampler.load(checkpoint, dtype="float32", threads=1, device="cpu")
    monkeypatch.setattr(numerics, "WHOLE", 15 * whole.network.groups)
    monkeypatch.setattr(numerics, "TOKENS", 7 * whole.network.groups)
    parts = Sampler.load(checkpoint, dtype="float32", threads=1, device="cpu")
    assert (whole.at_once, parts.at_once) == (16, 4)
    assert parts.profile() == whole.profile() | {"at_once": 4}
    differing = whole.sample_tile(request, 0) != parts.sample_tile(request, 0)
    assert differing.mean() < 0.01  # rounding decides a draw now and then


def test_first_steps_are_kept_no_longer_than_they_fit(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "FIRST_STEPS_BYTES", 1)
    sampler = Sampler.load(checkpoint, dtype="float32", threads=1, device="cpu")
    sampler.network.state = sampler.network.to_state = None
    for target in ("G1", "G5", "G1"):
        sampler._first_step(arm(checkpoint, target), sampler._start(arm(checkpoint))[None])
        assert len(sampler._first) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_sampler_is_another_profile_of_the_same_law(checkpoint: Checkpoint) -> None:
    request = arm(checkpoint, "G1", n_cells=16)
    eager = Sampler.load(checkpoint, dtype="float32", threads=1, device="cpu")
    compiled = Sampler.load(
        checkpoint, threads=1, dtype="float32", device="cpu", compiled="default"
    )
    assert compiled.profile() == eager.profile() | {"compiled": "default"}
    differing = eager.sample_tile(request, 0) != compiled.sample_tile(request, 0)
    assert differing.mean() < 0.01


def test_variables_that_change_bits_are_in_the_profile_where_they_are_set(
    monkeypatch: pytest.MonkeyPatch,
):
    def profile() -> dict[str, object]:
        return numerics.profile(torch.device("cpu"), torch.float32, 32, length=64, at_once=32)

    before = profile()
    assert "library_settings" not in before
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    settings = {"library_settings": {"OPENBLAS_CORETYPE": "Haswell"}}
    assert profile() == before | settings
    assert numeric_libraries().items() >= settings.items()
