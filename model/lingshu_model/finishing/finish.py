"""From training cells, and a trained network where there is one, to a checkpoint with effects.

1. Effects are estimated in closed form from the training cells (`finishing.estimate`), and the
   strengths of single cells (`finishing.responding`).
2. Their delivery is chosen on the validation cells (`finishing.choice`).
3. Effects are estimated again, from training and validation cells, and solved on the control cells
   that the checkpoint samples (`finishing.moving`).
4. The checkpoint is written, and every condition is checked (`finishing.fitness`).
5. Effects are estimated with each fold left out, for the evidence (`finishing.evidence`).
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint, Intervention, digest_json
from lingshu_model.contracts.catalogue import pin
from lingshu_model.contracts.evidence_text import dumps
from lingshu_model.contracts.posterior import Posterior
from lingshu_model.effects.moments import Rows
from lingshu_model.effects.moved import SEED
from lingshu_model.finishing import fitness
from lingshu_model.finishing.caveats import with_caveats
from lingshu_model.finishing.estimate import EffectFit, Fitted, Priors
from lingshu_model.finishing.evidence import count_folds, rotated
from lingshu_model.finishing.moving import Solved, fit_cells, largest_shares, solve
from lingshu_model.finishing.responding import with_responders
from lingshu_model.finishing.tables import (
    Tables,
    control_pool,
    effect_tables,
    effects_entry,
)
from lingshu_model.sampling.delivery import MOVED, TRAINING_CELLS, DeliveringSampler
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.pool import POOL, Pool
from lingshu_model.sampling.sampler import Sampler
from lingshu_model.system.machine import machine_name
from lingshu_model.system.progress_bars import Progress
from lingshu_model.train import checkpoint as build
from lingshu_model.train.data.cells import TrainingCells, add_shams
from lingshu_model.train.run import Learned
from lingshu_model.train.scratch import scratch
from lingshu_model.train.spec import TrainingSpec

CHECK_SEED = (1 << 62) + 16
"""Seed of the fitness check: not that of the cells that effects are solved on, which would always
deliver them."""


@dataclass(frozen=True)
class Finish:
    """Computes the checkpoint of a training run.

    Attributes:
        spec: of the training.
        train: cells that the network was trained on, without null labels.
        held_out: validation cells, with the same conditions; may be empty.
        learned: the network; None with the recipe `effects`.
        priors: features of genes from a table.
        hgnc: HGNC's complete set; None = symbols alone.
        files: names and digests of the data files, for the evidence.
    """

    spec: TrainingSpec
    train: TrainingCells
    held_out: TrainingCells
    learned: Learned | None
    priors: Priors = field(default_factory=dict[str, NDArray[np.float64]])
    hgnc: Path | None = None
    files: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def run(self, folder: Path, choose: "Choose", *, rotate: bool = True) -> "Finished":
        """Return the checkpoint, written to `folder`/checkpoint.

        Args:
            folder: of the training run.
            choose: chooses the delivery (`finishing.choice`).
            rotate: whether folds are left out in turn and `evidence.json` is written.
        """
        target = folder / "checkpoint"
        target.mkdir(parents=True, exist_ok=True)
        # Everything is written to a temporary folder: what is installed is complete.
        with scratch(target, ".candidate-") as place:
            delivery, basis = self._delivery(place, choose)
            whole = self._labelled(self._joined())
            fitted = self.effects(whole)
            # Needed by either delivery: the check below may change it.
            pool = control_pool(whole, fitted, self.spec.seed, self.spec.pool_counts)
            written = self._written(place / "last", delivery, basis, whole, fitted, pool)
            check = check_checkpoint(written)
            # Only where the choice was left to the training; what a specification names is kept.
            if check.unfit and delivery == MOVED and self.spec.delivery == "auto":
                # The network's control cells may be too far from real ones to carry an effect: a
                # gene that it hardly draws cannot lose what real cells lose.
                basis = _instead(basis, check)
                other = self._written(place / "pool", TRAINING_CELLS, basis, whole, fitted, pool)
                checked = check_checkpoint(other)
                # Strictly fewer: with equal numbers the network stays.
                if checked.unfit < check.unfit:
                    written, check = other, checked
            report = json.dumps(fitness.report(check.results, check.pairs), indent=1)
            (written.path / "fitness.json").write_text(f"{report}\n", "utf-8")
            if rotate:
                text = dumps(self._evidence(written, check))
                (written.path / "evidence.json").write_text(text, "utf-8")
            path = build.install(written.path, target)
        # Read back from its place, so that what is returned is what later readers get.
        checkpoint = Catalogue([target]).load(self.spec.name)
        return Finished(checkpoint, path, check.results, fitted.notes)

    def effects(self, cells: TrainingCells) -> Fitted:
        """Return the effects of cells, with the strengths of single cells."""
        return with_responders(EffectFit(cells, self.priors).run(), cells)

    def _evidence(self, written: Checkpoint, check: "Check") -> dict[str, Any]:
        """Return the held-out figures of effects, each fold left out in turn."""
        cells = self._joined()
        chosen = written.config["sampler"]
        head = {
            "checkpoint_digest": written.digest,
            "data": {
                **self.files,
                "held_out": "each fold in turn",
                "adapted_to": [each.model_dump() for each in self.spec.adapted_to],
            },
            "settings": {
                "steps": chosen["steps"],
                "guidance": chosen["guidance"],
                "n_cells": check.pairs,
                "seeds": [CHECK_SEED],
                "profile_digest": digest_json(check.profile),
            },
            "cost": {
                "seconds_per_cell": check.seconds_per_cell,
                "machine": machine_name(check.profile),
            },
        }
        total = count_folds(cells)
        with Progress(total=total, unit="fold", desc="held-out folds") as bar:
            return rotated(
                cells, self.priors, check.results, head, bar.update, residuals=self.spec.residuals
            )

    def _joined(self) -> TrainingCells:
        """Return training and validation cells."""
        if not len(self.held_out):
            return self.train
        t, v = self.train, self.held_out
        replicate = None
        if t.replicate is not None and v.replicate is not None:
            replicate = np.concatenate([t.replicate, v.replicate])
        return replace(
            t,
            # Both index the same tokens and conditions: they are parts of one set of cells.
            index=np.concatenate([t.index, v.index]),
            source=np.concatenate([t.source, v.source]),
            condition=np.concatenate([t.condition, v.condition]),
            replicate=replicate,
        )

    def _labelled(self, cells: TrainingCells) -> TrainingCells:
        return add_shams(cells, self.spec.shams, self.spec.seed)

    def _delivery(self, place: Path, choose: "Choose") -> tuple[str, dict[str, Any]]:
        """Return the delivery and the reason for it."""
        if self.learned is None:
            return TRAINING_CELLS, {"reason": "the recipe `effects` has no network"}
        if self.spec.delivery != "auto":
            return self.spec.delivery, {"reason": "the training specification says so"}
        return choose(self, place)

    def candidate(
        self, place: Path, fitted: Fitted, deliveries: Sequence[str]
    ) -> dict[str, Checkpoint]:
        """Return a provisional checkpoint for each delivery, with the effects of training cells.

        Args:
            place: folder for them.
            fitted: effects of the training cells.
            deliveries: names.
        """
        pool = control_pool(self.train, fitted, self.spec.seed, self.spec.pool_counts)
        return {d: self._written(place / d, d, {}, self.train, fitted, pool) for d in deliveries}

    def _written(
        self,
        place: Path,
        delivery: str,
        basis: Mapping[str, Any],
        cells: TrainingCells,
        fitted: Fitted,
        pool: Pool,
    ) -> Checkpoint:
        """Return a checkpoint that is written to the folder `place`."""
        config = self._config(cells, delivery, basis)
        tensors: dict[str, Tensor] = {}
        if self.learned is not None:
            tensors = build.stored(self.learned.network, self.learned.weights)
        folder = place / self.spec.name
        build.write_folder(folder, config, cells, tensors, self.hgnc)
        # Loaded before it has effects: they are solved on the control cells that it samples.
        control = self._control(Catalogue([place]).load(self.spec.name), delivery, fitted, pool)
        with Progress(total=len(fitted.rows), unit="effect", desc="solving") as bar:
            solved = solve(fitted, control, largest_shares(cells), bar.update)
        self._complete(folder, config, fitted, solved, pool if delivery == TRAINING_CELLS else None)
        return Catalogue([place]).load(self.spec.name)

    def _config(
        self, cells: TrainingCells, delivery: str, basis: Mapping[str, Any]
    ) -> dict[str, Any]:
        config = build.config_json(self.spec, cells)
        # Answers quote them: a note on the screen of the training reaches nobody else.
        config["training"]["caveats"] = with_caveats(self.spec.caveats, cells)
        if self.learned is None:
            # No network: nothing is sampled in steps.
            config["sampler"] |= {"steps": 1, "guidance": 0.0}
        else:
            config |= self.learned.vocabulary
        return config | {
            "recipe": self.spec.recipe,
            "delivery": delivery,
            "delivery_basis": dict(basis),
        }

    def _control(
        self, checkpoint: Checkpoint, delivery: str, fitted: Fitted, pool: Pool
    ) -> Callable[[int], Rows]:
        """Return a function from a context's index to control cells, to solve effects on."""
        if delivery == TRAINING_CELLS:
            return pool.of
        # Without `delivery` the sampler gives plain control cells of the network.
        sampler = Sampler.load(replace(checkpoint, config=_network_only(checkpoint)), threads=1)
        n = fit_cells(len(fitted.contexts))
        return partial(_network_cells, sampler, fitted, n)

    @staticmethod
    def _complete(
        folder: Path,
        config: Mapping[str, Any],
        fitted: Fitted,
        solved: Solved,
        pool: Pool | None,
    ) -> None:
        """Add effects, and the pool where cells come from it, to a checkpoint folder."""
        tables: dict[str, Tables] = effect_tables(fitted, solved)
        if pool is not None:
            tables[POOL] = pool.tables()
        for prefix, each in tables.items():
            build.write_tables(folder, prefix, each)
        complete = {**config, "effects": effects_entry(fitted, solved)}
        build.write_json(folder / "config.json", complete)
        # Last: the digests cover the finished files.
        pin(folder)


@dataclass(frozen=True)
class Finished:
    """A written checkpoint.

    Attributes:
        checkpoint: as it is read.
        path: its folder.
        checked: fitness of every condition.
        notes: what was left out, and why, in sentences.
    """

    checkpoint: Checkpoint
    path: Path
    checked: list[fitness.Fitness]
    notes: tuple[str, ...] = ()


Choose = Callable[[Finish, Path], tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Check:
    """The fitness of a checkpoint.

    Attributes:
        results: of every stored row.
        pairs: cells sampled of each arm at first.
        profile: the numerics profile of the sampler.
        seconds_per_cell: of control and perturbed cells together, those of repeated checks too.
    """

    results: list[fitness.Fitness]
    pairs: int
    profile: Mapping[str, Any]
    seconds_per_cell: float

    @property
    def unfit(self) -> int:
        """How many conditions do not deliver their effect."""
        return sum(bool(result.reasons) for result in self.results)


def _instead(basis: Mapping[str, Any], check: Check) -> dict[str, Any]:
    """Return the basis of a delivery by training cells where the network's are unfit."""
    reason = f"{check.unfit} of {len(check.results)} conditions were unfit with the network's cells"
    return {**basis, "reason": reason}


def check_checkpoint(checkpoint: Checkpoint) -> Check:
    """Return the fitness of every stored row of a checkpoint of format 2."""
    sampler = load_sampler(checkpoint, threads=1)
    assert isinstance(sampler, DeliveringSampler)  # noqa: S101 - only format 2 is checked
    effects = checkpoint.effects
    rows = effects.rows if effects else []
    pairs = fitness.pairs_of(len(rows), len(checkpoint.panel))
    # Whole tiles: the sampler computes no less.
    pairs = -(-pairs // sampler.tile) * sampler.tile

    # Cells sampled: perturbed ones in every round, control ones of a context once each.
    perturbed, control = 0, dict[str, int]()

    def pair(row: int, n: int) -> tuple[Rows, Rows, Posterior]:
        nonlocal perturbed
        context = json.dumps(rows[row]["context"])
        perturbed, control[context] = perturbed + n, max(n, control.get(context, 0))
        return _pair(sampler, checkpoint, row, n)

    def conditions() -> Iterator[tuple[Any, Callable[[int], tuple[Rows, Rows, Posterior]]]]:
        # By context: the sampler keeps the tiles of recent control cells.
        order = sorted(range(len(rows)), key=lambda i: json.dumps(rows[i]["context"]))
        for i in Progress(order, unit="condition", desc="checking"):
            yield rows[i], partial(pair, i)

    began = time.perf_counter()
    results = fitness.check(conditions(), pairs)
    cells = max(1, perturbed + sum(control.values()))
    return Check(results, pairs, sampler.profile(), (time.perf_counter() - began) / cells)


def _pair(
    sampler: DeliveringSampler, checkpoint: Checkpoint, row: int, n: int
) -> tuple[Rows, Rows, Posterior]:
    """Return `n` perturbed cells of a row, their paired control cells, and the row's effect."""
    assert checkpoint.effects is not None  # noqa: S101
    entry = checkpoint.effects.rows[row]
    interventions = tuple(Intervention(**each) for each in entry["interventions"])
    arms = [
        request(checkpoint, entry["context"], each, n, CHECK_SEED) for each in (interventions, ())
    ]
    cells, control = (sampled(sampler, arm) for arm in arms)
    return cells, control, checkpoint.effects.posterior(row)


def sampled(sampler: Sampler | DeliveringSampler, arm: ArmRequest) -> Rows:
    """Return the cells of an arm, float64 UMI in compressed rows; tiles are sampled in threads."""
    tiles = range(
        arm.first_cell // sampler.tile, -(-(arm.first_cell + arm.n_cells) // sampler.tile)
    )

    def tile(index: int) -> Rows:
        return sparse.csr_matrix(sampler.sample_tile(arm, index))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(tile, tiles))
    whole = sparse.csr_matrix(sparse.vstack(parts, "csr"), dtype=np.float64)
    # Tiles begin at multiples of the tile; the arm may begin within one.
    first = arm.first_cell - tiles.start * sampler.tile
    return whole[first : first + arm.n_cells]


def request(
    checkpoint: Checkpoint,
    context: Mapping[str, str],
    interventions: tuple[Intervention, ...],
    n: int,
    seed: int,
) -> ArmRequest:
    """Return a request for `n` cells with the checkpoint's default steps and guidance."""
    chosen = checkpoint.config["sampler"]
    return ArmRequest(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        context=dict(context),
        interventions=interventions,
        seed=seed,
        n_cells=n,
        steps=chosen["steps"],
        guidance=chosen["guidance"],
    )


def _network_cells(sampler: Sampler, fitted: Fitted, n: int, number: int) -> Rows:
    context = dict(fitted.contexts[number].context)
    return sampled(sampler, request(sampler.checkpoint, context, (), n, SEED))


def _network_only(checkpoint: Checkpoint) -> dict[str, Any]:
    return {k: v for k, v in checkpoint.config.items() if k != "delivery"}


__all__ = [
    "Choose",
    "Finish",
    "Finished",
    "check_checkpoint",
    "request",
    "sampled",
]
