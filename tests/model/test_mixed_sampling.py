"""Cells of several contexts in one arm: each is, bit for bit, a cell of its context."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from made_training import finished, training_cells

from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint, Intervention, MixturePart
from lingshu_model.contracts.streams import mixed
from lingshu_model.engine.http.requests import BadRequestError, check_arm
from lingshu_model.finishing.finish import request
from lingshu_model.network.config import PRESETS
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.sampler import Sampler, sample_arm
from lingshu_model.train import checkpoint as build
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.initialisation import InitialState
from lingshu_model.train.spec import TrainingSpec

TYPES = {"B cell": 5, "T cell": 12, "monocyte": 3}
GENES = [f"G{i}" for i in range(24)]
N = 100
DIGEST = "sha256:c040dd551de26a9e53334037402604a0fbac9066dbc7a3c21871de66c886962b"
"""Of an arm, as it was computed before arms had mixtures."""


@pytest.mark.parametrize("weights", [(1, 2, 5), (1,), (1000, 1, 23), (7,) * 789])
def test_parts_have_their_shares_but_for_about_one_cell(weights: tuple[int, ...]):
    cells = 640
    counted = np.bincount(mixed(3, np.arange(cells), weights), minlength=len(weights))
    expected = cells * np.array(weights) / sum(weights)
    assert counted.sum() == cells
    # Either end of a part's interval may take a cell more or less in each of 10 tiles.
    assert np.abs(counted - expected).max() <= 4


def test_every_cell_has_a_part_with_the_probability_of_its_weight():
    first = np.array([mixed(seed, np.arange(7, 8), (1, 3))[0] for seed in range(2000)])
    # Binomial: the standard deviation of the mean is 0.0097.
    assert abs(first.mean() - 0.75) < 0.04


def test_the_part_of_a_cell_depends_on_nothing_that_is_drawn_beside_it():
    whole = mixed(5, np.arange(300), (2, 9, 4))
    alone = [mixed(5, np.arange(cell, cell + 1), (2, 9, 4))[0] for cell in range(0, 300, 7)]
    assert whole[::7].tolist() == alone


def mixture_of(plain: ArmRequest, contexts: list[dict[str, str]], weights: list[int]) -> ArmRequest:
    parts = [MixturePart(context=c, weight=w) for c, w in zip(contexts, weights, strict=True)]
    return plain.model_copy(update={"context": {}, "mixture": tuple(parts)})


def same_as_alone(sampler: object, arm: ArmRequest) -> bool:
    """Whether the cells of a mixture are those that arms of one context have at their numbers."""
    result = sample_arm(sampler, arm)  # pyright: ignore[reportArgumentType]
    numbers = arm.context_numbers(arm.first_cell, arm.n_cells)
    assert len(np.unique(numbers)) > 1
    for number, context in enumerate(arm.contexts):
        alone = sample_arm(sampler, arm.within(context))  # pyright: ignore[reportArgumentType]
        rows = numbers == number
        if not np.array_equal(result.counts[rows], alone.counts[rows]):
            return False
    return True


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A network of random weights over three types of cells, none of them perturbed."""
    root = tmp_path_factory.mktemp("atlas")
    rng = np.random.Generator(np.random.Philox(5))
    types = [name for name, n in TYPES.items() for _ in range(n)]
    levels = rng.gamma(1.0, 3.0, (len(TYPES), len(GENES)))
    counts = rng.poisson(levels[[[*TYPES].index(t) for t in types]]).astype(np.float32)
    obs = pd.DataFrame({"type": types}, index=[f"c{i}" for i in range(len(types))])
    anndata.AnnData(counts, obs, pd.DataFrame(index=GENES)).write_h5ad(root / "cells.h5ad")
    spec = TrainingSpec.model_validate(
        {
            "name": "atlas",
            "sources": [{"file": "cells.h5ad", "context": {"type": "obs:type"}}],
            "network": "lingshu-tiny",
            "shams": 0,
            "gene_features": 2,
            "sampler": {"steps": 3, "tile": 16},
        }
    )
    state = InitialState(spec, read_cells(spec, root))
    network = state.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    weights = dict(network.named_parameters())
    build.write(root, spec, state.config, state.cells, network, weights, None)
    return Catalogue([root]).load("atlas")


def test_a_network_gives_each_cell_of_a_mixture_as_if_its_context_were_asked_for(
    atlas: Checkpoint,
):
    assert PRESETS["lingshu-tiny"].state_rank, "the first step of others is shared"
    contexts = [{"type": name} for name in sorted(TYPES)]
    plain = request(atlas, contexts[0], (), 40, 9).model_copy(update={"first_cell": 11})
    arm = mixture_of(plain, contexts, [5, 3, 12])
    sampler = Sampler.load(atlas, dtype="float32", threads=1, device="cpu")
    assert same_as_alone(sampler, arm)
    # Cells that follow in another call are the next ones of the same population.
    first = sample_arm(sampler, arm.model_copy(update={"n_cells": 9})).counts
    later = sample_arm(sampler, arm.model_copy(update={"first_cell": 20, "n_cells": 31})).counts
    whole = sample_arm(sampler, arm).counts
    assert np.array_equal(np.concatenate([first, later]), whole)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    cells = training_cells(cells=40, contexts=("a", "b"), targets=("G3", "G5"))
    return finished(cells, tmp_path_factory.mktemp("pool")).checkpoint


@pytest.mark.parametrize("targets", [(), ("G3",), ("G3", "G5")])
def test_stored_and_moved_cells_of_a_mixture_are_those_of_their_context(
    pool: Checkpoint, targets: tuple[str, ...]
):
    done = tuple(Intervention(kind="knockout", target=t) for t in targets)
    plain = request(pool, {"line": "a"}, done, N, 5)
    arm = mixture_of(plain, [{"line": "a"}, {"line": "b"}], [3, 1])
    check_arm(arm, pool, allow_unfit=True)
    assert same_as_alone(load_sampler(pool), arm)


def test_arms_of_one_context_have_the_digest_that_they_had_before_there_were_mixtures():
    plain = ArmRequest(
        checkpoint="made",
        checkpoint_digest="sha256:0",
        context={"line": "a"},
        interventions=(Intervention(kind="knockout", target="G3"),),
        seed=5,
        n_cells=4,
        steps=4,
    )
    assert plain.digest == DIGEST
    other = mixture_of(plain, [{"line": "a"}, {"line": "b"}], [3, 1])
    weights = mixture_of(plain, [{"line": "a"}, {"line": "b"}], [3, 2])
    assert len({plain.digest, other.digest, weights.digest}) == 3


def test_the_engine_refuses_a_part_that_is_not_of_the_context(pool: Checkpoint):
    arm = mixture_of(request(pool, {"line": "a"}, (), 4, 5), [{"line": "a"}, {"line": "b"}], [1, 1])
    with pytest.raises(BadRequestError, match="not of the context"):
        check_arm(arm.model_copy(update={"context": {"line": "a"}}), pool)
    with pytest.raises(BadRequestError, match="'c' is no line"):
        check_arm(mixture_of(arm, [{"line": "a"}, {"line": "c"}], [1, 1]), pool)


def test_the_engine_refuses_contexts_that_measure_different_genes():
    pbmc = Catalogue().load("pbmc")
    cells = [{"cell_type": "B cell", "dataset": name} for name in ("pbmc3k", "pbmc4k")]
    arm = mixture_of(request(pbmc, cells[0], (), 4, 5), cells, [1, 1])
    with pytest.raises(BadRequestError, match="measure different genes"):
        check_arm(arm, pbmc)
