"""How far predicted changes of a size were from held-out ones.

Read from `tiers.*.certainty.error_by_size` of the evidence (`lingshu_model.finishing.certainty`),
the noise of the held-out cells taken off. Evidence without it has residuals gene by gene
(`lingshu_tools.analysis.residuals`). Fewer than `FEWEST` contrasts give no error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_tools.analysis.effects import Floats

# Held-out contrasts, genes, and standard error over contrasts with which a coverage counts.
FEWEST = 3
FEWEST_GENES = 30
MOST_STANDARD_ERROR = 0.05
NARROWEST, WIDEST = 0.90, 0.98
"""Coverage of intervals of nominally 95 % that is taken as right."""


@dataclass(frozen=True)
class ErrorBySize:
    """Errors by |predicted change| of one support tier.

    Attributes:
        lower: lower edge of each bin, ascending.
        error: root mean square error, NaN below `FEWEST` contrasts; log1p_cp10k.
        n_contrasts: of each bin.
        n_folds: over all bins.
    """

    lower: Floats
    error: Floats
    n_contrasts: tuple[int, ...]
    n_folds: int

    @classmethod
    def from_evidence(cls, evidence: Mapping[str, Any], tier: str) -> "ErrorBySize | None":
        """Return the errors of a support tier; None where the evidence has none by size."""
        measured = (evidence.get("tiers") or {}).get(tier) or {}
        rows = (measured.get("certainty") or {}).get("error_by_size")
        if not rows:
            return None
        error = [np.nan if row["error"] is None else row["error"] for row in rows]
        return cls(
            np.array([row["from"] for row in rows], np.float64),
            np.array(error, np.float64),
            tuple(row["n_contrasts"] for row in rows),
            max(row["n_folds"] for row in rows),
        )

    def of(self, predicted: Floats) -> Floats:
        """Return the error of each predicted change, the same shape; NaN where not estimable."""
        # The bin whose lower edge is the last at or below |change|; -1 below the first edge.
        place = np.searchsorted(self.lower, np.abs(predicted), side="right") - 1
        known = np.isfinite(predicted) & (place >= 0)
        return np.where(known, self.error[np.maximum(place, 0)], np.nan)


def estimable(row: Mapping[str, Any]) -> bool:
    """Return whether the coverage of a row of the evidence says something.

    It takes three contrasts, thirty genes and a standard error over contrasts of at most .05.
    """
    error = row.get("covered_standard_error")
    enough = row["n_contrasts"] >= FEWEST and row["n"] >= FEWEST_GENES
    return enough and error is not None and error <= MOST_STANDARD_ERROR


def misjudged(evidence: Mapping[str, Any], tier: str, predicted: Floats) -> list[str]:
    """Return where intervals of such changes did not hold as many held-out changes as they say.

    Args:
        evidence: of a checkpoint.
        tier: of the prediction.
        predicted: the predicted changes that are shown.
    """
    measured = (evidence.get("tiers") or {}).get(tier) or {}
    rows: Sequence[Mapping[str, Any]] = (measured.get("certainty") or {}).get("error_by_size") or ()
    sizes = np.abs(predicted)
    return [
        f"95 % intervals held {row['covered']:.0%} of held-out changes for |change| {_range(row)}"
        for row in rows
        if estimable(row)
        and not NARROWEST <= row["covered"] <= WIDEST
        # Only bins that the shown changes are in: other sizes do not concern the answer.
        and ((sizes >= row["from"]) & (sizes < (np.inf if row["to"] is None else row["to"]))).any()
    ]


def _range(row: Mapping[str, Any]) -> str:
    return f"above {row['from']:g}" if row["to"] is None else f"{row['from']:g} to {row['to']:g}"
