"""`evidence.json`: what the tools quote of a checkpoint, generated and never typed.

Indent 1 but for lists of numbers, sorted keys, floats to 5 significant digits, undefined figures
null. Knows nothing of sampling.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lingshu_model.evaluate import distribution, scores
from lingshu_model.evaluate.distribution import DistributionError
from lingshu_model.evaluate.observed import CONTROL
from lingshu_model.evaluate.report import Found, Report
from lingshu_model.evaluate.sample import HIGHER_IS_BETTER, METRICS, SIGNED
from lingshu_model.evaluate.scores import ScoreTable
from lingshu_model.evaluate.tiers import tiers

FORMAT = "lingshu-evidence-1"
DIGITS = 5
_NUMBERS = re.compile(r"\[[\s\d.,e+\-nul]*\]")


def evidence(report: Report, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evidence of a report as JSON values.

    Args:
        report: the evaluation.
        head: `checkpoint_digest`, `data`, `settings` and `cost`, which a report does not know.
    """
    copies = [check for found in report.found for check in found.copies]
    return {
        "format": FORMAT,
        **head,
        "tiers": tiers(report),
        "sham": sham_null(report, head["settings"]),
        "distribution": distributions(report.found),
        "composition": {
            found.population.name: {
                "n_cells": dict(found.composition.n_cells),
                "distance": dict(found.composition.distance),
                "recognised": {k: dict(v) for k, v in found.composition.recognised.items()},
                "markers": {k: dict(v) for k, v in found.composition.markers.items()},
            }
            for found in report.found
            if found.composition
        },
        "copies": {
            "per_seed": [check.as_json() for check in copies],
            "sources": [f.population.name for f in report.found for _ in f.copies],
            "more_than_real": any(check.copies for check in copies),
        },
        "scores": {
            found.population.name: challenge_scores(found.scores)
            for found in report.found
            if found.scores
        },
    }


def dumps(value: Mapping[str, Any]) -> str:
    """Return the canonical text of an evidence file; a list of numbers is one line."""
    text = json.dumps(rounded(value), indent=1, sort_keys=True, allow_nan=False)
    return _NUMBERS.sub(lambda found: " ".join(found.group().split()), text) + "\n"


def rounded(value: Any) -> Any:
    """Return JSON values with floats to 5 significant digits and NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") + 0.0 if math.isfinite(value) else None
    return value


def sham_null(report: Report, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes the model attributes to sham interventions."""
    changes = report.shams.changes
    magnitudes = [float(np.linalg.norm(change[np.isfinite(change)])) for change in changes]
    levels = (0.5, 0.9, 0.95, 1.0)
    quantiles = np.quantile(magnitudes, levels).tolist() if magnitudes else [math.nan] * len(levels)
    return {
        "n": len(changes),
        "n_cells": settings["n_cells"],
        "steps": settings["steps"],
        "genes": list(report.shams.genes),
        "changes": [change.tolist() for change in changes],
        "units": "log1p_cp10k",
        "magnitudes": magnitudes,
        "magnitude_quantiles": dict(zip(map(str, levels), quantiles, strict=True)),
    }


def groups(found: Sequence[Found]) -> dict[str, list[DistributionError]]:
    """Return which pools of a report are averaged, by what the average is called."""
    errors = {f.population.name: f.distributions for f in found}
    return groups_of(errors, {f.population.name for f in found if f.population.joint})


def groups_of(
    errors: Mapping[str, Mapping[str, DistributionError]], joint: set[str]
) -> dict[str, list[DistributionError]]:
    """Return which pools are averaged, by what the average is called; the first is the usual one.

    Where conditions are pools of their own, the perturbations and the control. Where a population
    is one pool, the mean over populations, the cells of all over the genes that all measure, each,
    and every held-out condition.

    Args:
        errors: by population and pool.
        joint: populations made of the others' cells.
    """
    pools = {pool: error for each in errors.values() for pool, error in each.items()}
    own = [name for name, each in errors.items() if name in each]
    if own:
        single = [name for name in own if name not in joint]
        named = {"mean over sources": single, **{n: [n] for n in own if n in joint}}
        named |= {name: [name] for name in [*single, *(n for n in pools if n not in own)]}
    else:
        rest = [name for name in pools if name != CONTROL]
        named = {"perturbations": rest, "control": [CONTROL] if CONTROL in pools else []}
    return {name: [pools[n] for n in chosen] for name, chosen in named.items() if chosen}


def distributions(found: Sequence[Found]) -> dict[str, Any]:
    """Return the errors of the groups, and the model's in every pool."""
    pools = {name: error for f in found for name, error in f.distributions.items()}
    return {
        "n_cells": {name: error.n_cells for name, error in pools.items()},
        "groups": {name: group_metrics(errors) for name, errors in groups(found).items()},
        "pools_of_groups": {name: len(errors) for name, errors in groups(found).items()},
        "per_pool": {name: _model_errors(error) for name, error in pools.items()},
    }


def challenge_scores(table: ScoreTable) -> dict[str, Any]:
    """Return the public challenges' metrics, over the panel's genes only."""
    return {
        "defined_by": {"2025": "cell-eval 0.8.2", "2026": "cell-eval2 0.20.0, preset vcc2026"},
        "n_perturbations": len(table.perturbations),
        "table": [_score_row(table, m, p) for m in scores.METRICS for p in table.judged],
        "scaled": {name: table.scaled(name) for name in table.judged},
        "scale": {
            "baseline": dict(table.scale.baseline),
            "replicate": dict(table.scale.replicate),
        },
    }


def _score_row(table: ScoreTable, metric: str, predictor: str) -> dict[str, Any]:
    baseline = predictor != scores.MODEL
    return {
        "metric": metric,
        "predictor": predictor,
        **table.value(predictor, metric).as_json(),
        "difference": table.difference(predictor, metric).as_json() if baseline else None,
        "verdict": table.verdict(predictor, metric) if baseline else None,
    }


def group_metrics(errors: Sequence[DistributionError]) -> dict[str, Any]:
    """Return every metric of every source, with the model's verdicts against the others."""
    return {metric: _metric(errors, metric) for metric in METRICS}


def _metric(errors: Sequence[DistributionError], metric: str) -> dict[str, Any]:
    sources = distribution.shared_sources(errors)
    figures = {s: distribution.summarise(errors, s, metric).as_json() for s in sources}
    verdicts = {
        baseline: distribution.compare_sources(errors, baseline, metric)[1]
        for baseline in sources
        if baseline != distribution.MODEL
    }
    mine, half = (figures[s]["value"] for s in (distribution.MODEL, distribution.HALF))
    ratio = mine / half if metric not in (HIGHER_IS_BETTER | SIGNED) and half else math.nan
    return {**figures, "verdicts": verdicts, "ratio_to_half": ratio}


def _model_errors(error: DistributionError) -> dict[str, float]:
    means = error.point[distribution.MODEL].mean(axis=0).tolist()
    return dict(zip(METRICS, means, strict=True))
