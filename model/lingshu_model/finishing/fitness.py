"""The fitness check at the end of a training: whether sampled cells deliver the stored effects.

Cells of each condition are sampled and compared with their paired control cells:

- Over genes with a certain change (lfsr below `CERTAIN`), the delivered mean change has a slope on
  the target of 0.9 to 1.1 and a Pearson correlation of at least 0.95.
- The library size is within 10 % of the target's, of the control cells' or of one between.
- No gene is farther than `RUNAWAY` from its target, beyond two standard errors.

A condition that fails is sampled again with `MORE` times as many cells, up to `MOST`, since with
few cells it can fail by chance, unless a gene is too far off for that. A condition that still
fails is *unfit*.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtri

from lingshu_model.contracts.posterior import Posterior
from lingshu_model.effects.moments import Floats, Rows, cell_totals, expression_levels

FORMAT = "lingshu-fitness-1"
CERTAIN = 0.05
"""Local false sign rate below which a change is certain."""
FEWEST = 3
"""Smallest number of certain genes for a slope and a correlation."""
SLOPES = (0.9, 1.1)
CORRELATION = 0.95
LIBRARIES = (0.9, 1.1)
RUNAWAY = 0.25
"""Largest distance from the target, log1p_cp10k."""
CELLS = (128, 256)
"""Pairs of cells sampled of each condition: the first with many conditions and genes."""
MORE, MOST = 4, 4096
SHOWN = 40
"""Largest number of conditions listed in the terminal."""


@dataclass(frozen=True)
class Fitness:
    """How sampled cells of a condition compare with its target.

    Attributes:
        context: field to value.
        interventions: kind and target of each.
        source: where the effect comes from.
        n_cells: training cells of the condition.
        certain: genes whose change is certain.
        slope: of the delivered change on the target over these; None with fewer than three.
        pearson: of both over these; None also where the targets differ by less than noise.
        library: delivered library size over that of the control cells.
        target_library: library size of the effect over that of the control cells.
        runaway: largest distance of a gene from its target beyond two standard errors,
            log1p_cp10k.
        reasons: limits that are exceeded; empty = fit.
    """

    context: Mapping[str, str]
    interventions: Sequence[Mapping[str, Any]]
    source: str
    n_cells: int
    certain: int
    slope: float | None
    pearson: float | None
    library: float
    target_library: float
    runaway: float
    reasons: tuple[str, ...]
    change: Floats = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)
    """Delivered change of mean log1p_cp10k, [genes]."""

    @property
    def name(self) -> str:
        """The condition in words."""
        targets = " + ".join(str(intervention["target"]) for intervention in self.interventions)
        return ", ".join([targets, *self.context.values()])


@dataclass(frozen=True)
class Delivered:
    """The effect in sampled cells.

    Attributes:
        change: mean difference of log1p_cp10k between pairs, [genes].
        error: its standard error, [genes].
        library: total counts over those of the control cells.
    """

    change: Floats
    error: Floats
    library: float


def delivered(cells: Rows, control: Rows) -> Delivered:
    """Return the effect in perturbed cells against paired control cells, UMI [cells, genes] each.

    The standard error is that of paired differences; control noise common to a pair cancels.
    """
    n = cells.shape[0]
    difference = expression_levels(cells) - expression_levels(control)
    change = np.asarray(difference.mean(axis=0), np.float64).ravel()
    squares = np.asarray(difference.multiply(difference).mean(axis=0), np.float64).ravel()
    # Variance over n, divided by n - 1: the squared standard error of the mean of n pairs.
    error = np.sqrt(np.maximum(squares - change**2, 0.0) / max(n - 1, 1))
    library = float(cell_totals(cells).sum() / max(cell_totals(control).sum(), 1.0))
    return Delivered(change, error, library)


def judge(shown: Delivered, target: Posterior, library: float) -> dict[str, Any]:
    """Return the figures and reasons of a `Fitness`.

    Args:
        shown: the effect in sampled cells.
        target: the effect.
        library: target library size over that of control cells.
    """
    # A gene is off only beyond what the sampling of these cells explains.
    beyond = np.abs(shown.change - target.mean) - 2 * shown.error
    runaway = float(beyond.max(initial=0.0))
    sure = np.flatnonzero(target.lfsr < CERTAIN)
    slope = correlation = None
    reasons: list[str] = []
    if len(sure) >= FEWEST:
        expected, observed = target.mean[sure], shown.change[sure]
        # Regression through the origin: no change must be delivered as no change.
        slope = float(observed @ expected / (expected @ expected))
        # Where targets differ by little more than the noise, the correlation measures the noise.
        if expected.std() > 4 * float(np.sqrt((shown.error[sure] ** 2).mean())):
            correlation = pearson(observed, expected)
        if not SLOPES[0] <= slope <= SLOPES[1]:
            reasons.append(f"slope {slope:.2f}")
        if correlation is not None and correlation < CORRELATION:
            reasons.append(f"Pearson {correlation:.2f}")
    # Moved cells may keep the control's library or have the target's: both ends are allowed.
    least, most = LIBRARIES[0] * min(1.0, library), LIBRARIES[1] * max(1.0, library)
    if not least <= shown.library <= most:
        reasons.append(f"library {shown.library:.2f}")
    if runaway > RUNAWAY:
        reasons.append(f"a gene {runaway:.2f} from its target")
    return {
        "certain": len(sure),
        "slope": slope,
        "pearson": correlation,
        "library": shown.library,
        "target_library": library,
        "runaway": runaway,
        "reasons": tuple(reasons),
    }


def pairs_of(conditions: int, genes: int) -> int:
    """Return how many pairs of cells are sampled of each condition at first."""
    return CELLS[0] if conditions * genes > 1_000_000 else CELLS[1]


def report(checked: Sequence[Fitness], pairs: int) -> dict[str, Any]:
    """Return the JSON of `fitness.json`."""
    return {
        "format": FORMAT,
        "bounds": {
            "slope": list(SLOPES),
            "pearson": CORRELATION,
            "library": list(LIBRARIES),
            "runaway_log1p_cp10k": RUNAWAY,
            "certain_lfsr": CERTAIN,
        },
        "pairs_of_cells": pairs,
        "n_unfit": sum(bool(f.reasons) for f in checked),
        "conditions": [_entry(f) for f in checked],
    }


def table(checked: Sequence[Fitness]) -> str:
    """Return the check as text: the unfit conditions, then others, at most `SHOWN`."""
    unfit = [f for f in checked if f.reasons]
    # Null labels last: what they deliver is of least interest.
    rest = sorted((f for f in checked if not f.reasons), key=_is_null)
    shown = [*unfit, *rest][:SHOWN]
    head = ("condition", "certain", "slope", "Pearson", "library", "verdict")
    lines = [head, *(_line(f) for f in shown)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    more = [f"… and {len(checked) - len(shown)} more, all fit"] if len(shown) < len(checked) else []
    if len(unfit) > SHOWN:
        more = [f"… and {len(checked) - SHOWN} more, {len(unfit) - SHOWN} of them unfit"]
    summary = f"{len(checked) - len(unfit)} of {len(checked)} conditions are fit"
    return "\n".join(line.rstrip() for line in [*text, *more, summary])


def _is_null(result: Fitness) -> bool:
    return any(each["kind"] == "sham" for each in result.interventions)


def check(
    conditions: Iterable[tuple[Mapping[str, Any], Callable[[int], tuple[Rows, Rows, Posterior]]]],
    pairs: int,
) -> list[Fitness]:
    """Return the fitness of conditions.

    Args:
        conditions: of each, its row of `config.json`, and a function that samples n perturbed and
            n control cells and returns them with the target.
        pairs: cells of each arm at first.
    """
    checked: list[Fitness] = []
    for row, sample in conditions:
        figures: dict[str, Any] = {"reasons": ("nothing sampled",)}
        n = pairs
        # The first round has no figures yet, and so a reason to sample.
        while figures["reasons"] and n <= max(pairs, MOST):
            cells, control, target = sample(n)
            shown = delivered(cells, control)
            figures = judge(shown, target, float(row["library"])) | {"change": shown.change}
            if _is_surely_off(shown, target):
                break
            n *= MORE
        source, n_cells = str(row["source"]), int(row["n_cells"][0])
        checked.append(Fitness(row["context"], row["interventions"], source, n_cells, **figures))
    return checked


def _is_surely_off(shown: Delivered, target: Posterior) -> bool:
    """Return whether a gene is too far from its target, whatever more cells would show.

    Two standard errors are exceeded by chance among thousands of genes; this many hardly are.
    """
    # Bonferroni over genes, one-sided .005: about 5 standard errors for 18,000 genes.
    errors = float(ndtri(1 - 0.005 / len(shown.change)))
    beyond = np.abs(shown.change - target.mean) - errors * shown.error
    return float(beyond.max(initial=0.0)) > RUNAWAY


def _entry(f: Fitness) -> dict[str, Any]:
    return _rounded({k: v for k, v in asdict(f).items() if k != "change"})


def _line(f: Fitness) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    verdict = f"unfit: {', '.join(f.reasons)}" if f.reasons else "fit"
    figures = (number(f.slope), number(f.pearson), number(f.library))
    return (f.name, str(f.certain), *figures, verdict)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def pearson(a: Floats, b: Floats) -> float:
    """Return Pearson's correlation, 0 where either is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-12 else 0.0
