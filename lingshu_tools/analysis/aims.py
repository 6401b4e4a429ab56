"""Aims beside raising and lowering genes: like another effect, toward other cells, large or small.

An aim gives a number for a change d of mean expression over the genes that count, with v the
variance of d in a new experiment:

    like, unlike   +- t.d / (|t| sqrt(|d|^2 + sum v)),   t the effect of the other perturbation;
    toward         1 - |t - d| / |t|,                    t the difference of the two mean profiles;
    magnitude      |d|.

With sum v the cosine of an effect that is lost in its error is near 0, whatever its direction.
`toward` compares mean profiles, not distributions. None is linear in d: cells of a simulation are
scored by the tangent at the stored effect, so that scores of cells can be averaged.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lingshu_tools.analysis.effects import Floats

AimKind = Literal["like", "unlike", "toward", "magnitude"]
# A length, log1p_cp10k, below which a direction means nothing.
_NOTHING = 1e-12


@dataclass(frozen=True)
class Aim:
    """One aim.

    Attributes:
        kind: which.
        label: what it is about: a perturbation, a context; empty for `magnitude`.
        weight: in the sum of all aims; negative for a small magnitude.
        scale: spread of its value over trained perturbations, by which it is divided; 1 for an
            aim alone.
        target_change: t of the formulas, log1p_cp10k, [genes]; NaN where it is not known. None for
            `magnitude`.
    """

    kind: AimKind
    label: str
    weight: float = 1.0
    scale: float = 1.0
    target_change: Floats | None = field(default=None, compare=False)

    @property
    def factor(self) -> float:
        """What its value is multiplied with in the sum."""
        return self.weight / self.scale

    def value(
        self, change: Floats, variance: Floats | None = None, kept: NDArray[np.bool_] | None = None
    ) -> Floats:
        """Return the aim's value, without weight and scale, [...].

        Args:
            change: d, [..., genes].
            variance: v, the same shape; None = 0.
            kept: genes that count, broadcast to it; None = all.
        """
        # 0 where a gene does not count: it adds to no product and to no length.
        counted = self._counted(change, kept)
        d, t = self._parts(change, counted)
        if self.kind == "magnitude":
            return np.sqrt((d**2).sum(axis=-1))
        length = np.sqrt((t**2).sum(axis=-1))
        if self.kind == "toward":
            left = np.sqrt(((t - d) ** 2).sum(axis=-1))
            return np.where(length > _NOTHING, 1 - left / np.maximum(length, _NOTHING), 0.0)
        scale = length * self._size(d, variance, counted)
        cosine = np.where(scale > _NOTHING, (t * d).sum(axis=-1) / np.maximum(scale, _NOTHING), 0.0)
        return cosine if self.kind == "like" else -cosine

    def gradient(self, change: Floats, variance: Floats, kept: NDArray[np.bool_]) -> Floats:
        """Return the derivative of the value by each gene's change, [genes]; 0 where undefined."""
        counted = self._counted(change, kept)
        d, t = self._parts(change, counted)
        if self.kind == "magnitude":
            size = float(np.sqrt(d @ d))
            return d / size if size > _NOTHING else np.zeros_like(d)
        length = float(np.sqrt(t @ t))
        if self.kind == "toward":
            left = float(np.sqrt((t - d) @ (t - d)))
            # d/dd of 1 - |t - d| / |t|; at d = t, where it has no derivative, 0.
            return (t - d) / (left * length) if left * length > _NOTHING else np.zeros_like(d)
        size = float(self._size(d, variance, counted))
        if size * length <= _NOTHING:
            return np.zeros_like(d)
        # d/dd of t.d / (|t| S), S^2 = |d|^2 + sum v: the second term is that of S.
        slope = t / (length * size) - float(t @ d) * d / (length * size**3)
        return slope if self.kind == "like" else -slope

    def _counted(self, change: Floats, kept: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Return which genes count, in products, lengths and variances alike: known, and kept."""
        counted = np.isfinite(change) if kept is None else np.isfinite(change) & kept
        if self.target_change is not None:
            counted = counted & np.isfinite(self.target_change)
        return counted

    def _parts(self, change: Floats, counted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Return d and t with 0 where a gene does not count."""
        d = np.where(counted, change, 0.0)
        return d, d if self.target_change is None else np.where(counted, self.target_change, 0.0)

    def _size(self, d: Floats, variance: Floats | None, counted: NDArray[np.bool_]) -> Floats:
        squares = (d**2).sum(axis=-1)
        if variance is None:
            return np.sqrt(squares)
        return np.sqrt(squares + np.where(counted, variance, 0.0).sum(axis=-1))
