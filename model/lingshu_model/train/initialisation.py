"""What a network takes from its training cells before it learns anything.

Each part is made once, when it is asked for.
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
from lingshu_model.train.spec import TrainingSpec

_AFTERWARDS = {"sampler", "calibration", "delivery", "allow_unfit"}
SAMPLED = 50_000_000
"""Non-zero counts from which components and effects are computed in memory."""


def run_digest(
    spec: TrainingSpec,
    cells: TrainingCells,
    priors: Mapping[str, NDArray[np.float64]] | None = None,
) -> str:
    """Return what a training state must match to be gone on from: the spec and the very data.

    How the checkpoint is sampled and how effects reach its cells is no part of it: both come after
    the network's training.
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
    """What a network is told of its training cells before it learns anything."""

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
        """How often each gene had each token, [genes, 281]."""
        return histogram(self.cells)

    @cached_property
    def median_depth(self) -> float:
        """Median UMI per cell."""
        return float(np.median(self.cells.depth()))

    @cached_property
    def sample(self) -> TrainingCells:
        """All cells, or as many as may lie in memory: the same share of every condition."""
        held = np.diff(self.cells.tokens.indptr)[self.cells.index].sum()
        share = min(1.0, SAMPLED / max(1, int(held)))
        if share == 1.0:
            return self.cells
        generator = np.random.Generator(np.random.Philox(key=[self.spec.seed, 6]))
        chosen = [
            generator.permutation(rows)[: max(1, round(share * len(rows)))]
            for i in range(len(self.cells.conditions))
            if len(rows := self.cells.rows(i))
        ]
        return self.cells.take(np.sort(np.concatenate(chosen)))

    @cached_property
    def levels(self) -> Levels:
        """ln(1 + UMI at the median depth), of the sample."""
        return Levels.of(self.sample, self.median_depth)

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """Features of the panel's genes: co-expression, then priors, each at length 1."""
        loadings = self.components.loadings[:, : self.spec.gene_features]
        priors = np.stack([self.priors.get(gene, self._nothing) for gene in self.cells.panel])
        return np.hstack([unit_rows(loadings), unit_rows(priors)])

    @cached_property
    def _nothing(self) -> NDArray[np.float64]:
        width = len(next(iter(self.priors.values()))) if self.priors else 0
        return np.zeros(width)

    @cached_property
    def components(self) -> Components:
        """Principal components: for the cell state, and as the features of genes."""
        rank = max(self.shape.state_rank, self.spec.gene_features)
        return components(self.levels, rank)

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`: shape, conditions, what was seen how often, sampler, training."""
        return config_json(self.spec, self.cells) | {
            "depth": float(np.log(self.median_depth)),
            "gene_features": self.spec.gene_features + len(self._nothing),
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The prefix values."""
        return Vocabulary.from_config(self.config, self.cells.panel)

    def network(self) -> Network:
        """Return the network as it is before training."""
        largest = torch.from_numpy(largest_tokens(self.counts))
        network = Network(
            self.shape,
            len(self.cells.panel),
            self.vocabulary.sizes,
            self.spec.seed,
            largest,
        )
        with torch.no_grad():
            self._set(network)
        return network

    def forget_sample(self) -> None:
        """Let go of the sample and its levels, which nothing needs that has been made of them."""
        for name in ("sample", "levels"):
            self.__dict__.pop(name, None)

    def _set(self, network: Network) -> None:
        """Start bias, features and cell state where the data are."""
        network.readout.set_bias(torch.from_numpy(log_frequencies(self.counts)))
        network.prefix.gene_features[1:].copy_(torch.from_numpy(self.features))
        if network.state is not None and network.write is not None:
            self._set_state(network, self.components.loadings[:, : network.config.state_rank])

    def _set_state(self, network: Network, loadings: NDArray[np.float64]) -> None:
        state, write = network.state, network.write
        assert state is not None and write is not None  # noqa: S101, PT018 - for the type checker
        spread = self.components.spread[: loadings.shape[1]]
        root = np.sqrt(len(loadings))
        depth = np.log(self.cells.depth())
        # What is learned is of order one, so that one learning rate suits all.
        state.read.copy_(torch.from_numpy(loadings * root))
        state.scale.copy_(torch.from_numpy(1 / (root * spread)))
        state.centre.copy_(torch.from_numpy(np.nan_to_num(self.levels.mean)))
        state.depth_scale.copy_(torch.tensor([np.median(depth), depth.std() + 1e-3]))
        # An exponential tilt moves a gene's mean level by theta times its variance.
        within = np.nan_to_num(self.levels.variance)[:, None] + 0.01
        write.copy_(torch.from_numpy((loadings * spread / within).T.clip(-3, 3)))
