"""What a table of scores says: which context fits best, and whether the cells are typical of it.

A score is the negative log-likelihood bound of a cell in bits per gene: genes are hidden at random
and predicted from the others, once in each of `DRAWS` strata of the hidden share. Simulated cells
of the first context, as deep and scored alike, show which scores are usual there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lingshu_model.contracts import Cells
from lingshu_model.contracts.user_cells import BITS, DRAWS
from lingshu_tools.calls.results import finite

USUAL = 0.95
"""Quantile of the simulated cells' scores up to which a score is usual."""
TYPICAL, PARTLY = 0.8, 0.5
"""Shares of cells with a usual score from which the whole is called typical, or partly typical."""


def score_summary(cells: Mapping[str, Any], scores: Cells) -> dict[str, Any]:
    """Return the result of a scoring experiment.

    Args:
        cells: those of the request; `against` are the contexts.
        scores: [cells, (contexts + 1) x draws], in 1 / `BITS`.
    """
    n = len(scores)
    # [cells, contexts + 1]: the mean over draws; the last is of the simulated cells.
    bits = scores.counts.reshape(n, -1, DRAWS).mean(axis=2) / BITS
    # The first context is the one asked about; lower is more typical.
    users, alike = bits[:, :-1], bits[:, -1]
    best = int(users.mean(axis=0).argmin())
    usual = float(np.quantile(alike, USUAL))
    share = float((users[:, 0] <= usual).mean())
    return {
        "n_cells": n,
        "contexts": [
            {
                "context": dict(context),
                "bits": finite(users[:, k].mean()),
                "se": _se(users[:, k]),
                # Paired by cell, so that differences between cells cancel.
                "more_than_best": finite((users[:, k] - users[:, best]).mean()),
                "more_se": _se(users[:, k] - users[:, best]),
                "best_share": finite((users.argmin(axis=1) == k).mean()),
            }
            for k, context in enumerate(cells["against"])
        ],
        "simulated_bits": finite(alike.mean()),
        "usual_bits": finite(usual),
        "usual_share": finite(share),
        "verdict": verdict(share),
        "kept": [],
    }


def verdict(share: float) -> str:
    """Return the word for the share of cells with a usual score."""
    if share >= TYPICAL:
        return "typical"
    return "partly typical" if share >= PARTLY else "not typical"


def _se(values: Any) -> float | None:
    """Return the standard error of a mean over cells; None of one cell."""
    return finite(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
