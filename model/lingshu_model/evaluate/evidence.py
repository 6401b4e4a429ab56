"""`evidence.json`: what the tools quote of a checkpoint, generated and never typed.

Indent 1, sorted keys, floats to 5 significant digits, undefined figures null. Knows nothing of
sampling.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lingshu_model.evaluate import distribution, scores
from lingshu_model.evaluate.distribution import DistributionError
from lingshu_model.evaluate.effects import BASELINES, MODEL, TRIVIAL, EffectTable, perturbation_rows
from lingshu_model.evaluate.observed import CONTROL
from lingshu_model.evaluate.report import Report
from lingshu_model.evaluate.scores import ScoreTable

FORMAT = "lingshu-evidence-1"
HEADLINE = "twelve strongest"
DIGITS = 5


def evidence(report: Report, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evidence of a report as JSON values.

    Args:
        report: the evaluation.
        head: `checkpoint_digest`, `data`, `settings` and `cost`, which a report does not know.
    """
    return {
        "format": FORMAT,
        **head,
        "tiers": {
            "seen": seen_tier(report.effects, report.seeds),
            "seen_elsewhere": None,
            "combination_of_seen": None,
            "unseen": None,
        },
        "sham": sham_null(report, head["settings"]),
        "distribution": distributions(report.distributions),
        "copies": {
            "per_seed": [check.as_json() for check in report.copies],
            "more_than_real": any(check.copies for check in report.copies),
        },
        "scores": challenge_scores(report.scores),
    }


def dumps(value: Mapping[str, Any]) -> str:
    """Return the canonical text of an evidence file."""
    return json.dumps(rounded(value), indent=1, sort_keys=True, allow_nan=False) + "\n"


def rounded(value: Any) -> Any:
    """Return JSON values with floats to 5 significant digits and NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") + 0.0 if math.isfinite(value) else None
    return value


def seen_tier(table: EffectTable, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the figures of the perturbations that were trained on."""
    return {
        "n_perturbations": len(table.observed.perturbations),
        "headline": headline(table),
        "sets": {
            name: [table.observed.perturbations[i] for i in indices]
            for name, indices in table.sets.items()
        },
        "residuals": residuals(table),
        "per_perturbation": perturbation_rows(table),
        "table": effect_rows(table, seeds),
    }


def headline(table: EffectTable) -> dict[str, Any]:
    """Return the figure that tools quote, beside the baselines'."""
    verdicts = {name: table.verdict(name, HEADLINE) for name in BASELINES}
    return {
        "metric": "pearson_of_change",
        "set": HEADLINE,
        "model": table.pearson(MODEL, HEADLINE).as_json(),
        "baselines": {name: table.pearson(name, HEADLINE).as_json() for name in BASELINES},
        "bound": float(table.bound[table.sets[HEADLINE]].mean()),
        "verdicts": verdicts,
        "verdict": "; ".join(f"{said} against {name}" for name, said in verdicts.items()),
        "beats_trivial_baseline": all(verdicts[name] == "win" for name in TRIVIAL),
    }


def residuals(table: EffectTable) -> dict[str, Any]:
    """Return predicted − observed change of every perturbation and gene."""
    real = table.observed.test_changes
    values = [
        (table.mean_prediction(i).value - change.value).tolist() for i, change in enumerate(real)
    ]
    return {
        "genes": table.observed.genes,
        "perturbations": table.observed.perturbations,
        "values": values,
        "units": "log1p_cp10k",
        "note": "includes the held-out replicate's own sampling noise",
    }


def effect_rows(table: EffectTable, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return one row per set and predictor, the model first, with the seeds one by one."""
    return [
        _effect_row(table, chosen, name, seeds)
        for chosen in table.sets
        for name in (MODEL, *BASELINES)
    ]


def _effect_row(table: EffectTable, chosen: str, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    baseline = name != MODEL
    nothing_predicted = name == "control_mean"
    by_seed = [
        {"seed": seed, **table.pearson(name, chosen, seed=i).as_json()}
        | ({"verdict": table.verdict(name, chosen, seed=i)} if baseline else {})
        for i, seed in enumerate(seeds)
    ]
    return {
        "set": chosen,
        "n_perturbations": len(table.sets[chosen]),
        "predictor": name,
        "pearson": table.pearson(name, chosen).as_json(),
        "bound": float(table.bound[table.sets[chosen]].mean()),
        "difference": table.difference(name, chosen).as_json() if baseline else None,
        "verdict": table.verdict(name, chosen) if baseline else None,
        "magnitude_ratio": None if nothing_predicted else table.magnitude(name, chosen).as_json(),
        "seeds": by_seed,
    }


def sham_null(report: Report, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes the model attributes to sham interventions."""
    changes = [change.value for change in report.shams]
    magnitudes = [float(np.linalg.norm(change)) for change in changes]
    levels = (0.5, 0.9, 0.95, 1.0)
    quantiles = np.quantile(magnitudes, levels).tolist() if magnitudes else [math.nan] * len(levels)
    return {
        "n": len(changes),
        "n_cells": settings["n_cells"],
        "steps": settings["steps"],
        "genes": report.effects.observed.genes,
        "changes": [change.tolist() for change in changes],
        "units": "log1p_cp10k",
        "magnitudes": magnitudes,
        "magnitude_quantiles": dict(zip(map(str, levels), quantiles, strict=True)),
    }


def distributions(errors: Mapping[str, DistributionError]) -> dict[str, Any]:
    """Return the errors averaged over perturbations, and those of the control."""
    perturbed = {name: error for name, error in errors.items() if name != CONTROL}
    return {
        "conditions": sorted(perturbed),
        "n_cells": {name: error.n_cells for name, error in errors.items()},
        "perturbations": _metrics(list(perturbed.values())) if perturbed else None,
        "control": _metrics([errors[CONTROL]]) if CONTROL in errors else None,
        "per_condition": {name: _model_errors(error) for name, error in errors.items()},
    }


def challenge_scores(table: ScoreTable) -> dict[str, Any]:
    """Return the public challenges' metrics, over the panel's genes only."""
    return {
        "defined_by": {"2025": "cell-eval 0.8.2", "2026": "cell-eval2 0.20.0, preset vcc2026"},
        "n_perturbations": len(table.perturbations),
        "table": [_score_row(table, m, p) for m in scores.METRICS for p in scores.PREDICTORS],
        "scaled": {name: table.scaled(name) for name in scores.PREDICTORS},
        "scale": {
            "baseline": dict(table.scale.baseline),
            "replicate": dict(table.scale.replicate),
        },
    }


def _score_row(table: ScoreTable, metric: str, predictor: str) -> dict[str, Any]:
    baseline = predictor != MODEL
    return {
        "metric": metric,
        "predictor": predictor,
        **table.value(predictor, metric).as_json(),
        "difference": table.difference(predictor, metric).as_json() if baseline else None,
        "verdict": table.verdict(predictor, metric) if baseline else None,
    }


def _metrics(errors: list[DistributionError]) -> dict[str, Any]:
    return {metric: _metric(errors, metric) for metric in distribution.METRICS}


def _metric(errors: list[DistributionError], metric: str) -> dict[str, Any]:
    sources = distribution.SOURCES
    return {
        source: distribution.summarise(errors, source, metric).as_json() for source in sources
    } | {
        "verdicts": {
            baseline: distribution.compare_sources(errors, baseline, metric)[1]
            for baseline in sources[1:]
        }
    }


def _model_errors(error: DistributionError) -> dict[str, float]:
    means = error.point[distribution.MODEL].mean(axis=0).tolist()
    return dict(zip(distribution.METRICS, means, strict=True))
