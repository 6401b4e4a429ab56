"""What a network takes from its training cells before it learns anything.

Each part is made once, when it is asked for. Knows nothing of the training loop or of files.
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
from lingshu_model.network.config import PRESETS
from lingshu_model.network.vocabulary import Vocabulary
from lingshu_model.train.checkpoint import config_json
from lingshu_model.train.data.cells import Condition, TrainingCells
from lingshu_model.train.data.expression import (
    Components,
    Levels,
    components,
    histogram,
    largest_tokens,
    log_frequencies,
)
from lingshu_model.train.effect_offsets.estimates import Laws, Tilts, tilts
from lingshu_model.train.effect_offsets.pairwise import Pairs, combinations_of, fit_pairs
from lingshu_model.train.effect_offsets.unseen_targets import Reach, fit_reach
from lingshu_model.train.priors import unit_rows
from lingshu_model.train.spec import TrainingSpec

SAMPLED = 50_000_000
"""Non-zero counts from which components and effects are computed in memory."""


def run_digest(
    spec: TrainingSpec,
    cells: TrainingCells,
    priors: Mapping[str, NDArray[np.float64]] | None = None,
) -> str:
    """Return what a training state must match to be gone on from: the spec and the very data.

    How the checkpoint is sampled and calibrated is no part of it: both come after training.
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
        "spec": spec.model_dump(mode="json", exclude={"sampler", "calibration"}),
        "cells": data.hexdigest(),
    }
    if priors:
        told = b"".join(gene.encode() + values.tobytes() for gene, values in sorted(priors.items()))
        whole["priors"] = hashlib.sha256(told).hexdigest()
    return digest_json(whole)


@dataclass(frozen=True)
class Birth:
    """What a network is told of its training cells before it learns anything."""

    spec: TrainingSpec
    cells: TrainingCells
    priors: Mapping[str, NDArray[np.float64]] = with_default(
        default_factory=dict[str, NDArray[np.float64]]
    )
    """Features of genes from a table (`lingshu_model.train.priors`), empty = none."""

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
    def tilts(self) -> Tilts:
        """Shrunken effects."""
        if not PRESETS[self.spec.network].tilt:
            return Tilts((), np.zeros((1, len(self.cells.panel)), np.float32))
        return tilts(self.sample, self.levels, self.laws)

    @cached_property
    def laws(self) -> Laws:
        """How each gene's counts are distributed over all control cells."""
        control = [i for i, c in enumerate(self.cells.conditions) if not c.interventions]
        rows = np.flatnonzero(np.isin(self.cells.condition, control))
        return Laws.of(histogram(self.cells, rows), largest_tokens(self.counts))

    @cached_property
    def pairs(self) -> Pairs | None:
        """What combinations do beyond their parts; None = nothing is told of it."""
        rank = PRESETS[self.spec.network].pair_rank
        if not rank:
            return None
        theta = self.tilts.theta
        trained = combinations_of(self.sample, self.levels, self.laws, theta, self._tilt_rows)
        if trained is None:
            return None
        return fit_pairs(theta, self._informs, trained, rank)

    @cached_property
    def reach(self) -> Reach | None:
        """What is told of targets never perturbed; None = nothing."""
        if not PRESETS[self.spec.network].reach:
            return None
        seen = np.flatnonzero(self._informs)
        targets = [self.tilts.about[row - 1]["target"] for row in seen]
        panel = {gene: i for i, gene in enumerate(self.cells.panel)}
        features = np.stack([self._features_of(target) for target in targets] or [self._nothing])
        own = np.array([panel.get(target, -1) for target in targets], np.int64)
        return fit_reach(self.tilts.theta[seen].astype(np.float64), features[: len(seen)], own)

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

    def _features_of(self, target: str) -> NDArray[np.float64]:
        """Return a target's features; outside the panel it has priors alone."""
        if target in self.cells.panel:
            return self.features[self.cells.panel.index(target)]
        prior = unit_rows(self.priors.get(target, self._nothing)[None])[0]
        return np.concatenate([np.zeros(self.spec.gene_features), prior])

    @cached_property
    def _informs(self) -> NDArray[np.bool_]:
        """Which rows of the tilt table say what perturbations do: not control's, not the shams'."""
        done = [one for c in self.cells.conditions for one in c.interventions]
        shams = {one.target for one in done if one.kind == "sham"}
        return np.array([False, *(about["target"] not in shams for about in self.tilts.about)])

    def _tilt_rows(self, condition: Condition) -> list[int]:
        found = self.vocabulary.conditions(dict(condition.context), condition.interventions)
        return found.tilt[0].tolist()

    @cached_property
    def components(self) -> Components:
        """Principal components: for the cell state, and as the features of genes."""
        rank = max(PRESETS[self.spec.network].state_rank, self.spec.gene_features)
        return components(self.levels, rank)

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`: shape, conditions, what was seen how often, sampler, training."""
        return config_json(self.spec, self.cells) | {
            "tilts": [dict(about) for about in self.tilts.about],
            "depth": float(np.log(self.median_depth)),
            "gene_features": self.spec.gene_features + len(self._nothing),
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The prefix values."""
        return Vocabulary.from_config(self.config, self.cells.panel)

    def network(self) -> Network:
        """Return the network as it is before training."""
        ceiling = torch.from_numpy(largest_tokens(self.counts))
        network = Network(
            PRESETS[self.spec.network],
            len(self.cells.panel),
            self.vocabulary.sizes,
            self.spec.seed,
            ceiling,
        )
        with torch.no_grad():
            self._set(network)
        return network

    def forget_sample(self) -> None:
        """Let go of the sample and its levels, which nothing needs that has been made of them."""
        for name in ("sample", "levels"):
            self.__dict__.pop(name, None)

    def _set(self, network: Network) -> None:
        """Start bias, features, tilts and cell state where the data are."""
        network.readout.set_bias(torch.from_numpy(log_frequencies(self.counts)))
        if network.tilt is not None:
            network.tilt.theta.copy_(torch.from_numpy(self.tilts.theta))
            if self.reach is not None:
                network.tilt.unseen.copy_(torch.from_numpy(self.reach.effects))
                network.tilt.own.fill_(self.reach.own)
            if self.pairs is not None:
                network.tilt.saturation.fill_(self.pairs.saturation)
                network.tilt.scores.copy_(torch.from_numpy(self.pairs.scores))
                network.tilt.effects.copy_(torch.from_numpy(self.pairs.effects))
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
