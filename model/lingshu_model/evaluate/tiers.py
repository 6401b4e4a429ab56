"""The support tiers of `evidence.json`: what was trained on, and what was held out of a context.

Every tier has the headline that the tools quote (with the baselines and the verdicts), the
residuals that they turn into prediction errors, and the tables behind both. Knows nothing of
sampling.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lingshu_model.evaluate.effects import (
    MODEL,
    NOTHING,
    PEARSON,
    TRIVIAL,
    EffectTable,
    perturbation_rows,
)
from lingshu_model.evaluate.report import Found, Report, Response
from lingshu_model.evaluate.response import CELL_METRICS, HALF, HalfReference
from lingshu_model.evaluate.study import Study

Residual = tuple[str, str, list[float]]
"""Targets joined by `+`, the contrast's name, and predicted - observed change."""


def tiers(report: Report) -> dict[str, Any]:
    """Return the figures by support tier, None where nothing was measured."""
    judged = [found for found in report.found if found.effects]
    judged.sort(key=lambda found: -len(found.population.observed.pairs))
    responses = [(found, r) for found in report.found for r in found.responses]
    return {
        "seen": _seen(report, judged) if judged else None,
        "seen_elsewhere": _seen_elsewhere(report, responses) if responses else None,
        "combination_of_seen": None,
        "unseen": None,
    }


def _seen(report: Report, judged: Sequence[Found]) -> dict[str, Any]:
    """Return the figures of perturbations that were trained on, of the source with most of them."""
    first, *others = judged
    table, chosen = _table(first), report.study.headline
    names = table.observed.perturbations
    return {
        "n_perturbations": len(names),
        "headline": headline(table, chosen if table.sets.get(chosen) else "all"),
        "sets": {name: [names[i] for i in indices] for name, indices in table.sets.items()},
        "residuals": _residuals(_residual_rows(report.study, table), table.observed.genes),
        "per_perturbation": perturbation_rows(table),
        "table": effect_rows(table, report.seeds),
        "other_sources": {
            found.population.name: effect_rows(_table(found), report.seeds) for found in others
        },
    }


def _seen_elsewhere(report: Report, responses: Sequence[tuple[Found, Response]]) -> dict[str, Any]:
    """Return the figures of perturbations held out of a context, the headline of the first."""
    quoted = [next(iter(response.tables.values())) for _, response in responses]
    genes = quoted[0].observed.genes
    rows = [
        row for t in quoted if t.observed.genes == genes for row in _residual_rows(report.study, t)
    ]
    (_, first), table = responses[0], quoted[0]
    half = next(iter(first.halves.values()))[PEARSON]
    return {
        "n_perturbations": len(responses),
        "headline": headline(table, first.name, half),
        "sets": {response.name: [response.name] for _, response in responses},
        "residuals": _residuals(rows, genes),
        "per_perturbation": {k: v for t in quoted for k, v in perturbation_rows(t).items()},
        "table": [row for t in quoted for row in effect_rows(t, report.seeds)],
        "responses": {response.name: response_json(response) for _, response in responses},
    }


def headline(table: EffectTable, chosen: str, half: HalfReference | None = None) -> dict[str, Any]:
    """Return the figure that tools quote, beside the baselines'."""
    verdicts: dict[str, str] = {name: table.verdict(name, chosen) for name in table.baselines}
    baselines = {name: table.score(name, chosen).as_json() for name in table.baselines}
    if half is not None:
        verdicts[HALF], baselines[HALF] = half.verdict, half.value.as_json()
    return {
        "metric": PEARSON,
        "set": chosen,
        "model": table.score(MODEL, chosen).as_json(),
        "monte_carlo": table.monte_carlo(chosen).as_json(),
        "baselines": baselines,
        "bound": float(table.bound[table.sets[chosen]].mean()),
        "verdicts": verdicts,
        "verdict": "; ".join(f"{said} against {name}" for name, said in verdicts.items()),
        "beats_trivial_baseline": all(verdicts.get(name) == "win" for name in TRIVIAL),
    }


def effect_rows(table: EffectTable, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return one row per set and predictor, the model first, with the seeds one by one."""
    return [
        _effect_row(table, chosen, name, seeds)
        for chosen, indices in table.sets.items()
        if indices
        for name in table.predicted
    ]


def _effect_row(table: EffectTable, chosen: str, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    baseline = name != MODEL
    by_seed = [
        {"seed": seed, **table.score(name, chosen, seed=i).as_json()}
        | ({"verdict": table.verdict(name, chosen, seed=i)} if baseline else {})
        for i, seed in enumerate(seeds)
        if len(table.predicted[name]) in (1, len(seeds))
    ]
    return {
        "set": chosen,
        "n_perturbations": len(table.sets[chosen]),
        "predictor": name,
        "pearson": table.score(name, chosen).as_json(),
        "monte_carlo": None if baseline else table.monte_carlo(chosen).as_json(),
        "bound": float(table.bound[table.sets[chosen]].mean()),
        "difference": table.difference(name, chosen).as_json() if baseline else None,
        "verdict": table.verdict(name, chosen) if baseline else None,
        "magnitude_ratio": None if name in NOTHING else table.magnitude(name, chosen).as_json(),
        "seeds": by_seed,
    }


def response_json(response: Response) -> dict[str, Any]:
    """Return every figure of one held-out contrast."""
    first = next(iter(response.tables.values())).observed
    return {
        "genes": len(first.genes),
        "figures": {
            controls: _figures(table, response.halves[controls], response.name)
            for controls, table in response.tables.items()
        },
        "cells": _cells(response),
        "sets": {
            name: {
                "genes": change.genes,
                "real": change.real.as_json(),
                "model": change.model.as_json(),
                "baselines": dict(change.baselines),
                "up": change.model.interval[0] > 0,
            }
            for name, change in response.sets.items()
        },
    }


def _figures(
    table: EffectTable, halves: Mapping[str, HalfReference], chosen: str
) -> dict[str, Any]:
    perturbed, control = table.observed.pairs[0]
    return {
        "n_cells": [table.observed.n_test(perturbed), table.observed.n_test(control)],
        "figures": {
            name: {
                "bound": float(found.bound[0]),
                "model": table.score(MODEL, chosen, figure=name).as_json(),
                "monte_carlo": table.monte_carlo(chosen, figure=name).as_json(),
                "half": _half(halves[name]),
                "baselines": {
                    b: {
                        **table.score(b, chosen, figure=name).as_json(),
                        "difference": table.difference(b, chosen, figure=name).as_json(),
                        "verdict": table.verdict(b, chosen, figure=name),
                    }
                    for b in table.baselines
                },
            }
            for name, found in table.figures.items()
        },
    }


def _half(half: HalfReference) -> dict[str, Any]:
    return {
        "n_cells": list(half.n),
        **half.value.as_json(),
        "model_at_half": half.model.as_json(),
        "difference": half.difference.as_json(),
        "verdict": half.verdict,
    }


def _cells(response: Response) -> dict[str, Any]:
    cells = response.cells
    return {
        "n_cells": cells.n_cells,
        **{
            metric: {
                source: {
                    **cells.figure(source, metric).as_json(),
                    "verdict": None if source == MODEL else cells.against(source, metric)[1],
                }
                for source in cells.points
            }
            for metric in CELL_METRICS
        },
    }


def _residual_rows(study: Study, table: EffectTable) -> list[Residual]:
    """Return predicted − observed change of every perturbation."""
    rows: list[Residual] = []
    for i, (name, change) in enumerate(
        zip(table.observed.perturbations, table.observed.test_changes, strict=True)
    ):
        done = study.conditions[table.observed.pairs[i][0]].interventions
        targets = "+".join(each.target for each in done)
        rows.append((targets, name, (table.mean_prediction(i).value - change.value).tolist()))
    return rows


def _residuals(rows: Sequence[Residual], genes: Sequence[str]) -> dict[str, Any]:
    return {
        "genes": list(genes),
        "perturbations": [targets for targets, _, _ in rows],
        "names": [name for _, name, _ in rows],
        "values": [values for _, _, values in rows],
        "units": "log1p_cp10k",
        "note": "includes the held-out cells' own sampling noise",
    }


def _table(found: Found) -> EffectTable:
    assert found.effects is not None  # noqa: S101 - chosen for having them
    return found.effects
