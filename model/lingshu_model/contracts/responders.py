"""Strengths of single cells under a perturbation, as a checkpoint stores them.

A cell of strength t has t times the mean change of its condition. Escaped cells have strength 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.posterior import Floats

RESPONDERS = "effects-responders"
"""Files of the tables of conditions with several strengths: `log_fold`, [states, genes]."""


@dataclass(frozen=True)
class Responders:
    """Strengths of the cells of a condition, two or more.

    Attributes:
        strengths: multiples of the mean change, ascending, [states].
        shares: of the cells at each strength, [states]; their sum is 1, and so is their sum
            weighted by the strengths.
        gain: log likelihood per left-out training cell less that of a single strength, nats.
        error: standard error of `gain`.
        libraries: library size at each strength over that of control cells, [states].
        dispersions: additional dispersion of the moved counts at each strength, [states].
        first: number of the first state in the tables of `RESPONDERS`.
    """

    strengths: Floats
    shares: Floats
    gain: float = 0.0
    error: float = 0.0
    libraries: Floats | None = None
    dispersions: Floats | None = None
    first: int = 0

    @property
    def share(self) -> float:
        """The share of cells with a strength above 0."""
        return float(self.shares[self.strengths > 0].sum())

    def states(self, uniform: Floats) -> NDArray[np.int64]:
        """Return the number of the state of each cell, from a uniform each, [cells]."""
        upper = np.cumsum(self.shares)[:-1]
        return np.searchsorted(upper, uniform, side="right").astype(np.int64)

    def changes(self, change: Floats, before: Floats, most: Floats) -> Floats:
        """Return the mean change at each strength, [states, genes]; their mean is `change`.

        A level cannot fall below 0 or rise above `most`. Where a strength would take it there,
        weaker strengths take over the rest, escaped cells last.

        Args:
            change: mean change, log1p_cp10k, [genes].
            before: mean level of control cells, [genes].
            most: largest mean level, [genes].
        """
        limit = np.where(change < 0, before, np.maximum(most - before, 0.0))
        wanted = np.abs(change)
        size = _filled(self.strengths, self.shares, np.minimum(wanted, limit), limit)
        # A change beyond the limit is the same for all strengths, as without responders.
        return np.where(wanted > limit, change, np.sign(change) * size)

    def entry(self) -> dict[str, Any]:
        """Return the entry `responders` of a row of `config.json`."""
        # Stored once its movers are solved.
        assert self.libraries is not None and self.dispersions is not None  # noqa: S101, PT018
        return {
            "strengths": [float(f"{v:.6g}") for v in self.strengths],
            # All digits: a share decides the strength of single cells.
            "shares": self.shares.tolist(),
            "libraries": [round(float(v), 4) for v in self.libraries],
            "dispersions": [float(f"{v:.4g}") for v in self.dispersions],
            "gain": float(f"{self.gain:.4g}"),
            "error": float(f"{self.error:.4g}"),
            "first": self.first,
        }

    @classmethod
    def of_entry(cls, row: Mapping[str, Any]) -> "Responders | None":
        """Return what a row of `config.json` says; None where all its cells have strength 1."""
        entry = row.get("responders")
        if entry is None:
            return None
        strengths, shares, libraries = (
            np.array(entry[name], np.float64) for name in ("strengths", "shares", "libraries")
        )
        # Checkpoints of format 3 have none.
        dispersions = np.array(entry.get("dispersions", [0.0] * len(strengths)), np.float64)
        return cls(
            strengths,
            shares,
            entry["gain"],
            entry["error"],
            libraries,
            dispersions,
            entry["first"],
        )


def _filled(strengths: Floats, shares: Floats, wanted: Floats, limit: Floats) -> Floats:
    """Return sizes of changes, min(c t, limit) with mean `wanted`, [states, genes].

    Args:
        strengths: t, ascending, [states].
        shares: of each, [states].
        wanted: mean size of the change, at most `limit`, [genes].
        limit: largest size, [genes].
    """
    out = np.tile(limit, (len(strengths), 1))
    unsolved = np.ones(len(wanted), bool)
    for full in range(len(strengths)):
        # The `full` strongest states change by `limit`, all weaker ones by c t.
        weaker = len(strengths) - full
        left = wanted - shares[weaker:].sum() * limit
        scale = strengths[:weaker]
        if not scale.any():
            # All responding cells are at the limit: escaped cells take what is left.
            scale = np.ones(weaker)
        sizes = np.outer(scale / float(shares[:weaker] @ scale), left)
        fits = unsolved & (sizes[-1] <= limit)
        out[:weaker, fits] = sizes[:, fits]
        unsolved &= ~fits
    return out
