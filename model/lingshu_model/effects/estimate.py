"""The effect of every trained condition in every context, in closed form.

Levels are summed per condition, context and replicate in one pass (`moments`), compared with the
control cells of the context (`measure`), and shrunk. Where at least `OTHERS` further contexts have
the condition, the effect carried over from them (`contexts`) is the prior, a normal distribution.
The cells of this context and the prior are weighted by their precision:

    b | d ~ N((d / s^2 + m / t^2) / (1 / s^2 + 1 / t^2), 1 / (1 / s^2 + 1 / t^2))

with d and s the change and its standard error, m and t the carried mean and sd. Elsewhere the prior
is a mixture around 0 (`shrink`). Where replicates differ between the arms or in their responses, or
contexts share them, a second step shrinks by what differs between replicates. `source` says which
prior was used.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.effects import BOTH, CARRIED, CELLS
from lingshu_model.effects.contexts import Carried, Carrier, Sources
from lingshu_model.effects.measure import Controls, Group, Measured, measure
from lingshu_model.effects.moments import Floats, Ints, Moments, Rows
from lingshu_model.effects.shrink import (
    Posterior,
    Shrinkage,
    across,
    combine,
)

OTHERS = 3
"""Number of other contexts from which the carried effect is the prior."""
ALIKE = 1 / 3
"""Share of the noise up to which paired replicates of one context are taken to respond alike."""


@dataclass(frozen=True)
class Effect:
    """The effect of a perturbation in a context.

    Attributes:
        posterior: change of mean log1p_cp10k, [genes].
        source: `CELLS`, `BOTH`, `CARRIED` or another of `contracts.effects`.
        note: the cells or contexts that it comes from, in a sentence.
    """

    posterior: Posterior
    source: str
    note: str


@dataclass(frozen=True)
class Effects:
    """All trained effects.

    Attributes:
        measured: changes and standard errors, before shrinkage.
        control: name of the control condition.
    """

    measured: Measured
    control: str

    @classmethod
    def of(
        cls,
        counts: Iterable[Rows],
        labels: Sequence[Group],
        control: str,
        genes: int,
    ) -> "Effects":
        """Return the effects in cells whose counts are given in blocks of rows.

        Args:
            counts: raw counts [any number of cells, genes] in compressed rows.
            labels: condition, context and replicate of every cell, in order.
            control: name of the control condition.
            genes: how many genes there are.

        Raises:
            ValueError: no context has perturbed and control cells, or counts are negative or not
                finite.
        """
        number: dict[Group, int] = {}
        group: Ints = np.array([number.setdefault(g, len(number)) for g in labels], np.int64)
        moments = Moments.of(counts, group, len(number), genes)
        return cls(measure(moments, list(number), control), control)

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """Perturbed conditions, sorted."""
        return tuple(sorted(set(self.measured.conditions)))

    @cached_property
    def shrinkage(self) -> Shrinkage:
        """Of an effect by its cells alone."""
        return self._shrinkage(self.measured.noise)

    @cached_property
    def _shrinkage_of_cells(self) -> Shrinkage:
        """`shrinkage`, as if replicates did not differ."""
        return self._shrinkage(self.measured.noise - self.measured.between)

    def _shrinkage(self, noise: Floats) -> Shrinkage:
        m = self.measured
        # Half of the contrasts have more cells in their smaller arm.
        return Shrinkage.of(m.change, noise, float(np.median(m.cells.min(axis=1))) * m.detected)

    def seen(self, condition: str, context: str) -> Effect:
        """Return the effect of a condition in a context that has cells of it.

        Raises:
            KeyError: there are none.
        """
        row = self._row(condition, context)
        m = self.measured
        change, noise = m.change[row], m.noise[row]
        others = m.rows(condition=condition)
        # The context itself is left out of its prior: its cells would otherwise count twice.
        others = others[others != row]
        cells = f"{m.cells[row, 0]} cells against {m.cells[row, 1]}, {self._replicates(row)}"
        if len(others) < OTHERS:
            return Effect(self._alone(row), CELLS, cells)
        carried = Carrier(self._sources(others)).to(m.controls[context].mean)
        if not (m.crossed and m.between[row].any()):
            both = combine(change, noise, carried.effect.mean, carried.effect.sd)
            return Effect(both, BOTH, f"{cells}; {carried.note}")
        # The other contexts have the same replicates: that they agree is no evidence against these.
        between = m.between[row]
        here = combine(change, noise - between, carried.effect.mean, carried.effect.sd)
        return Effect(across(here, between), BOTH, f"{cells}; {carried.note}")

    def _alone(self, row: int) -> Posterior:
        """Return the posterior of a row's effect from its cells alone."""
        m = self.measured
        change, noise = m.change[row], m.noise[row]
        # Levels of paired replicates cancel. Their responses differ too: by less than cells do, if
        # replicates are batches, and by more, if they are donors.
        least = ALIKE * float(np.nansum(noise)) if m.paired[row] else 0.0
        if m.between[row].sum() <= least:
            return self.shrinkage.posterior(change, noise)
        here = self._shrinkage_of_cells.posterior(change, noise - m.between[row])
        return across(here, m.between[row])

    def carried(self, condition: str, control: Controls | Floats, leave: str = "") -> Effect:
        """Return the effect of a condition in a context that has no cells of it.

        Args:
            condition: the perturbation.
            control: the context's control cells, or their mean level [genes].
            leave: name of a context that is left out.

        Raises:
            KeyError: no other context has it.
        """
        rows = self.measured.rows(condition=condition)
        rows = rows[[self.measured.contexts[i] != leave for i in rows]]
        if not len(rows):
            message = f"no context has {condition!r}; trained: {', '.join(self.conditions[:20])}"
            raise KeyError(message)
        mean = control.mean if isinstance(control, Controls) else control
        carried: Carried = self._carrier(tuple(map(int, rows))).to(mean)
        # Mean over the contexts that measure a gene, [genes].
        known = np.isfinite(self.measured.change[rows]).sum(axis=0)
        between = self.measured.between[rows].sum(axis=0) / np.maximum(known, 1)
        if self.measured.crossed and between.any():
            return Effect(across(carried.effect, between), CARRIED, carried.note)
        return Effect(carried.effect, CARRIED, carried.note)

    @cached_property
    def _carriers(self) -> dict[tuple[int, ...], Carrier]:
        return {}

    def _carrier(self, rows: tuple[int, ...]) -> Carrier:
        if rows not in self._carriers:
            self._carriers[rows] = Carrier(self._sources(np.array(rows)))
        return self._carriers[rows]

    def _sources(self, rows: NDArray[np.int64]) -> Sources:
        m = self.measured
        controls = [m.controls[m.contexts[i]] for i in rows]
        return Sources(
            tuple(m.contexts[i] for i in rows),
            m.change[rows],
            m.noise[rows],
            np.stack([c.mean for c in controls]),
            np.stack([c.noise for c in controls]),
            m.variance,
        )

    def _row(self, condition: str, context: str) -> int:
        rows = self.measured.rows(condition=condition, context=context)
        if not len(rows):
            contexts = [self.measured.contexts[i] for i in self.measured.rows(condition=condition)]
            message = (
                f"no cells of {condition!r} in {context!r}; "
                f"contexts that have it: {', '.join(contexts) or 'none'}"
            )
            raise KeyError(message)
        return int(rows[0])

    def _replicates(self, row: int) -> str:
        count = int(self.measured.replicates[row])
        if count < 2 and self.measured.named and self.measured.between[row].any():
            return "one replicate in an arm: the sd takes replicates to differ as much as usual"
        if count < 2 and self.measured.named:
            return "one replicate in an arm: what differs between replicates is not in the sd"
        if count < 2:
            return "no replicates named: cells are taken as independent, which they seldom are"
        return f"{count} replicates"
