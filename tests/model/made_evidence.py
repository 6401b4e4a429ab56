"""A checkpoint with stored effects and evidence of every kind, made for tests of answers."""

import json
from pathlib import Path
from typing import Any

from made_training import PANEL, finished, training_cells

from lingshu_model.contracts import Checkpoint
from lingshu_model.contracts.catalogue import Catalogue, pin

TARGETS = ("G3", "G5", "G7")
"""G3: better than any simple predictor; G5: not better than no change; G7: the training mean is
better."""


def figure(value: float, half: float = 0.05) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half]}


def head(value: float, simple: float, verdict: str, name: str = "replicate_reference") -> dict:
    return {
        "metric": "pearson_of_change",
        "set": "all",
        "model": figure(value),
        "baselines": {"control_mean": figure(0.0, 0.0), name: figure(simple)},
        "verdict": f"{verdict} against {name}",
        "verdicts": {name: verdict},
        "beats_trivial_baseline": verdict == "win",
        "best_simple": {"predictor": name, **figure(simple), "verdict": verdict},
    }


def condition(line: str, target: str, value: float, simple: float, verdict: str) -> dict[str, Any]:
    return {
        **head(value, simple, verdict),
        "population": "cells",
        "context": {"line": line},
        "interventions": [{"kind": "knockout", "target": target}],
        "n_test_cells": 77,
        "n_test_control_cells": 90,
        "n_train_cells": 300,
        "n_folds": 2,
    }


def errors(n_contrasts: int = 6) -> dict[str, Any]:
    rows = [
        {"from": low, "to": high, "n": 100, "n_contrasts": n_contrasts, "n_folds": 2,
         "error": error if n_contrasts > 2 else None, "rms": error + 0.05, "noise": 0.05,
         "slope": 1.0, "covered": 0.94}
        for low, high, error in ((0.0, 0.02, 0.03), (0.02, 0.4, 0.11), (0.4, None, 0.37))
    ]  # fmt: skip
    calibration = {
        "nominal": 0.95, "covered": 0.94, "n": 300, "n_contrasts": n_contrasts, "n_folds": 2,
        "called_lfsr": 0.05, "n_called": 60, "expected_wrong_signs": 1.5, "wrong_signs": 2.0,
        "slope_of_called": 0.97, "slope_standard_error": 0.04,
    }  # fmt: skip
    return {"error_by_size": rows, "calibration": calibration, "units": "log1p_cp10k"}


def made_evidence() -> dict[str, Any]:
    """Evidence of format 3: `seen` in line a, `seen_elsewhere` in line b, nothing else."""
    seen = {
        "a, G3": condition("a", "G3", 0.8, 0.6, "win"),
        "a, G5": condition("a", "G5", 0.02, 0.1, "tie"),
        "a, G7": condition("a", "G7", 0.5, 0.7, "loss"),
    }
    carried = {"b, G3": condition("b", "G3", 0.4, 0.3, "win")}
    tiers = {
        "seen": {
            "n_perturbations": 3, "n_folds": 2, "headline": head(0.9, 0.6, "win"),
            "overall": head(0.44, 0.43, "tie"), "sets": {"all": list(seen)},
            "per_perturbation": seen, "residuals": None, "certainty": errors(),
        },
        "seen_elsewhere": {
            "n_perturbations": 1, "n_folds": 1, "headline": head(0.4, 0.3, "win"),
            "overall": head(0.4, 0.3, "win", "mean_shift"), "sets": {"all": list(carried)},
            "per_perturbation": carried, "residuals": None, "certainty": errors(2),
        },
        "combination_of_seen": None,
        "unseen": None,
    }  # fmt: skip
    nulls = [
        {"context": {"line": "a"}, "n_cells": n, "n_labels": 100, "n_genes": 120,
         "called_lfsr": 0.05, "labels_with_a_call": 4, "share_called": 0.0005,
         "magnitude_quantiles": {"0.5": 0.0, "0.95": 0.2, "1.0": 0.3}}
        for n in (30, 150)
    ]  # fmt: skip
    return {
        "format": "lingshu-evidence-3",
        "data": {"adapted_to": [{"context": {"line": "b"}, "target": "G3"}]},
        "settings": {"n_cells": 256, "steps": 2},
        "tiers": tiers,
        "sham": None,
        "null_labels": nulls,
        "cost": {"seconds_per_cell": 0.01, "machine": "made up"},
    }


def made_checkpoint(folder: Path, evidence: dict[str, Any] | None = None) -> Checkpoint:
    """A checkpoint of lines a, b and c: G5 and G7 have no cells in b, none has any in c."""
    cells = training_cells(
        contexts=("a", "b", "c"), targets=TARGETS,
        absent=(("b", "G5"), ("b", "G7"), ("c", "G3"), ("c", "G5"), ("c", "G7")),
    )  # fmt: skip
    built = finished(cells, folder, shams=0)
    (built.path / "evidence.json").write_text(json.dumps(evidence or made_evidence()))
    pin(built.path)
    return Catalogue([built.path.parent]).load("made")


__all__ = ["PANEL", "TARGETS", "errors", "made_checkpoint", "made_evidence"]
