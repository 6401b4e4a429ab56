"""An experiment's numbers, one row for each gene of the panel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lingshu_model.contracts import decode_cells
from lingshu_model.contracts.user_cells import BITS, DRAWS
from lingshu_tools.analysis import summarised
from lingshu_tools.calls.results import finite
from lingshu_tools.experiments.designs import Design, context_label
from lingshu_tools.experiments.findings import unpack_effect
from lingshu_tools.report.effect_view import EffectView

EFFECT_UNITS = {
    "log2_fold_change": "log2((perturbed + 1) / (control + 1)) of mean counts per 10,000",
    "control_mean, perturbed_mean, change, prediction_error, model_mean": "log1p_cp10k",
    "interval_low, interval_high": "log1p_cp10k; 95 % interval of change in a new experiment",
    "lfsr": "probability that the sign of change is wrong",
    "…_mc_low, …_mc_high": "95 % Monte Carlo interval: sampling noise alone",
}
SAMPLE_UNITS = {"mean_count": "count (UMI)", "mean": "log1p_cp10k", "zero_rate": "share of cells"}


def effect_rows(name: str, design: Design, effects: Path) -> Iterator[dict[str, Any]]:
    """Yield the effect of the succeeded perturbation `name` on each gene, in panel order."""
    view = EffectView(design, unpack_effect(effects.read_bytes()))
    for index, known in enumerate(_known(name, design)):
        gene = view.gene(index)
        low, high = gene.mc_interval or (None, None)
        change_low, change_high = gene.change_mc_interval or (None, None)
        new_low, new_high = gene.interval or (None, None)
        yield {
            **known,
            "log2_fold_change": gene.log2_fold_change,
            "log2_fold_change_mc_low": low,
            "log2_fold_change_mc_high": high,
            "control_mean": gene.control_mean,
            "perturbed_mean": gene.perturbed_mean,
            "change": gene.change,
            "change_mc_low": change_low,
            "change_mc_high": change_high,
            "prediction_error": gene.prediction_error,
            "sham_q": gene.sham_q,
            "model_mean": gene.model_mean,
            "interval_low": new_low,
            "interval_high": new_high,
            "lfsr": gene.lfsr,
            "certainty": gene.certainty,
        }


def sample_rows(name: str, design: Design, cells: Path) -> Iterator[dict[str, Any]]:
    """Yield the mean of each gene over the cells of `name`, in panel order; None: not measured."""
    counts = decode_cells(cells)
    summary = summarised(counts)
    numbers = {name: getattr(summary, name) for name in ("mean_count", "mean", "zero_rate")}
    # Arrays of a summary are over measured genes: panel position to position in them. That of an
    # unmeasured gene is another's, and its value is replaced by None below.
    place = np.cumsum(counts.measured) - 1
    for index, known in enumerate(_known(name, design)):
        fields = {name: values[place[index]] for name, values in numbers.items()}
        measured = counts.measured[index]
        yield {**known, **{k: finite(float(v)) if measured else None for k, v in fields.items()}}


def score_rows(name: str, design: Design, scores: Path) -> Iterator[dict[str, Any]]:
    """Yield the bits per gene of each cell of `name` under each context, in the cells' order."""
    table = decode_cells(scores)
    # [cells, contexts + 1], bits per gene: the mean over draws of counts in 1 / BITS.
    bits = table.counts.reshape(len(table), -1, DRAWS).mean(axis=2) / BITS
    contexts = [context_label(c) for c in (design.cells or {})["against"]]
    for cell, values in enumerate(bits.tolist()):
        # The last column is of simulated cells, which have no context in the table.
        for context, value in zip(contexts, values, strict=False):
            yield {"experiment_id": name, "cell": cell, "context": context, "bits": value}


def _known(name: str, design: Design) -> Iterator[dict[str, Any]]:
    named = {
        "experiment_id": name,
        "perturbation": design.label,
        "context": design.place,
    }
    for entry in design.checkpoint.panel_entries:
        yield {**named, "gene": entry["symbol"], "ensembl": entry.get("ensembl") or ""}
