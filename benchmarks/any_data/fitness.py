"""Whether moved cells deliver the effect of every condition, within the bounds of the protocol."""

from typing import Any

import numpy as np

from benchmarks.any_data.predictors import MOVED, SEEN, MovedCells, Priors
from benchmarks.any_data.sets import Cells, Judged
from lingshu_model.finishing.fitness import CERTAIN, CORRELATION, FEWEST, delivered, judge, pearson


def fitness(train: Cells, priors: Priors) -> list[dict[str, Any]]:
    """Return a row for every condition in every context of the training cells.

    A row has the fields of `judge`. The protocol wants the correlation of `FEWEST` or more certain
    genes also where `judge` gives none, as the targets differ by less than the noise of the cells.
    """
    predictor = MovedCells().fit(train, SEEN, priors)
    m = train.measured
    return [
        {"condition": condition, "context": context, **_judged(predictor, condition, context)}
        for condition, context in zip(m.conditions, m.contexts, strict=True)
    ]


def _judged(predictor: MovedCells, condition: str, context: str) -> dict[str, Any]:
    none = np.zeros(0)
    judged = Judged(condition, context, "", none, none)
    target = predictor.posterior(judged)
    shown = delivered(*predictor.cells(judged, MOVED))
    row = judge(shown, target, predictor.library(judged))
    certain = np.flatnonzero(target.lfsr < CERTAIN)
    if row["pearson"] is None and len(certain) >= FEWEST:
        row["pearson"] = pearson(shown.change[certain], target.mean[certain])
        if row["pearson"] < CORRELATION:
            row["reasons"] += (f"Pearson {row['pearson']:.2f}",)
    return row
