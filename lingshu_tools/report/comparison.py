"""Perturbation experiments compared gene by gene, from their rows and checkpoints.

The first experiment is what the others are compared with. Genes are those of every panel, by
symbol. What is certain is the sign of a change: by its posterior where the checkpoint stores one,
else beyond Monte Carlo noise. The targets' own genes are left out, unless they are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Cells, decode_cells
from lingshu_model.contracts.posterior import Floats, Posterior
from lingshu_model.system.lazy import Lazy
from lingshu_tools.analysis import Effect, interval, t_quantile
from lingshu_tools.analysis.certainty import SUPPORTED
from lingshu_tools.analysis.differences import (
    Agreement,
    PosteriorDifference,
    agreement,
    gene_levels,
    no_difference,
    paired_differences,
    posterior_difference,
)
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.findings import unpack_effect
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.report.experiment_views import Shown

Show = Literal["different", "shared", "opposite"]
MOST_COUNTS = 20_000_000
"""Non-zero counts that are read for paired intervals: about a second."""
SAME_STREAMS = ("seed", "first_cell", "n_cells", "cells")
"""Fields of a request that decide which random streams its cells have, or whose cells they are."""
NOT_COMPARED = frozenset({"checkpoint"})
"""Fields of a request that decide no count: a name, beside the digest."""


@dataclass(frozen=True)
class MonteCarlo:
    """A difference of simulated changes and its 95 % interval, log1p_cp10k."""

    difference: float
    interval: list[float] | None


class Side:
    """One experiment of a comparison; arrays are over its panel."""

    def __init__(self, record: Shown) -> None:
        """Take an experiment that succeeded.

        Raises:
            InputError: neither its cells nor an estimate of its effect is here.
        """
        self.record, self.design = record, record.design
        blob, stored = record.artifact("effects"), stored_effect(record.design)
        self.effect: Effect | None = unpack_effect(blob) if blob else None
        self.posterior: Posterior | None = stored.posterior if stored else None
        if self.effect is None and self.posterior is None:
            message = (
                f"{record.experiment.id}: its cells are not stored here, and its checkpoint stores "
                f'no effect; replay_experiment(id="{record.experiment.id}") makes them again'
            )
            raise InputError(message)
        self.positions = {gene: i for i, gene in enumerate(self.design.checkpoint.panel)}

    @property
    def change(self) -> Floats:
        """Posterior mean of the change where there is one, else that of simulated cells."""
        if self.posterior is None:
            return self.simulated
        # Effects are stored of all genes; NaN keeps unmeasured ones out of the lists.
        return np.where(self.measured, self.posterior.mean, np.nan)

    @property
    def simulated(self) -> Floats:
        """Change of simulated cells; NaN where these are not stored."""
        nothing = np.full(len(self.positions), np.nan)
        return nothing if self.effect is None else self.effect.change

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Genes that the simulated cells have, all where these are not stored."""
        nothing = np.ones(len(self.positions), np.bool_)
        return nothing if self.effect is None else self.effect.measured

    @property
    def certain(self) -> NDArray[np.bool_]:
        """Genes whose sign is supported, or without a posterior beyond Monte Carlo noise."""
        if self.posterior is not None:
            return self.measured & (self.posterior.lfsr <= SUPPORTED)
        effect = self.effect
        if effect is None or effect.change_se is None:
            return np.zeros(len(self.positions), np.bool_)
        # Without a posterior, certain means only that more cells would not change the sign.
        limit = t_quantile(0.975, effect.n_cells - 1) * effect.change_se
        return np.abs(effect.change) > limit

    @property
    def targets(self) -> set[str]:
        """Genes that are acted on."""
        return {i.target for i in self.design.interventions}

    @property
    def question(self) -> tuple[Any, ...]:
        """What its posterior is of: equal questions have one answer."""
        d = self.design
        # Seed and number of cells are not in it: they change the simulation alone.
        return d.checkpoint.digest, sorted(d.context.items()), d.interventions, d.cells

    @Lazy
    def numerics(self) -> Mapping[str, Any]:
        """The numerics profile it was computed with; empty where none is recorded."""
        outcome = self.record.outcome
        digest = outcome.environment_digest if outcome else None
        return self.record.ledger.environment(digest).get("profile") or {} if digest else {}


class Comparison:
    """Two or more perturbation experiments, the first against each of the others."""

    def __init__(self, sides: Sequence[Side]) -> None:
        """Compare `sides`.

        Raises:
            InputError: their panels have no gene in common.
        """
        self.sides = sides
        first, others = sides[0], sides[1:]
        # In the panel order of the first experiment.
        shared = [g for g in first.positions if all(g in side.positions for side in others)]
        if not shared:
            message = (
                "the panels of these experiments have no gene symbol in common, so there is "
                "nothing to compare; choose experiments of one checkpoint"
            )
            raise InputError(message)
        self.genes = shared
        # Position in `genes` to panel position, of each experiment.
        self._places = [np.array([s.positions[g] for g in shared]) for s in sides]
        self.changes = np.stack([s.change[p] for s, p in self._each()])
        """Changes, [experiments, genes], NaN where not measured."""
        self._certain = np.stack([s.certain[p] for s, p in self._each()])
        acted_on = set[str]().union(*(s.targets for s in sides))
        self.left_out = sorted(acted_on & set(shared))
        # Genes that are compared: measured in all, and not acted on in any.
        self._listed = np.isfinite(self.changes).all(0) & ~np.isin(shared, self.left_out)
        self.differences = [self._posterior_difference(i) for i in range(1, len(sides))]

    def _each(self) -> Iterator[tuple[Side, NDArray[np.intp]]]:
        return zip(self.sides, self._places, strict=True)

    def _posterior_difference(self, other: int) -> PosteriorDifference | None:
        first, second = self.sides[0], self.sides[other]
        if first.posterior is None or second.posterior is None:
            return None
        # As independent they would differ by noise that they have in common.
        if first.question == second.question:
            return no_difference(len(self.genes))
        return posterior_difference(
            _part(first.posterior, self._places[0]), _part(second.posterior, self._places[other])
        )

    def order(self, show: Show) -> list[int]:
        """Return the genes of a list, the most telling first.

        `different` has every gene, those whose difference is most certain first; `shared` those
        certain in all experiments with one sign; `opposite` those certain in two with both signs.
        """
        if show == "different":
            # By lfsr, then by size: where no posterior is known all rates are 1, and size alone
            # counts.
            key = np.lexsort((-self._gap, self._lfsr))
            return [int(i) for i in key if self._listed[i]]
        chosen = self.shared if show == "shared" else self.opposite
        # A shared change is as strong as its weakest; an opposite one as far apart as its ends.
        smallest = np.abs(self.changes).min(0) if show == "shared" else self._gap
        return sorted(np.flatnonzero(chosen).tolist(), key=lambda i: -smallest[i])

    @Lazy
    def shared(self) -> NDArray[np.bool_]:
        """Genes that are certain in all experiments, with the same sign."""
        signs = np.sign(self.changes)
        return self._listed & self._certain.all(0) & (signs == signs[0]).all(0)

    @Lazy
    def opposite(self) -> NDArray[np.bool_]:
        """Genes that are certain in two experiments, with different signs."""
        up = (self._certain & (self.changes > 0)).any(0)
        return self._listed & up & (self._certain & (self.changes < 0)).any(0)

    @Lazy
    def different(self) -> NDArray[np.bool_]:
        """Genes whose difference from the first experiment has a certain sign."""
        return self._listed & (self._lfsr <= SUPPORTED)

    @Lazy
    def listed(self) -> int:
        """Number of genes compared."""
        return int(self._listed.sum())

    @Lazy
    def _lfsr(self) -> Floats:
        """Smallest local false sign rate of a difference from the first, [genes]; else 1."""
        known = [d.lfsr for d in self.differences if d is not None]
        return np.stack(known).min(0) if known else np.ones(len(self.genes))

    @Lazy
    def _gap(self) -> Floats:
        return np.nan_to_num(np.abs(self.changes[1:] - self.changes[0])).max(0)

    def other(self, gene: int) -> int:
        """Return which experiment differs most from the first in a gene, from 1."""
        gaps = np.nan_to_num(np.abs(self.changes[1:, gene] - self.changes[0, gene]))
        rates = [1.0 if d is None else float(d.lfsr[gene]) for d in self.differences]
        return 1 + min(range(len(gaps)), key=lambda i: (rates[i], -gaps[i]))

    def agreement(self, a: int, b: int) -> Agreement:
        """Return how two experiments agree, the targets' own genes left out."""
        return agreement(
            self.changes[a],
            self.changes[b],
            self._certain[a] & self._listed,
            self._certain[b] & self._listed,
        )

    def n_certain(self, side: int) -> int:
        """Return the number of genes that are certain in an experiment."""
        return int((self._certain[side] & self._listed).sum())

    def monte_carlo(self, genes: Sequence[int]) -> list[MonteCarlo | None]:
        """Return the simulated difference of each gene from the first, for its `other`."""
        # Genes are grouped by the experiment they are compared with, since its cells are read once.
        result: dict[int, MonteCarlo | None] = {}
        for other in {self.other(g) for g in genes}:
            mine = [g for g in genes if self.other(g) == other]
            result |= zip(mine, self._simulated(other, mine), strict=True)
        return [result[g] for g in genes]

    def unpaired(self, other: int) -> str | None:
        """Return why the cells of an experiment are not paired with the first's; None: they are."""
        first, second = self.sides[0].record, self.sides[other].record
        a, b = first.experiment.request, second.experiment.request
        differing = [name for name in SAME_STREAMS if a.get(name) != b.get(name)]
        if differing:
            return f"other {' and '.join(differing)}"
        if not all(r.stored("control", "perturbed") for r in (first, second)):
            return "cells not stored here"
        # indptr[-1] is the number of stored counts: known without reading them.
        if sum(cells.indptr[-1] for r in (first, second) for cells in _arms(r)) > MOST_COUNTS:
            return "more cells than are read in one call"
        return None

    def _simulated(self, other: int, genes: Sequence[int]) -> list[MonteCarlo | None]:
        a, b = self.sides[0], self.sides[other]
        if a.effect is None or b.effect is None:
            return [None] * len(genes)
        places = [self._places[i][list(genes)] for i in (0, other)]
        changes = [s.effect.change[p] for s, p in zip((a, b), places, strict=True) if s.effect]
        # Differences are those of the stored effects; cells are read for the width alone.
        gaps = changes[1] - changes[0]
        if self.unpaired(other) is None:
            # [pairs, genes] of both, row i from the same stream.
            pairs = (_pairs(s.record, p) for s, p in zip((a, b), places, strict=True))
            _, half = paired_differences(*pairs)
        else:
            half = _independent(a.effect, b.effect, *places)
        if half is None:
            return [MonteCarlo(float(gap), None) for gap in gaps]
        return [
            MonteCarlo(float(gap), [float(gap - width), float(gap + width)])
            for gap, width in zip(gaps, half, strict=True)
        ]

    def differs(self) -> dict[str, list[Any]]:
        """Return what is not the same: `field -> [value of each experiment]`.

        Fields of the request by name, those of the numerics profile after `numerics.`.
        """
        rows = [
            dict(_leaves(s.record.experiment.request))
            | {f"numerics.{k}": v for k, v in _leaves(s.numerics)}
            for s in self.sides
        ]
        # All fields in the order of their first occurrence; a field that a request lacks is None.
        fields = dict.fromkeys(name for row in rows for name in row)
        values = {name: [row.get(name) for row in rows] for name in fields}
        return {
            name: each
            for name, each in values.items()
            if name not in NOT_COMPARED and any(value != each[0] for value in each)
        }


def _part(posterior: Posterior, places: NDArray[np.intp]) -> Posterior:
    return Posterior(posterior.mean[places], posterior.sd[places], posterior.lfsr[places])


def _arms(record: Shown) -> list[Cells]:
    artifacts = record.outcome.artifacts if record.outcome else {}
    return [decode_cells(record.ledger.object_file(artifacts[r])) for r in ("control", "perturbed")]


def _pairs(record: Shown, genes: NDArray[np.intp]) -> Floats:
    """Return the changes of cell pairs, [pairs, genes]."""
    control, perturbed = _arms(record)
    # As in `paired_effect`, so that these changes have the mean that is stored.
    measured = control.measured & perturbed.measured
    levels = (gene_levels(cells, genes.tolist(), measured) for cells in (perturbed, control))
    return next(levels) - next(levels)


def _independent(
    a: Effect, b: Effect, genes_a: NDArray[np.intp], genes_b: NDArray[np.intp]
) -> Floats | None:
    """Return half the width of the interval of a difference of independent simulations."""
    if a.change_se is None or b.change_se is None:
        return None
    # Variances add up; the fewer degrees of freedom of the two make the wider interval.
    se = np.hypot(a.change_se[genes_a], b.change_se[genes_b])
    widths = [interval(0.0, float(x), min(a.n_cells, b.n_cells)) for x in se]
    return np.array([w[1] if w else np.nan for w in widths])


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner
