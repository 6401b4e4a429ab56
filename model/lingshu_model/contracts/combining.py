"""The effect of several perturbations together, from their single effects.

Additive: the sum of the single changes. Saturating, the default: the sum of k over 1 + s (k - 1),
and no farther than any trained condition takes the gene in that context, since effects of one
pathway end where the pathway does. s comes of real doubles. `BORROWED` is that of 101 doubles of
K562 cells under CRISPR activation (Norman 2019, a fifth of its doubles kept apart): for other kinds
of perturbation an assumption, and called so. On those doubles the sum has a squared error of .0025,
the saturating form .0020, and .0019 with the range (docs/log.md).

An interaction, what is left beyond the saturating sum, scatters with the size of the single
effects: its sd is `SCATTER` |size|^`POWER`, size^2 the sum of the squared single changes, by the
same doubles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lingshu_model.contracts.posterior import Floats, Posterior

BORROWED = 0.25
"""s: a double is 0.8 of the sum of its singles."""
SCATTER, POWER = 0.28, 0.75
RANGE_FROM = 20
"""Conditions of a context from which their range bounds a combination."""


@dataclass(frozen=True)
class Saturation:
    """How much less than their sum several perturbations do.

    Attributes:
        strength: s.
        doubles: combinations of the data at hand that it rests on.
    """

    strength: float = BORROWED
    doubles: int = 0

    @property
    def note(self) -> str:
        """Where the figure comes from."""
        figure = f"sum / (1 + {self.strength:.2f} (k - 1))"
        if not self.doubles:
            return f"{figure}, borrowed from CRISPR activation in K562 (Norman 2019): an assumption"
        return f"{figure}, from {self.doubles} combinations of this data set and Norman 2019"

    def factor(self, k: int) -> float:
        """Return what the sum of `k` single changes is multiplied with."""
        return 1.0 / (1.0 + self.strength * (k - 1))


@dataclass(frozen=True)
class Range:
    """How far trained conditions take each gene in a context.

    Attributes:
        lowest: change, [genes], at most 0.
        highest: change, [genes], at least 0; infinite where too few conditions say.
    """

    lowest: Floats
    highest: Floats

    @classmethod
    def of(cls, means: Floats, control: Floats) -> "Range":
        """Return the range of a context.

        Args:
            means: posterior mean changes of its conditions, [conditions, genes].
            control: mean level of its control cells, [genes]; NaN where not measured.
        """
        # A mean level cannot fall below 0, so no change is below minus the control level.
        nothing = np.where(np.isfinite(control), -control, -np.inf)
        # Few conditions say little about how far a gene goes: only 0 bounds it then.
        if len(means) < RANGE_FROM:
            return cls(nothing, np.full(len(control), np.inf))
        return cls(
            np.maximum(np.minimum(means.min(axis=0), 0.0), nothing),
            np.maximum(means.max(axis=0), 0.0),
        )


@dataclass(frozen=True)
class Together:
    """The effect of a combination.

    Attributes:
        effect: saturating, the default.
        additive: the plain sum.
        note: where the figures come from.
    """

    effect: Posterior
    additive: Posterior
    note: str


def together(
    parts: Sequence[Posterior],
    saturation: Saturation,
    value_range: Range,
    target_rows: Sequence[int] = (),
) -> Together:
    """Return the effect of perturbations together.

    Args:
        parts: single effects, two or more.
        saturation: how much less than the sum they do.
        value_range: how far the context's conditions take each gene.
        target_rows: genes that are perturbed themselves. They do not saturate and may rise above
            the range; they fall no lower than it.

    Raises:
        ValueError: there are fewer than two parts.
    """
    if len(parts) < 2:
        message = f"{len(parts)} effects are no combination; give two or more"
        raise ValueError(message)
    total = np.sum([p.mean for p in parts], axis=0)
    # Errors of the single effects are taken as independent.
    variance = np.sum([p.sd**2 for p in parts], axis=0)
    factor = saturation.factor(len(parts))
    mean = np.clip(factor * total, value_range.lowest, value_range.highest)
    # The target's own RNA is changed by the intervention itself, not through a pathway.
    # -1 stands for a target that is not on the panel.
    genes = [g for g in target_rows if g >= 0]
    # Trained knock-downs of a gene say how far it falls, and are its lowest change.
    mean[genes] = np.maximum(total[genes], value_range.lowest[genes])
    size2 = np.sum([p.mean**2 for p in parts], axis=0)
    # size^2 is a sum of squares, so the exponent is halved.
    scatter = SCATTER * size2 ** (POWER / 2)
    # The factor is not applied to the scatter: that of whole doubles about their saturating sum.
    sd = np.sqrt(factor**2 * variance + scatter**2)
    return Together(
        Posterior.normal(mean, sd), Posterior.normal(total, np.sqrt(variance)), saturation.note
    )
