"""A gene-regulatory network whose truth is known: what one, two, three or four knock-outs do.

Every gene is transcribed in proportion to how occupied its promoter is, a sigmoid of the activities
of a few regulators and of products of two activities (synergy where they add to each other,
antagonism where they cancel). A regulator's activity is a Hill function of its own level, 0 at the
control's and -1 when it is lost, so regulators regulate each other and a perturbation is the steady
state in which its targets are held at a fixed fold of their control level. Saturation alone makes
interactions of every order; the products make some pairs strong. Targets belong to pathways: part
of what a target does, alone and with another, is what its pathway does, the rest is its own.

Cells are negative binomial counts around that steady state, each cell at a depth of its own.
Everything is a function of the seed.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
KNOCKED_OUT = 0.0
TOLERANCE = 1e-12
MOST_ROUNDS = 2_000


@dataclass(frozen=True)
class Shape:
    """How large a network is, and how strongly its parts pull.

    Attributes:
        genes: all of them: the targets, the other regulators and the rest.
        targets: regulators that are perturbed.
        relays: regulators that are not perturbed and pass effects on.
        regulators_per_gene: how many act on a gene.
        strength: standard deviation of a regulator's pull on a promoter, in log odds.
        pathways: how many the targets are dealt out to.
        shared: share of the variance of a target's pulls that its pathway has in common.
        pairs: pairs of targets whose product acts too.
        genes_per_pair: on how many genes each of them acts.
        pair_strength: mean size of that pull, in log odds.
        depth: mean counts of a cell.
        depth_spread: standard deviation of the logarithm of a cell's depth.
    """

    genes: int = 240
    targets: int = 10
    relays: int = 20
    regulators_per_gene: int = 4
    strength: float = 1.2
    pathways: int = 3
    shared: float = 0.5
    pairs: int = 20
    genes_per_pair: int = 40
    pair_strength: float = 1.5
    depth: float = 3_000.0
    depth_spread: float = 0.35


@dataclass(frozen=True)
class Regulation:
    """A drawn network.

    Attributes:
        genes: names; the targets come first, then the relays.
        targets: the perturbable ones.
        shape: what it was drawn from.
        base: share of each gene in the control's counts, [genes], sums to 1.
        occupancy: log odds of each promoter in control, [genes].
        pull: log odds per unit of activity, [genes, regulators].
        pairs: indices of two targets each, [pairs, 2].
        pair_pull: log odds per product of two activities, [genes, pairs].
        size: negative binomial size of each gene, [genes].
    """

    genes: tuple[str, ...]
    targets: tuple[str, ...]
    shape: Shape
    base: Floats
    occupancy: Floats
    pull: Floats
    pairs: NDArray[np.int64]
    pair_pull: Floats
    size: Floats
    _levels: dict[tuple[frozenset[str], float], Floats] = field(
        default_factory=dict[tuple[frozenset[str], float], Floats], repr=False, compare=False
    )

    @classmethod
    def draw(cls, seed: int, shape: Shape | None = None) -> "Regulation":
        """Return a network drawn from `seed`."""
        shape = shape or Shape()
        rng = _generator(seed, 0)
        regulators = shape.targets + shape.relays
        names = [f"REG{i:02d}" for i in range(shape.targets)]
        names += [f"RELAY{i:02d}" for i in range(shape.relays)]
        names += [f"GENE{i:03d}" for i in range(shape.genes - regulators)]
        base = rng.lognormal(0.0, 1.2, shape.genes)
        pairs, pair_pull = _draw_pairs(rng, shape)
        return cls(
            tuple(names),
            tuple(names[: shape.targets]),
            shape,
            base / base.sum(),
            rng.normal(-0.5, 1.0, shape.genes),
            _draw_pull(rng, shape),
            pairs,
            pair_pull,
            rng.lognormal(0.7, 0.5, shape.genes),
        )

    def level(self, targets: Collection[str], fold: float = KNOCKED_OUT) -> Floats:
        """Return each gene's steady state over its control level, `targets` held at `fold`.

        Raises:
            ValueError: a target is none of this network's, or no steady state was reached.
        """
        key = (frozenset(targets), fold)
        if key not in self._levels:
            self._levels[key] = self._settle(key[0], fold)
        return self._levels[key]

    def share(self, targets: Collection[str] = (), fold: float = KNOCKED_OUT) -> Floats:
        """Return the true share of each gene in the counts, [genes], without any sampling noise."""
        level = self.base * self.level(targets, fold)
        return level / level.sum()

    def cells(
        self, targets: Collection[str], n: int, seed: int, fold: float = KNOCKED_OUT
    ) -> NDArray[np.int32]:
        """Return UMI counts int32 [n, genes] of cells of one condition."""
        held = sorted(self.genes.index(t) + 1 for t in set(targets))
        rng = _generator(seed, 1, *held)
        spread = self.shape.depth_spread
        depth = self.shape.depth * rng.lognormal(-(spread**2) / 2, spread, (n, 1))
        rate = (
            depth
            * self.share(targets, fold)
            * rng.gamma(self.size, 1 / self.size, (n, len(self.genes)))
        )
        return rng.poisson(rate).astype(np.int32)

    @cached_property
    def _control_occupancy(self) -> Floats:
        return _sigmoid(self.occupancy)

    def _settle(self, targets: frozenset[str], fold: float) -> Floats:
        unknown = targets.difference(self.targets)
        if unknown:
            message = f"{sorted(unknown)} are not among the targets {', '.join(self.targets)}"
            raise ValueError(message)
        held = [self.genes.index(target) for target in targets]
        level = np.ones(len(self.genes))
        for _ in range(MOST_ROUNDS):
            new = self._transcribed(level)
            new[held] = fold
            if np.abs(new - level).max() < TOLERANCE:
                return new
            # Half a step at a time: a loop that overshoots settles all the same.
            level = 0.5 * (level + new)
        message = f"no steady state with {sorted(targets)} held at {fold}: draw a weaker network"
        raise ValueError(message)

    def _transcribed(self, level: Floats) -> Floats:
        square = level[: self.pull.shape[1]] ** 2
        activity = (square - 1) / (square + 1)
        products = activity[self.pairs[:, 0]] * activity[self.pairs[:, 1]]
        odds = self.occupancy + self.pull @ activity + self.pair_pull @ products
        return _sigmoid(odds) / self._control_occupancy


def _draw_pull(rng: np.random.Generator, shape: Shape) -> Floats:
    regulators = shape.targets + shape.relays
    density = shape.regulators_per_gene / regulators
    of_pathway = _sparse(rng, (shape.genes, shape.pathways), density)
    own = _sparse(rng, (shape.genes, regulators), density)
    pull = own.copy()
    pull[:, : shape.targets] = _mixed(
        of_pathway[:, _pathway(shape)], own[:, : shape.targets], shape.shared
    )
    pull *= shape.strength
    # Regulators pull each other less, or loops would have more than one steady state.
    pull[:regulators] *= 0.4
    np.fill_diagonal(pull, 0.0)
    return pull


def _draw_pairs(rng: np.random.Generator, shape: Shape) -> tuple[NDArray[np.int64], Floats]:
    every = np.array(np.triu_indices(shape.targets, 1)).T
    pairs = every[np.sort(rng.choice(len(every), shape.pairs, replace=False))]
    density = shape.genes_per_pair / shape.genes
    of_pathways = _sparse(rng, (shape.genes, shape.pathways, shape.pathways), density)
    of_pathways = np.triu(of_pathways) + np.triu(of_pathways, 1).swapaxes(1, 2)
    first, second = _pathway(shape)[pairs].T
    own = _sparse(rng, (shape.genes, len(pairs)), density)
    pull = shape.pair_strength * _mixed(of_pathways[:, first, second], own, shape.shared)
    pull[: shape.targets + shape.relays] = 0.0
    return pairs, pull


def _pathway(shape: Shape) -> NDArray[np.int64]:
    return np.arange(shape.targets) % shape.pathways


def _sparse(rng: np.random.Generator, size: tuple[int, ...], density: float) -> Floats:
    return rng.normal(size=size) * (rng.random(size) < density)


def _mixed(common: Floats, own: Floats, shared: float) -> Floats:
    return np.sqrt(shared) * common + np.sqrt(1 - shared) * own


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *purpose])))
