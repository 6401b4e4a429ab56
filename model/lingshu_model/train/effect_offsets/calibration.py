"""Tilts moved until sampled cells change by what the training cells' effects say.

A tilt is exact for a gene drawn by itself from the law it was solved for. In a cell it is not: the
trunk adds what it learned of the intervention, genes already revealed carry their part on through
the cell state, and a context's own law is not the average one. So after training, cells are sampled
in pairs, and each gene's theta moves until the mean change of ln(1 + UMI at the median depth) is
its goal: moment matching, which gives the law nearest to the network's own, in KL divergence, that
has these means (Csiszar 1975, I-projection). Where sampling noise could be all of a gap, nothing
moves. Knows nothing of files.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lingshu_model.contracts import ArmRequest, Checkpoint, Intervention
from lingshu_model.network import tokens
from lingshu_model.sampling.sampler import Sampler, sample_arm
from lingshu_model.train.data.expression import Floats
from lingshu_model.train.effect_offsets.estimates import LARGEST, PSEUDOCELLS, Context, Goal, Laws
from lingshu_model.train.initialisation import Birth

SEED = 1 << 62
"""Of the first round, far from the small numbers that users begin at."""
SURE = 2.0
"""Standard errors below which a gap is left: noise would move every gene that has none."""
RESPONSES = (0.15, 1.5)
"""How far a change may be taken to follow theta; 1 = as far as that of a gene by itself."""
RUNAWAY = 3.0
"""How many times as far from its goal, squared, a row may be as it was before it moved."""
DIFFER = 0.3
"""Spread of the shares of what was asked that came, between genes of a row."""
Counts = NDArray[np.int32]


def calibrated(checkpoint: Checkpoint, birth: Birth, rounds: Sequence[int]) -> NDArray[np.float32]:
    """Return the tilts [rows, genes] of `checkpoint` after `rounds` of so many pairs of cells.

    Cells are sampled at the checkpoint's own steps and guidance.
    """
    sampler = Sampler.load(checkpoint, threads=1)
    done = {one.target: one for c in birth.cells.conditions for one in c.interventions}
    calibration = Calibration(sampler, birth.median_depth, birth.laws, os.cpu_count() or 1)
    goals = birth.tilts.goals
    total = (len(rounds) + 1) * sum(bool(goal.change.any()) for goal in goals)
    bar = tqdm(calibration.run(goals, done, rounds), total=total, unit="tilt")
    for step in bar:
        bar.set_postfix(round=step.round, r=round(step.pearson, 3), size=round(step.ratio, 3))
    return calibration.theta.float().cpu().numpy()


@dataclass(frozen=True)
class Step:
    """How far one row was from its goal before a round moved it.

    Attributes:
        round: from 0.
        goal: what the row is to bring about.
        pearson: of the sampled change with the goal, over the genes.
        ratio: length of the sampled change over the goal's.
        distance: squared length of what is between the two, over the goal's.
    """

    round: int
    goal: Goal
    pearson: float
    ratio: float
    distance: float


@dataclass(frozen=True)
class _Moved:
    """A row's last move, [genes] each.

    Attributes:
        mean: the mean change before it.
        noise: its squared standard error.
        asked: what the move was to add.
        response: how far a change was taken to follow theta.
    """

    mean: Floats
    noise: Floats
    asked: Floats
    response: Floats


@dataclass(frozen=True)
class Calibration:
    """Moves the tilts of a sampler's network, in place.

    Attributes:
        sampler: a loaded one, which is nobody else's: its network changes.
        median: UMI to which counts are brought before changes are measured.
        laws: what a gene's counts are like, which speaks where few cells were sampled.
        workers: tiles computed side by side.
        control: levels of the control cells sampled last, since rows of one context follow.
        moved: the last move of each row.
        before: each row before that, and how far it was from its goal.
    """

    sampler: Sampler
    median: float
    laws: Laws
    workers: int = 1
    control: dict[tuple[Context, int, int], Floats] = field(default_factory=dict[Any, Floats])
    moved: dict[int, _Moved] = field(default_factory=dict[int, _Moved])
    before: dict[int, tuple[torch.Tensor, float]] = field(
        default_factory=dict[int, tuple[torch.Tensor, float]]
    )

    @property
    def theta(self) -> torch.Tensor:
        """The tilts, float32 [rows, genes]."""
        tilt = self.sampler.network.tilt
        if tilt is None:
            message = f"{self.sampler.checkpoint.name} has no tilts to calibrate"
            raise ValueError(message)
        return tilt.theta

    def run(
        self, goals: Sequence[Goal], done: Mapping[str, Intervention], rounds: Sequence[int]
    ) -> Iterator[Step]:
        """Move every row to its goal, round after round; row i + 1 is that of `goals[i]`.

        Rows whose goal is no change, such as most shams', stay as they are. After the last round
        comes a look without a move.

        `done` are the interventions by target; `rounds` the pairs of cells of each.
        """
        for number, cells in enumerate([*rounds, *rounds[:1]]):
            for row, goal in enumerate(goals, 1):
                if goal.change.any():
                    perturbed, change = self.sampled(goal, done[goal.target], number, cells)
                    step = _compare(number, goal, change.mean(axis=0))
                    if not self._returned(row, step):
                        rest = self._taken_back(row, goal, change)
                        self.before[row] = self.theta[row].clone(), step.distance
                        if number < len(rounds):
                            self._move(row, goal, perturbed, change, rest)
                    yield step

    def sampled(
        self, goal: Goal, done: Intervention, number: int, cells: int
    ) -> tuple[Counts, Floats]:
        """Return perturbed cells, UMI [cells, genes], and their changes of level against control.

        `number` is the round's, which has a seed of its own.
        """
        perturbed = self._cells(goal.context, (done,), number, cells)
        home = (goal.context, number, cells)
        if home not in self.control:
            self.control.clear()
            self.control[home] = self._levels(self._cells(goal.context, (), number, cells))
        return perturbed, self._levels(perturbed) - self.control[home]

    def _cells(
        self, context: Context, done: tuple[Intervention, ...], number: int, cells: int
    ) -> Counts:
        """Return UMI [cells, genes] of a condition; control and perturbed cells are pairs."""
        checkpoint = self.sampler.checkpoint
        arm = ArmRequest(
            checkpoint=checkpoint.name,
            checkpoint_digest=checkpoint.digest,
            context=dict(context),
            interventions=done,
            seed=SEED + number,
            n_cells=cells,
            steps=checkpoint.config["sampler"]["steps"],
            guidance=checkpoint.config["sampler"]["guidance"],
        )
        return sample_arm(self.sampler, arm, self.workers).counts

    def _returned(self, row: int, step: Step) -> bool:
        """Put a row that ran away back where it was; return whether it did.

        Levels are shares of a cell: a gene that floods it lowers all others, which are raised for
        it, and so on. What seemed to be known of responses is forgotten with the move.
        """
        if row in self.before and step.distance > RUNAWAY * self.before[row][1]:
            self.theta[row] = self.before[row][0]
            self.moved.pop(row, None)
            return True
        return False

    def _taken_back(self, row: int, goal: Goal, change: Floats) -> NDArray[np.bool_]:
        """Take back the last move of genes that are surely farther from their goal than before it.

        A gene that is next to absent may not answer a step, be given a larger one, and flood.
        """
        if row not in self.moved:
            return np.zeros(change.shape[1], bool)
        last = self.moved[row]
        now, before = (goal.change - mean for mean in (change.mean(axis=0), last.mean))
        noise = last.noise + change.var(axis=0) / len(change)
        worse = (last.asked != 0) & (now**2 > before**2 + SURE**2 * noise)
        genes = torch.from_numpy(np.flatnonzero(worse))
        self.theta[row, genes] = self.before[row][0][genes]
        return worse

    def _move(
        self, row: int, goal: Goal, perturbed: Counts, change: Floats, rest: NDArray[np.bool_]
    ) -> None:
        """Move a row towards its goal, `change` [cells, genes] being the pairs'.

        Genes that `rest` stay: what was sampled is not of where they are now.
        """
        mean = change.mean(axis=0)
        law = self.laws.among(tokens.encode(perturbed), PSEUDOCELLS)
        scale = self.median / float(np.exp(np.log(_depth(perturbed)).mean()))
        now = law.mean_of(scale)
        # Pairs that happen not to differ are not therefore sure not to.
        spread = law.mean_of(scale, power=2) - now**2
        noise = (change.var(axis=0) + PSEUDOCELLS / len(change) * spread) / len(change)
        measured = self.sampler.checkpoint.measured(dict(goal.context))
        gap = np.where(measured & ~rest, goal.change - mean, 0.0)
        asked = gap * np.maximum(1 - SURE**2 * noise / np.maximum(gap**2, 1e-30), 0.0)
        # A mean level cannot go below nothing.
        step = law.tilt_to(np.maximum(now + asked, 0.02 * now), scale)
        response = self._response(row, mean, noise)
        self.moved[row] = _Moved(mean, noise, asked, response)
        theta = self.theta[row].double().cpu().numpy() + np.where(asked != 0, step / response, 0.0)
        self.theta[row] = torch.from_numpy(theta.clip(-LARGEST, LARGEST))

    def _response(self, row: int, mean: Floats, noise: Floats) -> Floats:
        """Return how far each gene's change follows its theta, by what came of the last move.

        A gate in the network leaves of a tilt what the genes already revealed have not told. A gene
        whose move is lost in noise is taken to respond as the others of its row do.
        """
        if row not in self.moved:
            return np.ones(len(mean))
        last = self.moved[row]
        came, squares = (mean - last.mean) * last.asked, last.asked**2
        whole = came.sum() / max(float(squares.sum()), 1e-12)
        doubt = (noise + last.noise) / DIFFER**2
        share = (came + doubt * whole) / np.maximum(squares + doubt, 1e-12)
        return np.clip(last.response * share, *RESPONSES)

    def _levels(self, counts: Counts) -> Floats:
        return np.log1p(counts * (self.median / _depth(counts)))


def _depth(counts: Counts) -> Floats:
    return np.maximum(counts.sum(axis=1, keepdims=True), 1).astype(np.float64)


def _compare(number: int, goal: Goal, mean: Floats) -> Step:
    with np.errstate(divide="ignore", invalid="ignore"):
        pearson = float(np.corrcoef(mean, goal.change)[0, 1])
        ratio = float(np.linalg.norm(mean) / np.linalg.norm(goal.change))
        distance = float(np.sum((mean - goal.change) ** 2) / np.sum(goal.change**2))
    return Step(number, goal, pearson, ratio, distance)
