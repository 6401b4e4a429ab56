"""Scores are unbiased estimates of the bound; completion keeps what is known."""

import numpy as np
import pytest
import torch
from made_model import CONTEXT, GENES, arm, made_cells

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_model.network import tokens
from lingshu_model.sampling.sampler import Sampler, sample_arm
from lingshu_model.sampling.scoring import embed_cells, score_cells

ALL = np.ones(len(GENES), bool)


def counts(n: int = 12) -> np.ndarray:
    cells = made_cells(3 * n)
    return cells.X[cells.obs["guide"] == "none"].astype(np.int64)


def test_the_estimate_agrees_with_going_through_orders_gene_by_gene(sampler: Sampler) -> None:
    cell = counts()[:1]
    result = score_cells(sampler, np.repeat(cell, 400, axis=0), ALL, CONTEXT, seed=5, draws=4)
    conditions = sampler.vocabulary.conditions(CONTEXT, ())
    depth = torch.log(torch.tensor([float(cell.sum())]))
    true = torch.from_numpy(tokens.encode(cell))[0]
    orders, total = np.random.Generator(np.random.Philox(1)), []
    for _ in range(60):
        order = orders.permutation(len(GENES))
        shown = torch.full((len(GENES), len(GENES)), tokens.MASK)
        for i in range(len(GENES)):
            shown[i, order[:i]] = true[order[:i]]
        with torch.inference_mode():
            messages = conditions.expand(len(shown)).at_depth(depth.expand(len(shown)))
            rows = sampler.network(shown, messages)
            nats = 0.0
            for bucket in sampler.network.readout:
                distribution = sampler.network.readout.of_bucket(bucket, rows[:, bucket.genes])
                logs = distribution.log_softmax(-1)
                for member, gene in enumerate(bucket.genes.tolist()):
                    i = int(np.flatnonzero(order == gene)[0])
                    nats -= float(logs[i, member, true[gene]])
        total.append(nats / len(GENES) / np.log(2))
    spread = np.hypot(result.bits.std() / np.sqrt(400), np.std(total) / np.sqrt(60))
    assert abs(result.bits.mean() - np.mean(total)) < 4 * spread
    assert np.mean(result.error) == pytest.approx(result.bits.std(), rel=0.9)


def test_two_conditions_hide_the_same_genes_so_that_their_difference_is_sharp(
    sampler: Sampler,
) -> None:
    cells = np.repeat(counts()[:1], 60, axis=0)
    lost = [Intervention(kind="knockout", target="G5")]
    item = score_cells(sampler, cells, ALL, CONTEXT, lost, seed=1).bits
    same, apart = (score_cells(sampler, cells, ALL, CONTEXT, seed=s).bits for s in (1, 2))
    assert (item - same).std() < 0.8 * (item - apart).std()


def test_a_cells_score_does_not_depend_on_who_is_beside_it(sampler: Sampler) -> None:
    cells = counts()
    whole = score_cells(sampler, cells, ALL, CONTEXT)
    assert np.allclose(score_cells(sampler, cells[:5], ALL, CONTEXT).draws, whole.draws[:5])


def test_a_count_above_all_training_counts_is_said_and_scored_as_the_largest(
    sampler: Sampler,
) -> None:
    cells = counts(2)
    cells[0, 3] = 5_000
    result = score_cells(sampler, cells, ALL, CONTEXT)
    assert result.clamped.tolist() == [1, 0]
    assert np.isfinite(result.bits).all()


def test_what_cannot_be_scored_is_refused(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match="nothing to score"):
        score_cells(sampler, counts(1), ~ALL, CONTEXT)
    with pytest.raises(ValueError, match="negative"):
        score_cells(sampler, -counts(1) - 1, ALL, CONTEXT)


def test_alike_cells_lie_close_in_the_trunk(sampler: Sampler) -> None:
    cells = counts(4)
    places = embed_cells(sampler, np.concatenate([cells, cells[:1]]), ALL, CONTEXT)
    assert places.shape == (len(cells) + 1, 64)
    assert np.allclose(places[0], places[-1], atol=1e-5)
    assert not np.allclose(places[0], places[1], atol=1e-3)


def test_completion_keeps_what_is_known_and_draws_the_rest(
    sampler: Sampler, checkpoint: Checkpoint
) -> None:
    known = np.resize(tokens.encode(counts()), (sampler.tile, len(GENES)))
    hidden = np.arange(len(GENES)) % 2 == 0
    shown = np.where(hidden, tokens.MASK, known)
    depth = np.full(sampler.tile, 4.5, np.float32)
    drawn = sampler.complete_tile(arm(checkpoint), 0, shown, depth)
    assert np.array_equal(drawn[:, ~hidden], known[:, ~hidden])
    assert not np.array_equal(drawn[:, hidden], known[:, hidden])
    clamped = sampler.complete_tile(arm(checkpoint, clamp={"G3": 7}), 0, shown, depth)
    assert set(clamped[:, 3]) == {7}


def test_with_nothing_known_completion_is_sampling(
    sampler: Sampler, checkpoint: Checkpoint
) -> None:
    request = arm(checkpoint, n_cells=sampler.tile)
    nothing = np.full((sampler.tile, len(GENES)), tokens.MASK)
    free = sampler._free(request, torch.from_numpy(nothing))
    depth = sampler._noise(request, 0, free).depth.numpy()
    drawn = sampler.complete_tile(request, 0, nothing, depth)
    assert np.array_equal(drawn, sample_arm(sampler, request).counts)
