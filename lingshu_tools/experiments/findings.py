"""What an experiment's cells say: the result and the artifacts its outcome is sealed with.

Every number here follows from the cells alone; what the checkpoint's evidence makes of them is
added when a result is shown, since evidence may improve.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from lingshu_model.contracts import Blob, Cells, Origin
from lingshu_model.contracts.effects import entry_identity, identity
from lingshu_tools.analysis import Effect, Objective, paired_effect, paired_score, summarised
from lingshu_tools.calls.results import finite
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.scores import score_summary
from lingshu_tools.experiments.stored_effects import aimed_posterior

KEPT_GENES = 50
"""Strongest genes kept in the outcome itself, so that a ledger without objects can be checked."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Findings:
    """The result of an outcome, JSON values, and its artifacts by role, whole or in pieces."""

    result: dict[str, Any]
    artifacts: dict[str, bytes | Iterable[bytes]]


def findings(
    design: Design,
    cells: Mapping[str, Cells],
    objective: Objective | None = None,
    *,
    keep_cells: bool = False,
) -> Findings:
    """Return what the cells of a design's arms say, scored on the objective of its screen.

    With `keep_cells` the score of every pair of cells is in the result, as races need it.
    """
    # The profile is left out of what is stored: it stands in the outcome's environment, and equal
    # cells of one request so have equal bytes on every machine.
    arms = design.arms
    blobs: dict[str, bytes | Iterable[bytes]] = {
        role: Blob([blob], Origin(arms[role].digest)) for role, blob in cells.items()
    }
    # The roles say which tool the cells are of.
    if "scores" in cells:
        return Findings(score_summary(design.cells or {}, cells["scores"]), blobs)
    if "given" in cells:
        return Findings(_completed(design, cells["given"], cells["cells"]), blobs)
    if "cells" in cells:
        return Findings(_sample(design, cells["cells"]), blobs)
    effect = paired_effect(cells["control"], cells["perturbed"])
    result = _effect_result(design, effect)
    if objective is not None:
        targets = {i.target for i in design.interventions}
        arms = cells["control"], cells["perturbed"]
        panel = design.checkpoint.panel
        stored = aimed_posterior(design) if objective.aims else None
        score = paired_score(*arms, objective, panel, targets, stored=stored, keep_cells=keep_cells)
        result["score"] = score.record
    return Findings(result, {**blobs, "effects": pack_effect(effect)})


def pack_effect(effect: Effect) -> bytes:
    """Return an effect as safetensors: its arrays and `scalars` [n_cells, magnitude, its se]."""
    # safetensors has no missing value: NaN stands for None.
    se = np.nan if effect.magnitude_se is None else effect.magnitude_se
    scalars = np.array([effect.n_cells, effect.magnitude, se], np.float64)
    return save({**effect.arrays(), "scalars": scalars})


def unpack_effect(blob: bytes) -> Effect:
    """Return the effect that `pack_effect` stored."""
    arrays = load(blob)
    n_cells, magnitude, se = arrays.pop("scalars").tolist()
    return Effect(
        n_cells=int(n_cells),
        magnitude=magnitude,
        magnitude_se=finite(se) and se,
        # Not stored of one pair of cells (`Effect.arrays`).
        change_se=arrays.pop("change_se", None),
        log2_fold_change_se=arrays.pop("log2_fold_change_se", None),
        **arrays,
    )


def strongest(values: NDArray[np.float64]) -> list[int]:
    """Return the positions of finite values, largest absolute value first, ties in order."""
    # Stable, so that equal values have an order that does not depend on the machine.
    order = np.argsort(-np.abs(values), kind="stable")
    return [int(i) for i in order if np.isfinite(values[i])]


def _effect_result(design: Design, effect: Effect) -> dict[str, Any]:
    rows = strongest(effect.change)
    se = effect.change_se
    return {
        "n_cells": effect.n_cells,
        "magnitude": finite(effect.magnitude),
        "magnitude_se": finite(effect.magnitude_se),
        "measured_genes": len(rows),
        "kept": [
            {
                "gene": design.checkpoint.panel[i],
                "value": float(effect.change[i]),
                "se": None if se is None else float(se[i]),
            }
            for i in rows[:KEPT_GENES]
        ],
    }


def _sample(design: Design, cells: Cells) -> dict[str, Any]:
    panel = design.checkpoint.panel
    genes = np.flatnonzero(cells.measured)
    summary = summarised(cells)
    mean, se = summary.mean, summary.se
    order = strongest(mean)[:KEPT_GENES]
    # Cells of each part, in the order of the request: from the streams that the engine drew from.
    parts = design.arms["cells"].context_numbers(design.first_cell, len(cells))
    mixed = design.mixture and np.bincount(parts, minlength=len(design.mixture.parts)).tolist()
    return {
        "n_cells": len(cells),
        **({"composition": mixed} if mixed else {}),
        "measured_genes": len(genes),
        "library_quantiles": [finite(q) for q in np.quantile(summary.totals, QUANTILES).tolist()],
        "zero_rate": finite(summary.zeros),
        "pearson_with_training": finite(_pearson_with_training(design, mean, genes)),
        "kept": [
            {
                "gene": panel[genes[i]],
                "value": float(mean[i]),
                "se": None if se is None else float(se[i]),
            }
            for i in order
        ],
    }


def _completed(design: Design, given: Cells, cells: Cells) -> dict[str, Any]:
    """Return the result of completed cells: that of sampled ones, of the drawn genes alone."""
    # Genes that the file lacks and no clamp sets, bool [panel genes]: those that were drawn.
    drawn = cells.measured & ~given.measured
    clamped = set((design.cells or {})["clamp"])
    drawn[[design.checkpoint.panel.index(gene) for gene in clamped]] = False
    summary, panel = summarised(cells), design.checkpoint.panel
    genes = np.flatnonzero(cells.measured)
    # `strongest` gives positions among measured genes, `genes` their panel positions.
    shown = [i for i in strongest(summary.mean) if drawn[genes[i]]][:KEPT_GENES]
    se = summary.se
    # NaN leaves the measured genes out of the correlation: they agree by construction.
    drawn_mean = np.where(drawn[genes], summary.mean, np.nan)
    return {
        "n_cells": len(cells),
        "measured_genes": int(given.measured.sum()),
        "drawn_genes": int(drawn.sum()),
        "library_quantiles": [finite(q) for q in np.quantile(summary.totals, QUANTILES).tolist()],
        "pearson_with_training": finite(_pearson_with_training(design, drawn_mean, genes)),
        "kept": [
            {
                "gene": panel[genes[i]],
                "value": float(summary.mean[i]),
                "se": None if se is None else float(se[i]),
            }
            for i in shown
        ],
    }


def _pearson_with_training(
    design: Design, mean: NDArray[np.float64], genes: NDArray[np.intp]
) -> float | None:
    trained = training_figures(design, "mean_log1p_cp10k")
    if trained is None:
        return None
    # [measured genes], log1p_cp10k, of the training cells of this condition.
    trained = trained[genes]
    both = np.isfinite(trained) & np.isfinite(mean)
    # A constant side has no correlation.
    if both.sum() < 2 or not (np.ptp(trained[both]) and np.ptp(mean[both])):
        return None
    return float(np.corrcoef(trained[both], mean[both])[0, 1])


def training_figures(design: Design, name: str) -> NDArray[np.float64] | None:
    """Return a mean over training cells of exactly this condition; None without.

    Those of a mixture are means over its parts by their weights, as the cells' are.

    Args:
        design: of the experiment.
        name: of the figures in `Checkpoint.reference`.
    """
    figures = design.checkpoint.reference.get(name)
    mixture = design.mixture
    if mixture is None:
        row = seen_row(design)
        return None if figures is None or row is None else figures[row]
    rows = _seen_rows(design, [part.context for part in mixture.parts])
    if figures is None or None in rows:
        return None
    return np.tensordot(mixture.weights, figures[[row for row in rows if row is not None]], 1)


def seen_row(design: Design) -> int | None:
    """Return the row of the training reference that is exactly this condition; None without."""
    return _seen_rows(design, [design.context])[0]


def _seen_rows(design: Design, contexts: Sequence[Mapping[str, str]]) -> list[int | None]:
    """Return the row of the training reference of each of these contexts."""
    # By target, kind and dose: the cells of another dose are of another condition.
    wanted = identity(design.interventions)
    rows: dict[tuple[tuple[str, str], ...], int] = {}
    for row, entry in enumerate(design.checkpoint.config["seen"]):
        if entry_identity(entry) == wanted:
            rows.setdefault(tuple(sorted(entry["context"].items())), row)
    # A small checkpoint keeps the rows of control conditions alone, which are the first.
    stored = len(design.checkpoint.reference["zero_rate"])
    matches = [rows.get(tuple(sorted(context.items()))) for context in contexts]
    return [None if row is None or row >= stored else row for row in matches]
