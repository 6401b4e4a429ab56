"""`evidence.json`: what the tools quote of a checkpoint, and every figure of its evaluation.

Format `lingshu-evidence-3`. By tier the evidence of a set of perturbations (`headline`), of all of
them (`overall`, since the third), of each perturbation in each context, and the prediction errors;
then all figures as one table. Readers of earlier formats find what they read under the same keys:
`tiers.*.headline`, `tiers.*.residuals`, `sham` and `cost`. `evidence_text` writes it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lingshu_model.contracts.error_model import GENE_VARIANCE
from lingshu_model.evaluate.compare import MAGNITUDE, holm, of_row
from lingshu_model.evaluate.figures import ALL, Figure, Table, figures
from lingshu_model.evaluate.metrics.agreement import MSE, PEARSON
from lingshu_model.evaluate.predictors import SIMPLE, TRIVIAL
from lingshu_model.evaluate.report import NullChanges, Report
from lingshu_model.evaluate.rows import (
    MODEL,
    MONTE_CARLO,
    NOISE_CEILING,
    REFERENCES,
    HeldOut,
    NamedSet,
)

FORMAT = "lingshu-evidence-3"
TIERS = ("seen", "seen_elsewhere", "combination_of_seen", "unseen")
COLUMNS = (
    *("metric", "tier", "population", "set", "n_units", "predictor", "fold"),
    *("value", "low", "high", "by_seed"),
    *("difference", "difference_low", "difference_high", "verdict"),
    *("worst_unit", "worst_difference", "p_not_inferior"),
)
"""Columns of the table of figures. `difference` is the model's figure less the predictor's; that of
the `worst_unit` is positive where the model is better."""


def evidence(report: Report, null: NullChanges | None, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evidence of a report as JSON values.

    Args:
        report: the evaluation, of one fold or of several.
        null: the model's changes under null labels.
        head: `checkpoint_digest`, `data`, `settings` and `cost`.
    """
    table = Table(report.rows)
    every = figures(report.rows, report.sets)
    return {
        "format": FORMAT,
        **head,
        "folds": sorted({each.fold for each in report.held_out}),
        "tiers": {tier: _tier(tier, report, table) for tier in TIERS},
        "sham": null_evidence(null, head["settings"]) if null else None,
        "figures": {"columns": list(COLUMNS), "rows": figure_rows(every)},
    }


def extended(written: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return evidence with what only the training's own rotation says, taken from `before`.

    These are the check by null labels, errors by size and calibration, which held-out conditions
    the recipe was adapted to, and every tier of which nothing is held out here.
    """
    rotated = before.get("tiers") or {}
    tiers: dict[str, Any] = {}
    for name, tier in written["tiers"].items():
        known = rotated.get(name)
        if tier is None or known is None:
            tiers[name] = known if tier is None else tier
        else:
            certainty = {"certainty": known["certainty"]} if "certainty" in known else {}
            tiers[name] = {**tier, **certainty}
    taken = {name for name, tier in tiers.items() if tier and not written["tiers"][name]}
    # The recipe was adapted to these conditions before; that stays true of the new figures.
    data = dict(written["data"])
    if adapted := (before.get("data") or {}).get("adapted_to"):
        data["adapted_to"] = adapted
    kept = {k: before[k] for k in ("null_labels", GENE_VARIANCE) if k in before}
    # Tiers that now have figures are no longer listed as not estimable.
    missing = {k: v for k, v in (before.get("not_estimable") or {}).items() if not tiers.get(k)}
    if missing:
        kept["not_estimable"] = missing
    return {**written, "data": data, "tiers": tiers, **kept, **_rows_of(written, before, taken)}


def _rows_of(
    written: Mapping[str, Any], before: Mapping[str, Any], tiers: Collection[str]
) -> dict[str, Any]:
    """Return `folds` and `figures` of both, `before` for these tiers alone."""
    if not tiers:
        return {}
    columns = written["figures"]["columns"]
    tier = columns.index("tier")
    rows = [row for row in before["figures"]["rows"] if row[tier] in tiers]
    return {
        "folds": [*written["folds"], *before["folds"]],
        "figures": {"columns": columns, "rows": [*written["figures"]["rows"], *rows]},
    }


def figure_rows(every: Sequence[Figure]) -> list[list[Any]]:
    """Return figures as rows of the table whose columns are `COLUMNS`.

    `p_not_inferior` is adjusted over all comparisons of a named set (Holm).
    """
    # The family of Holm's correction: all metrics and predictors of one set.
    tests: dict[tuple[str, ...], dict[str, float]] = {}
    for f in every:
        if f.over_units:
            key = (f.row.tier, f.row.population, f.row.set)
            tests.setdefault(key, {})[f"{f.row.metric} {f.row.predictor}"] = f.over_units.p
    adjusted = {key: holm(p) for key, p in tests.items()}
    rows: list[list[Any]] = []
    for f in every:
        row, less = f.row, f.difference
        p = adjusted.get((row.tier, row.population, row.set), {})
        rows.append(
            [
                *(row.metric, row.tier, row.population, row.set, f.n_units),
                *(row.predictor, row.fold, row.value, *of_row(row).interval),
                [*f.by_seed.values()],
                *((less.value, *of_row(less).interval) if less else (None, None, None)),
                f.verdict,
                *(f.over_units.worst if f.over_units else (None, None)),
                p.get(f"{row.metric} {row.predictor}"),
            ]
        )
    return rows


def _tier(tier: str, report: Report, table: Table) -> dict[str, Any] | None:
    """Return the evidence of a support tier; None where nothing of it was held out."""
    held_out = [each for each in report.held_out if each.tier == tier]
    if not held_out:
        return None
    # Sets are of the population with most contrasts; the others are in the table.
    populations = [each.population for each in held_out]
    # dict.fromkeys keeps the order, so the first of equally large populations is quoted.
    quoted = max(dict.fromkeys(populations), key=populations.count)
    every, held_out = held_out, [each for each in held_out if each.population == quoted]
    sets = {
        s.name: frozenset(unit for unit in s.units if unit[0] == quoted)
        for s in report.sets
        if s.kind == "contrasts" and s.tier == tier
    }
    # The well measured or the strongest, where there is such a set: the last but `all`.
    name = next((n for n in reversed(sets) if n != ALL and sets[n]), ALL)
    names = dict.fromkeys(each.name for each in held_out)
    contrasts: dict[str, list[HeldOut]] = {}
    for each in every:
        # A contrast of another population goes by that one's name too.
        apart = each.population != quoted and each.name in names
        name_ = f"{each.name} ({each.population})" if apart else each.name
        contrasts.setdefault(name_, []).append(each)
    return {
        "n_perturbations": len(names),
        "n_folds": len({each.fold for each in held_out}),
        "headline": headline(NamedSet(name, "contrasts", tier, sets[name]), table),
        "overall": headline(NamedSet(ALL, "contrasts", tier, sets[ALL]), table),
        "sets": {n: sorted(unit for _, unit in units) for n, units in sets.items()},
        "per_perturbation": {
            name: perturbation(contrasts[name], table) for name in sorted(contrasts)
        },
        "residuals": residuals(held_out),
    }


def headline(chosen: NamedSet, table: Table) -> dict[str, Any]:
    """Return Pearson of the change over a set, beside that of every other predictor.

    The `best_simple` predictor stands alone with the difference from it.
    """
    by_name = {f.row.predictor: f for f in table.figures(chosen, [PEARSON])}
    others = {name: f for name, f in by_name.items() if name not in REFERENCES}
    verdicts = {name: f.verdict for name, f in others.items() if f.difference is not None}
    # A predictor that some of the contrasts do not have is not compared with those that all have.
    whole = max((f.n_units for f in by_name.values()), default=0)
    simple = [f for name, f in others.items() if name in SIMPLE and f.n_units == whole]
    best = max(simple, key=lambda f: f.row.value, default=None)
    # Without any trivial predictor nothing was beaten.
    trivial = [verdicts[name] for name in TRIVIAL if name in verdicts]
    # With one unit the set is named by the contrast.
    (only, *more) = chosen.units
    return {
        "metric": PEARSON,
        "set": chosen.name if more else only[1],
        "model": _value(by_name.get(MODEL)),
        "monte_carlo": _value(by_name.get(MONTE_CARLO)),
        "baselines": {name: _value(f) for name, f in others.items()},
        "noise_ceiling": by_name[NOISE_CEILING].row.value if NOISE_CEILING in by_name else None,
        "verdicts": verdicts,
        "verdict": "; ".join(f"{said} against {name}" for name, said in verdicts.items()),
        "beats_trivial_baseline": bool(trivial) and {*trivial} == {"win"},
        "best_simple": best
        and {
            "predictor": best.row.predictor,
            **of_row(best.row).as_json(),
            "difference": best.difference and of_row(best.difference).as_json(),
            "verdict": best.verdict,
        },
    }


def perturbation(contrasts: Sequence[HeldOut], table: Table) -> dict[str, Any]:
    """Return the evidence of one perturbation in one context, over its folds."""
    first = contrasts[0]
    unit = frozenset({(first.population, first.name)})
    chosen = NamedSet(first.name, "contrasts", first.tier, unit)
    mine = table.values(MODEL, chosen)
    test, control, train = np.sum([each.n_cells for each in contrasts], axis=0).tolist()
    return {
        **headline(chosen, table),
        "population": first.population,
        "context": first.context,
        "interventions": first.interventions,
        "mse": mine.get(MSE),
        "magnitude_ratio": mine.get(MAGNITUDE),
        "n_test_cells": test,
        "n_test_control_cells": control,
        "n_train_cells": train,
        "n_folds": len(contrasts),
    }


def residuals(contrasts: Sequence[HeldOut]) -> dict[str, Any] | None:
    """Return predicted less observed change of every contrast and fold, and the prediction."""
    known = [(each, each.predicted) for each in contrasts if each.predicted is not None]
    if not known:
        return None
    return {
        "genes": list(known[0][0].genes),
        "perturbations": [each.targets for each, _ in known],
        "names": [each.name for each, _ in known],
        "folds": [each.fold for each, _ in known],
        # 1e-4 is far below the standard error of any change.
        "values": [np.round(p - each.observed, 4).tolist() for each, p in known],
        "predicted": [np.round(p, 4).tolist() for _, p in known],
        "units": "log1p_cp10k",
        "note": "includes the held-out cells' own sampling noise",
    }


def null_evidence(null: NullChanges, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that the model attributes to null labels."""
    magnitudes = np.sqrt(np.nansum(null.values**2, axis=1)).tolist()
    levels = (0.5, 0.9, 0.95, 1.0)
    quantiles = np.quantile(magnitudes, levels).tolist() if magnitudes else [math.nan] * len(levels)
    return {
        "n": len(magnitudes),
        "n_cells": settings["n_cells"],
        "steps": settings["steps"],
        "genes": list(null.genes),
        "changes": null.values.tolist(),
        "units": "log1p_cp10k",
        "magnitudes": magnitudes,
        "magnitude_quantiles": dict(zip(map(str, levels), quantiles, strict=True)),
    }


def _value(figure: Figure | None) -> dict[str, Any] | None:
    return of_row(figure.row).as_json() if figure else None
