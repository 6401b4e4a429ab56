"""How strongly single cells respond to a perturbation: a latent per cell, fitted by EM.

Perturbed cells are a mixture: some escape editing, or answer a cytokine weakly. A cell of strength
t has t times the mean change d of its condition. With shares w_k of cells at strengths t_k,

    sum_k w_k = 1,   sum_k w_k t_k = 1,

so that the mean over cells is d. A single state at strength 1 is the homogeneous effect. Two states
at 0 and 1 / w are escaped and edited cells (Mixscape, Papalexi et al. 2021).

Cells are compared along a score: the sum of levels of genes with a certain change, weighted by d
over the variance between cells. The density f_t of the score at strength t is that of training
control cells moved by t d, in bins. Shares maximise the likelihood of the perturbed cells under
both constraints, with a prior of `PSEUDO` cells that respond. Several states are used where they
raise the log likelihood of left-out cells by more than `ERRORS` standard errors, and more than two
where they raise it by `FURTHER` standard errors beyond two.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts.posterior import Posterior
from lingshu_model.contracts.responders import Responders
from lingshu_model.effects.moments import Floats, Ints, Rows, cell_totals, expression_levels
from lingshu_model.effects.moved import SEED, FitCells

FEWEST_CELLS = 50
"""Smallest number of perturbed cells, and of control cells, that states are fitted to."""
FEWEST_GENES = 5
"""Smallest number of genes with a certain change, as in Mixscape."""
MOST_GENES = 32
"""Largest number of genes in a score: those that separate cells best."""
CERTAIN = 0.05
"""Local false sign rate below which a change is certain."""
VARIANCE = 0.01
"""Added to the variance of a gene's level between cells: no weight is infinite."""
BINS = 24
"""Intervals of the score, with about equal numbers of cells."""
SMOOTH = 0.5
"""Control cells added to every interval: no density is 0."""
DENSITY_CELLS = 1000
"""Moved cells that a density is computed from, at least; few control cells are moved repeatedly."""
FOLDS = 5
"""Parts of the perturbed cells that are left out in turn."""
ERRORS, FURTHER = 3.0, 2.0
"""Standard errors that the gain in log likelihood must exceed, over a single strength and over
fewer strengths. Of 84 homogeneous conditions made of THP-1 control cells one exceeded 3."""
PSEUDO = 10.0
"""Cells of the prior: of strength 1, or with two states edited ones."""
EDITED = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
"""Strengths of edited cells; their shares are the inverses."""
GRADED = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Strengths of a mixture of more than two states."""
SMALLEST = 0.01
"""Smallest share of a state; rarer ones are left out."""
ROUNDS, CLOSE = 500, 1e-4
"""Iterations of EM, and the largest change of a share at which it ends."""
NEWTON, PRECISE = 60, 1e-10
"""Iterations of Newton's method, and the step at which it ends."""
STRENGTHS: Floats = np.union1d(EDITED, GRADED)
_AT_MEAN = int(np.flatnonzero(STRENGTHS == 1.0)[0])
LEAST_LIBRARY = 0.1
"""Smallest library size at a strength over that of control cells."""
Groups = tuple[NDArray[np.str_], NDArray[np.str_]]


class _Fit(Protocol):
    """Fits the shares of `STRENGTHS`."""

    def __call__(self, density: Floats, counts: Floats) -> Floats:
        """Return shares [strengths], from densities [strengths, bins] and cells [bins]."""
        ...


def fit_responders(
    control: Rows,
    perturbed: Rows,
    effect: Posterior,
    largest: Floats,
    library: float = 1.0,
    groups: Groups | None = None,
) -> Responders | None:
    """Return the strengths of a condition's cells; None where a single one describes them.

    Args:
        control: control cells of the context, whole counts [cells, genes].
        perturbed: cells of the condition, the same.
        effect: of the condition, [genes].
        largest: largest share of any training cell, [genes].
        library: library size of perturbed cells over that of control cells.
        groups: replicate of every control cell, and of every perturbed cell.
    """
    fewest = min(control.shape[0], perturbed.shape[0])
    if fewest < FEWEST_CELLS or not enough_genes(effect):
        return None
    genes = _certain(effect)
    levels = [_levels(_reduced(cells, genes)) for cells in (control, perturbed)]
    change = effect.mean[genes]
    variance = (levels[0].var(axis=0) + levels[1].var(axis=0))[:-1] / 2 + VARIANCE
    # Squared change over variance: what a gene contributes to the separation of cells.
    best = np.argsort(-(change**2) / variance, kind="stable")[:MOST_GENES]
    genes, weight = genes[best], (change / variance)[best]
    cells = _reduced(control, genes)
    rest = [float(_levels(part)[:, -1].mean()) for part in (cells, _reduced(perturbed, genes))]
    target = np.append(change[best], rest[1] - rest[0])
    scores = _moved_scores(cells, target, weight, np.append(largest[genes], 1.0), library)
    weights = _weights(control.shape[0], groups)
    return _chosen(*_binned(scores, levels[1][:, best] @ weight, weights))


def library_at(library: float, strength: float) -> float:
    """Return the library size at a strength: linear, as changes are, so that its mean is kept."""
    return max(1.0 + (library - 1.0) * strength, LEAST_LIBRARY)


def enough_genes(effect: Posterior) -> bool:
    """Return whether enough genes have a certain change to tell cells apart."""
    return len(_certain(effect)) >= FEWEST_GENES


def _certain(effect: Posterior) -> Ints:
    return np.flatnonzero((effect.lfsr < CERTAIN) & (effect.mean != 0.0))


def _reduced(cells: Rows, genes: Ints) -> Rows:
    """Return counts of `genes` and, as a last column, the sum of all others."""
    chosen = cells[:, genes]
    rest = sparse.csr_matrix((cell_totals(cells) - cell_totals(chosen))[:, None])
    return sparse.hstack([chosen, rest], "csr")


def _levels(cells: Rows) -> Floats:
    return np.asarray(expression_levels(cells).toarray(), np.float64)


def _moved_scores(
    control: Rows, change: Floats, weight: Floats, largest: Floats, library: float
) -> Floats:
    """Return scores of control cells at all `STRENGTHS`, [strengths, moved cells].

    Args:
        control: reduced control cells, [cells, genes of the score and the rest].
        change: mean change at strength 1, [genes and the rest].
        weight: of a gene's level in the score, [genes].
        largest: largest share of a cell, [genes and the rest].
        library: library size at strength 1 over that of control cells.
    """
    cells: Rows = sparse.vstack([control] * _repeats(control.shape[0]), "csr")
    fit = FitCells(cells, largest)
    # The same uniforms at every strength: densities of neighbours differ by the strength alone.
    generator = np.random.Generator(np.random.Philox(key=[SEED, 1]))
    draws = generator.random((cells.shape[0], len(change)))
    out = np.empty((len(STRENGTHS), len(draws)))
    for i, strength in enumerate(STRENGTHS):
        mover = fit.mover(strength * change, library_at(library, strength))
        out[i] = _levels(mover.move_by(cells, draws))[:, :-1] @ weight
    return out


def _repeats(cells: int) -> int:
    """Return how often control cells are moved, every time by other uniforms."""
    return -(-DENSITY_CELLS // cells)


def _weights(cells: int, groups: Groups | None) -> Floats:
    """Return weights of moved control cells that give them the replicates of the perturbed."""
    weights = np.ones(cells)
    if groups is not None:
        of_control, of_perturbed = groups
        for name in np.unique(of_control):
            mine = of_control == name
            weights[mine] = (of_perturbed == name).mean() / mine.mean()
    # Without a replicate in common there is nothing to match.
    return np.tile(weights if weights.any() else np.ones(cells), _repeats(cells))


def _binned(scores: Floats, observed: Floats, weights: Floats) -> tuple[Floats, Ints]:
    """Return densities [strengths, bins], and the bin of every perturbed cell.

    Args:
        scores: of moved control cells, [strengths, moved cells].
        observed: of perturbed cells, [cells].
        weights: of moved control cells, [moved cells].
    """
    pooled = np.concatenate([observed, scores[0], scores[_AT_MEAN]])
    edges = np.unique(np.quantile(pooled, np.arange(1, BINS) / BINS))
    bins = len(edges) + 1
    density = np.stack([np.bincount(np.searchsorted(edges, s), weights, bins) for s in scores])
    density += SMOOTH
    return density / density.sum(axis=1, keepdims=True), np.searchsorted(edges, observed)


def _chosen(density: Floats, place: Ints) -> Responders | None:
    """Return the mixture that describes left-out cells best; None where it has a single state.

    Args:
        density: of bins at each strength, [strengths, bins].
        place: bin of each perturbed cell, [cells].
    """
    generator = np.random.Generator(np.random.Philox(key=[0, 19]))
    part = generator.permutation(len(place)) % FOLDS
    chosen: _Fit = _homogeneous
    alone = kept = _left_out(chosen, density, place, part)
    for fit in (_edited, _graded):
        candidate = _left_out(fit, density, place, part)
        gain, error = _gain(candidate - kept)
        if gain > (ERRORS if chosen is _homogeneous else FURTHER) * error:
            chosen, kept = fit, candidate
    shares = chosen(density, _counts(place, density.shape[1]))
    states = np.flatnonzero(shares)
    if len(states) < 2:
        return None
    return Responders(STRENGTHS[states], shares[states], *_gain(kept - alone))


def _gain(difference: Floats) -> tuple[float, float]:
    """Return the mean over cells and its standard error."""
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _left_out(fit: _Fit, density: Floats, place: Ints, part: Ints) -> Floats:
    """Return the log likelihood of every cell under shares fitted without its part, [cells]."""
    out = np.empty(len(place))
    for k in range(FOLDS):
        shares = fit(density, _counts(place[part != k], density.shape[1]))
        out[part == k] = np.log((shares @ density)[place[part == k]])
    return out


def _counts(place: Ints, bins: int) -> Floats:
    return np.bincount(place, minlength=bins).astype(np.float64)


def _homogeneous(density: Floats, counts: Floats) -> Floats:
    """Return the shares of a single strength."""
    del density, counts
    return np.where(STRENGTHS == 1.0, 1.0, 0.0)


def _edited(density: Floats, counts: Floats) -> Floats:
    """Return the shares of escaped and edited cells: the constraints leave one free number."""
    best, most = _homogeneous(density, counts), -np.inf
    for strength in EDITED:
        shares = np.where(strength == STRENGTHS, 1.0 / strength, 0.0)
        shares[0] += 1.0 - 1.0 / strength
        value = float(counts @ np.log(shares @ density)) - PSEUDO * np.log(strength)
        if value > most:
            best, most = shares, value
    return best


def _graded(density: Floats, counts: Floats) -> Floats:
    """Return the shares of the strengths of `GRADED`, without rare ones."""
    states = np.flatnonzero(np.isin(STRENGTHS, GRADED))
    shares = em_shares(density[states], counts, STRENGTHS[states])
    while (rare := shares < SMALLEST).any() and _around_one(STRENGTHS[states[~rare]]):
        states = states[~rare]
        shares = em_shares(density[states], counts, STRENGTHS[states])
    out = np.zeros(len(STRENGTHS))
    out[states] = shares
    return out


def _around_one(strengths: Floats) -> bool:
    """Return whether a mixture of all of these can have a mean of 1."""
    return bool(strengths.min() < 1.0 < strengths.max())


def em_shares(density: Floats, counts: Floats, strengths: Floats) -> Floats:
    """Return the shares of given strengths, of sum 1 and mean strength 1, by EM.

    With r the expected cells of a state and e = t - 1, the maximum of sum r ln w under both
    constraints is w = r / (n (1 + l e)), l the root of sum r e / (1 + l e) = 0.

    Args:
        density: [states, bins].
        counts: perturbed cells in each bin, [bins].
        strengths: [states], some below and some above 1.
    """
    excess = strengths - 1.0
    prior = np.where(excess == 0.0, PSEUDO, 0.0)
    shares = np.full(len(strengths), 1.0 / len(strengths))
    for _ in range(ROUNDS):
        joint = shares[:, None] * density
        expected = (joint / joint.sum(axis=0)) @ counts + prior
        new = expected / (1.0 + _multiplier(expected, excess) * excess)
        new /= new.sum()
        moved, shares = float(np.abs(new - shares).max()), new
        if moved < CLOSE:
            break
    return shares


def _multiplier(expected: Floats, excess: Floats) -> float:
    """Return the root l of sum r e / (1 + l e), by Newton's method inside a bracket.

    The sum falls from plus to minus infinity between the poles -1 / max e and -1 / min e.
    """
    low, high = -1.0 / float(excess.max()), -1.0 / float(excess.min())
    root = 0.0
    for _ in range(NEWTON):
        shrunken = excess / (1.0 + root * excess)
        value = float(expected @ shrunken)
        low, high = (root, high) if value > 0 else (low, root)
        step = value / float(expected @ shrunken**2)
        after = root + step
        root = after if low < after < high else (low + high) / 2
        if abs(step) < PRECISE:
            break
    return root
