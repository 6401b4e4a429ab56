"""Data-dependent initialisation: what a network takes from the training cells before training.

    bias             log frequency of each count of each gene, smoothed
    gene features    loadings on principal components of expression, and columns of a table
    cell state       the same loadings to read scores from cells, and to write them to logits
    largest token    the largest observed token of each gene

Each part is computed at its first use and kept.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as with_default
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lingshu_model.contracts.canonical import digest_json
from lingshu_model.network.cell_network import Network
from lingshu_model.network.config import PRESETS, NetworkConfig
from lingshu_model.network.vocabulary import Vocabulary
from lingshu_model.train.checkpoint import config_json
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.expression import (
    Components,
    Levels,
    components,
    histogram,
    largest_tokens,
    log_frequencies,
)
from lingshu_model.train.priors import unit_rows
from lingshu_model.train.recipes.choice import PAPER
from lingshu_model.train.spec import TrainingSpec

_AFTERWARDS = {"sampler", "calibration", "delivery", "allow_unfit"}
"""Fields of a specification that are used only after the network's training."""
SAMPLED = 50_000_000
"""Non-zero counts from which components are computed in memory: 0.6 GB of float64 values and
int32 columns."""


def run_digest(
    spec: TrainingSpec,
    cells: TrainingCells,
    priors: Mapping[str, NDArray[np.float64]] | None = None,
) -> str:
    """Return the digest of a training run: its specification, its cells and its gene features.

    A run resumes only from a state with the same digest. Fields that are used after the network's
    training (`_AFTERWARDS`) are not part of it.
    """
    parts = (
        cells.tokens.data,
        cells.tokens.indices,
        cells.tokens.indptr,
        cells.index,
        cells.condition,
    )
    data = hashlib.sha256()
    for part in parts:
        data.update(np.ascontiguousarray(part).data)
    whole = {
        "spec": spec.model_dump(mode="json", exclude=_AFTERWARDS),
        "cells": data.hexdigest(),
    }
    if priors:
        encoded = b"".join(
            gene.encode() + values.tobytes() for gene, values in sorted(priors.items())
        )
        whole["priors"] = hashlib.sha256(encoded).hexdigest()
    return digest_json(whole)


@dataclass(frozen=True)
class InitialState:
    """The network of a training run before its first step, and what it is computed from.

    Attributes:
        spec: the training specification.
        cells: the training cells.
        priors: further features by gene.
    """

    spec: TrainingSpec
    cells: TrainingCells
    priors: Mapping[str, NDArray[np.float64]] = with_default(
        default_factory=dict[str, NDArray[np.float64]]
    )
    """Features of genes from a table (`lingshu_model.train.priors`), empty = none."""

    @property
    def shape(self) -> NetworkConfig:
        """The network's shape.

        Raises:
            ValueError: the specification names no network.
        """
        if self.spec.network is None:
            message = f"{self.spec.name} has no network: its recipe is {self.spec.recipe!r}"
            raise ValueError(message)
        return PRESETS[self.spec.network].without_offsets()

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of cells by gene and token, int64 [genes, 281]."""
        return histogram(self.cells)

    @cached_property
    def median_depth(self) -> float:
        """Median UMI per cell."""
        return float(np.median(self.cells.depth()))

    @cached_property
    def sample(self) -> TrainingCells:
        """All cells, or the same share of every condition, with at most `SAMPLED` counts."""
        nonzero = np.diff(self.cells.tokens.indptr)[self.cells.index].sum()
        share = min(1.0, SAMPLED / max(1, int(nonzero)))
        if share == 1.0:
            return self.cells
        generator = np.random.Generator(np.random.Philox(key=[self.spec.seed, 6]))
        chosen = [
            # At least one cell of each condition, so that no condition is without.
            generator.permutation(rows)[: max(1, round(share * len(rows)))]
            for i in range(len(self.cells.conditions))
            if len(rows := self.cells.rows(i))
        ]
        return self.cells.take(np.sort(np.concatenate(chosen)))

    @cached_property
    def levels(self) -> Levels:
        """ln(1 + UMI at the median depth) of the sample, [cells, genes]."""
        return Levels.of(self.sample, self.median_depth)

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """Features of the panel's genes, [genes, features]: co-expression, then priors.

        Rows of each block have length 1, so that neither block outweighs the other and a gene with
        large loadings does not outweigh one with small.
        """
        loadings = self.components.loadings[:, : self.spec.gene_features]
        priors = np.stack([self.priors.get(gene, self._no_prior) for gene in self.cells.panel])
        return np.hstack([unit_rows(loadings), unit_rows(priors)])

    @cached_property
    def _no_prior(self) -> NDArray[np.float64]:
        """The features of a gene that the table lacks: zeros."""
        width = len(next(iter(self.priors.values()))) if self.priors else 0
        return np.zeros(width)

    @cached_property
    def components(self) -> Components:
        """Principal components of `levels`, for the cell state and for the features of genes."""
        rank = max(self.shape.state_rank, self.spec.gene_features)
        return components(self.levels, rank)

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`: network, conditions with their numbers of cells, sampler, training."""
        return config_json(self.spec, self.cells) | {
            "depth": float(np.log(self.median_depth)),
            "gene_features": self.spec.gene_features + len(self._no_prior),
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The context values, kinds and targets that have a prefix embedding."""
        return Vocabulary.from_config(self.config, self.cells.panel)

    def network(self) -> Network:
        """Return the network as it is before training."""
        # The paper's recipe has all tokens of every gene, and weights that are random alone.
        paper = self.spec.recipe == PAPER
        largest = None if paper else torch.from_numpy(largest_tokens(self.counts))
        network = Network(
            self.shape,
            len(self.cells.panel),
            self.vocabulary.sizes,
            self.spec.seed,
            largest,
        )
        if not paper:
            with torch.no_grad():
                self._set(network)
        return network

    def forget_sample(self) -> None:
        """Free the memory of the sample and its levels; `components` and the network stay."""
        for name in ("sample", "levels"):
            self.__dict__.pop(name, None)

    def _set(self, network: Network) -> None:
        """Set bias, gene features and cell state from the data."""
        network.readout.set_bias(torch.from_numpy(log_frequencies(self.counts)))
        network.prefix.gene_features[1:].copy_(torch.from_numpy(self.features))
        if network.state is not None and network.write is not None:
            self._set_state(network, self.components.loadings[:, : network.config.state_rank])

    def _set_state(self, network: Network, loadings: NDArray[np.float64]) -> None:
        state, write = network.state, network.write
        assert state is not None and write is not None  # noqa: S101, PT018 - for the type checker
        # Loadings [genes, rank] have columns of length 1; `spread` is the sd of the scores, [rank].
        spread = self.components.spread[: loadings.shape[1]]
        root = np.sqrt(len(loadings))
        depth = np.log(self.cells.depth())
        # Entries of unit columns are about 1 / sqrt(genes). Times the root they are of order 1, as
        # other weights are, so that one learning rate suits all. `scale`, which is not trained,
        # takes the root back: read * scale gives scores of unit variance.
        state.read.copy_(torch.from_numpy(loadings * root))
        state.scale.copy_(torch.from_numpy(1 / (root * spread)))
        state.centre.copy_(torch.from_numpy(np.nan_to_num(self.levels.mean)))
        # 1e-3: cells of one common depth have a standard deviation of 0, by which is divided.
        state.depth_scale.copy_(torch.tensor([np.median(depth), depth.std() + 1e-3]))
        # A score of 1 means a change of a gene's mean level by loading * spread. A level of theta
        # changes the mean of ln(1 + c) by about theta times its variance, so theta = loading *
        # spread / variance. 0.01 and the limits of +-3 bound it for rare genes, whose variance is
        # near 0.
        variance = np.nan_to_num(self.levels.variance)[:, None] + 0.01
        write.copy_(torch.from_numpy((loadings * spread / variance).T.clip(-3, 3)))
