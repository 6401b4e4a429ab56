"""Combinations at birth: what two interventions do beyond the sum of their tilts."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from made_model import CONTEXT, SPEC
from scipy import sparse

from lingshu_model.contracts import Intervention
from lingshu_model.network import tokens
from lingshu_model.network.cell_network import Tilt
from lingshu_model.network.conditions import Conditions, VocabularySizes
from lingshu_model.network.config import PRESETS, NetworkConfig
from lingshu_model.train.data.cells import Condition, TrainingCells
from lingshu_model.train.effect_offsets.pairwise import FEWEST, Combinations, fit_pairs
from lingshu_model.train.initialisation import Birth
from lingshu_testing import Regulation, Shape

TARGETS, GENES, RANK = 12, 60, 3
INFORMS = np.array([False, *[True] * TARGETS])


def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(11))


class Made:
    """Tilts on few directions, and combinations that are a bilinear function of them."""

    def __init__(self, saturation: float = 0.0, noise: float = 0.0, strength: float = 0.5) -> None:
        rng = generator()
        self.scores = rng.normal(size=(TARGETS, RANK))
        self.theta = np.zeros((1 + TARGETS, GENES))
        self.theta[1:] = self.scores @ rng.normal(size=(RANK, GENES))
        self.bilinear = strength * rng.normal(size=(RANK, RANK, GENES))
        self.saturation, self.noise, self._rng = saturation, noise, rng

    def tilt(self, rows: tuple[int, ...]) -> np.ndarray:
        whole = self.theta[list(rows)].sum(axis=0) / (1 + self.saturation * (len(rows) - 1))
        for a, b in combinations(rows, 2):
            both = np.outer(self.scores[a - 1], self.scores[b - 1])
            whole = whole + np.tensordot((both + both.T) / 2, self.bilinear, axes=2)
        return whole

    def trained(self, rows: list[tuple[int, ...]]) -> Combinations:
        tilt = np.stack([self.tilt(each) for each in rows])
        tilt = tilt + self.noise * self._rng.normal(size=tilt.shape)
        parts = np.stack([self.theta[list(each)].sum(axis=0) for each in rows])
        mine = np.zeros(tilt.shape, bool)
        return Combinations(rows, tilt, parts, np.ones_like(tilt), mine)


FEATURES = torch.zeros(1 + GENES, 2)
PAIRS = list(combinations(range(1, TARGETS + 1), 2))


def module(made: Made, trained: Combinations, rank: int = RANK) -> Tilt:
    pairs = fit_pairs(made.theta, INFORMS, trained, rank)
    config = NetworkConfig(64, 1, 2, 64, group=4, d_gene=4, tilt=True, pair_rank=rank)
    tilt = Tilt(config, VocabularySizes(1, 1, 1, 2, 1 + TARGETS), GENES)
    tilt.theta.copy_(torch.from_numpy(made.theta))
    tilt.saturation.fill_(pairs.saturation)
    tilt.scores.copy_(torch.from_numpy(pairs.scores))
    tilt.effects.copy_(torch.from_numpy(pairs.effects))
    return tilt


def conditions(*rows: int, gene: int = 0) -> Conditions:
    slots = len(rows)
    nothing = torch.zeros(1, slots, dtype=torch.int64)
    return Conditions(
        context=torch.zeros(1, 1, dtype=torch.int64),
        target=nothing,
        kind=nothing,
        gene=torch.tensor([[gene] + [0] * (slots - 1)]),
        tilt=torch.tensor([rows]),
        dose=torch.zeros(1, slots),
        depth=torch.zeros(1),
    )


def error(tilt: Tilt, made: Made, rows: tuple[int, ...]) -> tuple[float, float]:
    """Squared error of a combination, and of the sum of its tilts."""
    truth = made.tilt(rows)
    result = tilt.of(conditions(*rows), FEATURES)[0].numpy()
    return ((result - truth) ** 2).sum(), ((made.theta[list(rows)].sum(axis=0) - truth) ** 2).sum()


def test_pairs_that_were_never_met_are_told_by_those_that_were() -> None:
    created = Made(noise=0.1)
    tilt = module(created, created.trained(PAIRS[::2]))
    of_pairs, of_sums = zip(*(error(tilt, created, rows) for rows in PAIRS[1::2]), strict=True)
    assert np.sum(of_pairs) < 0.2 * np.sum(of_sums)


def test_three_and_four_are_the_sum_of_their_pairs() -> None:
    created = Made()
    tilt = module(created, created.trained(PAIRS))
    for rows in ((1, 4, 9), (2, 3, 7, 12)):
        of_pairs, of_sums = error(tilt, created, rows)
        assert of_pairs < 0.2 * of_sums


def test_saturation_is_found_again_and_divides_by_how_many_there_are() -> None:
    created = Made(saturation=0.4, strength=0.0)
    triples = [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    pairs = fit_pairs(created.theta, INFORMS, created.trained([*PAIRS[::3], *triples]), RANK)
    assert pairs.saturation == pytest.approx(0.4, abs=0.03)
    tilt = module(created, created.trained([*PAIRS[::3], *triples]))
    whole = created.theta[[1, 2, 3, 4]].sum(axis=0)
    assert np.allclose(tilt.of(conditions(1, 2, 3, 4), FEATURES)[0], whole / 2.2, atol=0.1)


def test_where_combinations_are_noise_nothing_is_added() -> None:
    created = Made(strength=0.0, noise=1.0)
    pairs = fit_pairs(created.theta, INFORMS, created.trained(PAIRS[::4]), RANK)
    assert pairs.left > 0.95
    added = np.abs(pairs.effects).max() * (np.abs(pairs.scores).max() ** 2)
    assert added < 0.5


def test_order_and_unused_slots_mean_nothing_and_one_alone_is_its_tilt() -> None:
    created = Made()
    tilt = module(created, created.trained(PAIRS))
    item = tilt.of(conditions(3, 5), FEATURES)
    assert torch.allclose(item, tilt.of(conditions(5, 3), FEATURES), atol=1e-5)
    assert torch.allclose(item, tilt.of(conditions(5, 0, 3, 0), FEATURES), atol=1e-5)
    alone = tilt.of(conditions(5, 0), FEATURES)[0].numpy()
    assert np.allclose(alone, created.theta[5], atol=1e-5)
    assert not tilt.of(conditions(0, 0), FEATURES).any()


def test_a_targets_own_gene_neither_saturates_nor_interacts() -> None:
    created = Made(saturation=0.5)
    tilt = module(created, created.trained(PAIRS))
    result = tilt.of(conditions(3, 5, gene=8), FEATURES)[0].numpy()
    plain = tilt.of(conditions(3, 5), FEATURES)[0].numpy()
    assert result[7] == pytest.approx(created.theta[[3, 5], 7].sum(), abs=1e-5)
    assert np.array_equal(np.delete(result, 7), np.delete(plain, 7))


def test_more_directions_than_targets_do_no_harm() -> None:
    created = Made()
    tilt = module(created, created.trained(PAIRS), rank=2 * TARGETS)
    of_pairs, of_sums = error(tilt, created, (1, 2))
    assert of_pairs < of_sums


def test_pairs_need_tilts_to_be_added_to() -> None:
    with pytest.raises(ValueError, match="pair_rank and reach need a tilt"):
        NetworkConfig(64, 2, 2, 256, group=4, d_gene=16, pair_rank=4)


SHAPE = Shape(genes=60, targets=6, relays=4, genes_per_pair=25, pairs=8, depth=1_500.0)


@pytest.fixture(scope="module")
def cells() -> tuple[Regulation, TrainingCells]:
    """Control, all singles and all doubles of a made network."""
    network = Regulation.draw(5, SHAPE)
    finished = [s for k in (0, 1, 2) for s in combinations(network.targets, k)]
    return network, _cells(network, finished, control=400, each=150)


def _cells(
    network: Regulation, done: list[tuple[str, ...]], *, control: int, each: int
) -> TrainingCells:
    sizes = [each if targets else control for targets in done]
    counts = [network.cells(t, n, seed=2) for t, n in zip(done, sizes, strict=True)]
    whole = np.concatenate(counts)
    return TrainingCells(
        network.genes,
        sparse.csr_matrix(tokens.encode(whole).astype(np.uint16)),
        np.arange(len(whole)),
        np.zeros(len(whole), np.int64),
        np.ones((1, len(network.genes)), bool),
        np.repeat(np.arange(len(done)), sizes),
        tuple(
            Condition(
                tuple(CONTEXT.items()),
                tuple(Intervention(kind="knockout", target=t) for t in targets),
            )
            for targets in done
        ),
    )


PAIRED = replace(PRESETS["lingshu-tiny"], pair_rank=4)


def test_a_network_trained_on_doubles_is_born_nearer_to_triples_than_sums(
    cells: tuple[Regulation, TrainingCells], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, trained = cells
    monkeypatch.setitem(PRESETS, "lingshu-tiny", PAIRED)
    birth = Birth(SPEC, trained)
    born = birth.network()
    tilt, features = born.tilt, born.prefix.gene_features
    assert birth.pairs is not None
    assert tilt is not None
    errors = np.zeros(2)
    for targets in list(combinations(network.targets, 3))[::5]:
        finished = tuple(Intervention(kind="knockout", target=t) for t in targets)
        named = birth.vocabulary.conditions(CONTEXT, finished)
        # The truth as tilts: those of very many cells.
        many = _cells(network, [(), targets], control=4_000, each=4_000)
        truth = Birth(SPEC, _alone(many)).tilts.theta[1]
        rest = ~np.isin(network.genes, targets)
        for i, result in enumerate(
            (tilt.of(named, features)[0].numpy(), tilt.theta[named.tilt[0]].sum(0))
        ):
            errors[i] += ((np.asarray(result) - truth)[rest] ** 2).sum()
    assert errors[0] < 0.85 * errors[1]


def _alone(cells: TrainingCells) -> TrainingCells:
    """The same cells with the combination under one name, so that it has a tilt."""
    whole = (Intervention(kind="knockout", target="both"),)
    named = tuple(Condition(c.context, whole if c.interventions else ()) for c in cells.conditions)
    return replace(cells, conditions=named)


def test_too_few_combinations_fit_nothing(
    cells: tuple[Regulation, TrainingCells], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "lingshu-tiny", PAIRED)
    trained = cells[1]
    few = [i for i, c in enumerate(trained.conditions) if len(c.interventions) == 2][: FEWEST - 1]
    kept = [i for i, c in enumerate(trained.conditions) if len(c.interventions) < 2] + few
    birth = Birth(SPEC, trained.take(np.flatnonzero(np.isin(trained.condition, kept))))
    assert birth.pairs is None
    tilt = birth.network().tilt
    assert tilt is not None
    assert not tilt.effects.any()
