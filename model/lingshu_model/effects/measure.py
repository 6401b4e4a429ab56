"""Changes of mean level between perturbed and control cells, and their standard errors.

Each perturbed condition is compared with the control cells of its context. Where both arms have
cells of the same replicates, the change is taken within each replicate, and a replicate with only
one arm is not used; where they share none, or few of many, means over replicates are compared.
Cells without a replicate's name count as one more replicate, which pairs no arms that named
replicates do not. Replicates have weights 1 / (rho + 1 / n) (`lingshu_model.effects.replicates`),
so that many cells of one replicate do not outweigh the others.

The variance of a rare gene in a small arm is unreliable: an arm of thirty cells without a count of
the gene has variance 0. So an arm's variance v between cells is moderated by that of its context,
and the context's by that of all cells, to which half a count is added (Jeffreys):

    v' = (k v + K v_pool) / (k + K),   k = number of cells with the gene, about; K = `PRIOR`.

On random splits of control cells, 15 to 100 against 60 to 300, |z| > 3 then has a frequency of at
most 0.006 at any expression; with the arms' own variances it is up to 0.10 (docs/log.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingshu_model.effects.moments import Floats, Ints, Moments
from lingshu_model.effects.replicates import PRIOR_RHO, Family, intraclass

PRIOR = 5.0
"""Number of cells with the gene at which an arm's own variance has as much weight as its prior."""
DETECTED = 0.1
"""Mean level, in levels of a single count, from which a gene is used to estimate rho."""


@dataclass(frozen=True)
class Group:
    """The cells of one condition in one context and one replicate.

    Attributes:
        condition: name, that of control for control cells.
        context: name.
        replicate: name; empty where the data name none.
    """

    condition: str
    context: str
    replicate: str = ""


@dataclass(frozen=True)
class Controls:
    """Mean levels of a context's control cells.

    Attributes:
        mean: [genes]; NaN where not measured.
        noise: squared standard errors, [genes].
        cells: how many there are.
    """

    mean: Floats
    noise: Floats
    cells: int


@dataclass(frozen=True)
class Measured:
    """Changes of every condition in every context that has cells of it and of control.

    Attributes:
        conditions: one per row.
        contexts: one per row.
        change: of mean log1p_cp10k, float64 [rows, genes]; NaN where not measured.
        noise: squared standard errors, the same shape.
        cells: perturbed and control cells, int64 [rows, 2].
        replicates: replicates of the arm that has fewer of them, int64 [rows]; 1 = none named.
        controls: by context, those without any perturbed cell included.
        library: geometric mean counts of a perturbed cell over that of a control cell, [rows].
        variance: variance of each gene between cells of the same group, [genes].
        detected: share of the cells that have the gene, about, [genes].
        named: whether cells have replicates; of data without them an arm has one, of all cells.
        between: the part of `noise` that is variance between replicates, the same shape; where not
            measured 0.
        paired: whether both arms have the same replicates, bool [rows].
        crossed: whether contexts have replicates in common, as cell types of the same animals do.
    """

    conditions: tuple[str, ...]
    contexts: tuple[str, ...]
    change: Floats
    noise: Floats
    cells: Ints
    replicates: Ints
    controls: Mapping[str, Controls]
    library: Floats
    variance: Floats
    detected: Floats
    named: bool
    between: Floats
    paired: NDArray[np.bool_]
    crossed: bool

    def rows(self, *, condition: str | None = None, context: str | None = None) -> Ints:
        """Return the numbers of the rows of a condition, of a context, or of both."""
        pairs = zip(self.conditions, self.contexts, strict=True)
        return np.flatnonzero([condition in (None, c) and context in (None, x) for c, x in pairs])


@dataclass(frozen=True)
class _Arms:
    """The groups of one contrast.

    Attributes:
        context: name.
        perturbed: group numbers of the perturbed cells, [replicates].
        control: group numbers of the control cells, [replicates].
        paired: whether entry i of both is the same replicate.
    """

    context: str
    perturbed: Ints
    control: Ints
    paired: bool


def measure(
    moments: Moments,
    groups: Sequence[Group],
    control: str,
    measured: NDArray[np.bool_] | None = None,
) -> Measured:
    """Return the changes of all conditions.

    Args:
        moments: sums of `groups`.
        groups: what each group of `moments` is.
        control: the name of the control condition.
        measured: bool [groups, genes], genes that a group's source measures; all by default.

    Raises:
        ValueError: no context has cells of a condition and of control.
    """
    arms = _arms(moments, groups, control)
    if not arms:
        message = (
            f"no context has cells of a condition and of the control {control!r}; "
            "name the control condition as the labels do"
        )
        raise ValueError(message)
    work = _Contrasts(moments, groups, measured)
    # rho is estimated over many contrasts: one alone has too few replicates. That of changes within
    # replicates and that of levels apart: what cancels in the former is most of the latter.
    within = work.intraclass([a for a in arms.values() if a.paired], 0.0)
    apart = work.intraclass([a for a in arms.values() if not a.paired], _prior(arms, groups))
    # Single pairs show no rho of changes; that of levels is above it.
    rho = {True: apart if within is None else within, False: apart}
    result = [work.contrast(each, rho[each.paired]) for each in arms.values()]
    cells = [[int(moments.cells[g].sum()) for g in (a.perturbed, a.control)] for a in arms.values()]
    return Measured(
        conditions=tuple(condition for condition, _ in arms),
        contexts=tuple(context for _, context in arms),
        change=np.stack([change for change, _, _ in result]),
        noise=np.stack([noise for _, noise, _ in result]),
        cells=np.array(cells),
        replicates=np.array([min(len(a.perturbed), len(a.control)) for a in arms.values()]),
        controls=work.controls(groups, control),
        library=np.array([work.library(each) for each in arms.values()]),
        variance=work.everywhere,
        detected=work.share,
        named=any(_named(group) for group in groups),
        between=np.stack([between for _, _, between in result]),
        paired=np.array([each.paired for each in arms.values()]),
        crossed=_crossed(groups),
    )


def _prior(arms: Mapping[tuple[str, str], "_Arms"], groups: Sequence[Group]) -> float:
    """Return the prior rho: `PRIOR_RHO` where a contrast has named, unpaired replicates, else 0.

    In paired replicates the difference between replicates cancels.
    """
    apart = [a for a in arms.values() if not a.paired]
    named = any(groups[i].replicate for a in apart for i in (*a.perturbed, *a.control))
    return PRIOR_RHO if named else 0.0


def _crossed(groups: Sequence[Group]) -> bool:
    """Return whether a named replicate has cells in more than one context."""
    pairs = {(g.replicate, g.context) for g in groups if _named(g)}
    return len({replicate for replicate, _ in pairs}) < len(pairs)


def _named(group: Group) -> bool:
    """Return whether a group's replicate has a name; of several sources it is SOURCE/REPLICATE."""
    return _is_name(group.replicate)


def _is_name(replicate: str) -> bool:
    return bool(replicate.rpartition("/")[2])


def _pairs(perturbed: Iterable[str], rest: Iterable[str]) -> list[str]:
    """Return the replicates within which two arms are compared; none where means are.

    A pair or two of many replicates leave most cells unused, and a single pair does not show how
    replicates differ. So named pairs are all replicates of an arm, or at least two and a third of
    them.
    """
    arms = {*perturbed}, {*rest}
    shared = arms[0] & arms[1]
    named = [{r for r in arm if _is_name(r)} for arm in arms]
    if not any(named):
        return sorted(shared)
    pairs, fewest = len(named[0] & named[1]), min(map(len, named))
    enough = pairs == fewest or (pairs > 1 and 3 * pairs >= fewest)
    return sorted(shared) if pairs and enough else []


def _arms(moments: Moments, groups: Sequence[Group], control: str) -> dict[tuple[str, str], _Arms]:
    """Return the arms of every contrast, sorted by condition and context."""
    sides: dict[tuple[str, str], dict[str, int]] = {}
    for i, group in enumerate(groups):
        if moments.cells[i] > 0:
            sides.setdefault((group.condition, group.context), {})[group.replicate] = i
    arms: dict[tuple[str, str], _Arms] = {}
    for condition, context in sorted(sides):
        if condition == control or (control, context) not in sides:
            continue
        perturbed, rest = sides[condition, context], sides[control, context]
        shared = _pairs(perturbed, rest)
        arms[condition, context] = _Arms(
            context,
            np.array([perturbed[r] for r in shared or sorted(perturbed)]),
            np.array([rest[r] for r in shared or sorted(rest)]),
            paired=bool(shared),
        )
    return arms


class _Contrasts:
    """Changes and standard errors of contrasts over one set of sums."""

    def __init__(
        self, moments: Moments, groups: Sequence[Group], measured: NDArray[np.bool_] | None
    ) -> None:
        self.moments = moments
        self.mean = moments.mean
        if measured is not None:
            self.mean = np.where(measured, self.mean, np.nan)
        present = np.flatnonzero(moments.cells > 0)
        whole = moments.pooled(present)
        # Jeffreys' half count, as a variance of levels: no gene has a variance of 0, [genes].
        half = 0.5 * whole.step[0] ** 2 / (whole.cells[0] + 1.0)
        self.everywhere = moments.within(present) + half
        contexts = np.array([g.context for g in groups])
        self._pools = {
            str(c): self._variance(present[contexts[present] == c], self.everywhere)
            for c in np.unique(contexts[present])
        }
        self.detected = whole.mean[0] > DETECTED * whole.step[0]
        # `step` is the level of one count: the counts of all cells over the number of cells.
        self.share = np.minimum(whole.mean[0] / whole.step[0], 1.0)

    def _variance(self, groups: Ints, pool: Floats) -> Floats:
        """Return the variance between cells of the same group, moderated by `pool`, [genes]."""
        both = self.moments.pooled(groups)
        # `step` is the level of one count, so this is about the number of cells with any, [genes].
        seen = np.minimum(both.total[0] / both.step[0], both.cells[0])
        return (seen * self.moments.within(groups) + PRIOR * pool) / (seen + PRIOR)

    def variances(self, arms: _Arms) -> tuple[Floats, Floats]:
        """Return the variance between cells of either arm, [genes] each."""
        pool = self._pools[arms.context]
        return self._variance(arms.perturbed, pool), self._variance(arms.control, pool)

    def families(self, arms: _Arms) -> list[Family]:
        """Return the quantities that replicates repeat: changes where paired, else arm means."""
        v_p, v_c = self.variances(arms)
        per_p, per_c = (1.0 / self.moments.cells[g] for g in (arms.perturbed, arms.control))
        y_p, y_c = self.mean[arms.perturbed], self.mean[arms.control]
        # Squared standard errors of the arms' means, [replicates, genes]: pooled variance over n.
        noise_p, noise_c = v_p * per_p[:, None], v_c * per_c[:, None]
        if arms.paired:
            return [Family(y_p - y_c, noise_p + noise_c, (v_p + v_c) / 2, per_p + per_c)]
        return [Family(y_p, noise_p, v_p, per_p), Family(y_c, noise_c, v_c, per_c)]

    def intraclass(self, arms: Sequence[_Arms], prior: float) -> Floats | None:
        """Return rho of each gene over contrasts, [genes]; None without replicates or a prior."""
        families = [family for each in arms for family in self.families(each)]
        return intraclass(families, self.detected, prior)

    def contrast(self, arms: _Arms, rho: Floats | None) -> tuple[Floats, Floats, Floats]:
        """Return a contrast's change, its squared standard error and `between`, [genes] each."""
        means, noises, parts = zip(
            *(family.mean(*self._typical(rho)) for family in self.families(arms)), strict=True
        )
        # Paired replicates are one family of changes; otherwise the arms' means are subtracted.
        change = means[0] if arms.paired else means[0] - means[1]
        # Errors of the arms are independent, so their squares are added. A gene that one arm does
        # not measure has no change, so nothing of it is between replicates.
        between = np.where(np.isfinite(change), np.sum(parts, axis=0), 0.0)
        return change, np.sum(noises, axis=0), between

    def library(self, arms: _Arms) -> float:
        """Return the geometric mean library of perturbed over that of control cells."""
        depths = [self.moments.pooled(g).log_depth[0] for g in (arms.perturbed, arms.control)]
        return float(np.exp(depths[0] - depths[1]))

    def _typical(self, rho: Floats | None) -> tuple[Floats, float]:
        """Return rho of each gene, and the mean of detected genes, for the weights of replicates.

        The weights are the same for all genes, and rare genes have hardly an estimate of rho.
        """
        if rho is None:
            return np.zeros(self.mean.shape[1]), 0.0
        return rho, float(rho[self.detected].mean()) if self.detected.any() else 0.0

    def controls(self, groups: Sequence[Group], control: str) -> dict[str, Controls]:
        """Return the control cells' mean levels by context."""
        numbers: dict[str, list[int]] = {}
        for i, group in enumerate(groups):
            if group.condition == control and self.moments.cells[i] > 0:
                numbers.setdefault(group.context, []).append(i)
        return {
            c: self._controls(np.array(of_context)) for c, of_context in sorted(numbers.items())
        }

    def _controls(self, groups: Ints) -> Controls:
        # Groups differ in what they measure, so each gene has its own number of cells, [genes].
        known = np.isfinite(self.mean[groups])
        n = (self.moments.cells[groups][:, None] * known).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, self.moments.total[groups], 0.0).sum(axis=0) / n
            noise = self.moments.within(groups) / n
        return Controls(mean, noise, int(self.moments.cells[groups].sum()))
