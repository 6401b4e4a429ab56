"""Tables of what the folds gave: scores by predictor, comparisons, fitness."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.any_data.compare import LEVEL, MSE_MARGIN, PEARSON_MARGIN, compare, holm

OURS = ("effects", "moved_cells")
PEERS = ("scvi", "scgen")
"""Shown, and no simple predictors that a closed form is compared with."""
PRIMARY = {"carried": "disjoint"}
"""The way of taking the truth that is compared, where there are several."""


def results(out: Path, tiers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return scores, comparisons and fitness of all folds under `out`."""
    result: dict[str, Any] = {"scores": [], "comparisons": [], "fitness": {}}
    families: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
    for name, tier in tiers:
        by_variant = _units(out, name, tier)
        for variant, scores in by_variant.items():
            result["scores"] += [
                _summary(name, tier, variant, predictor, units)
                for predictor, units in scores.items()
            ]
        scores = by_variant.get(PRIMARY.get(tier, ""), {})
        simple = [p for p in scores if p not in (*OURS, *PEERS)]
        for ours in OURS:
            if ours in scores:
                families[name, ours] += [(tier, c) for c in compare(scores, ours, simple)]
    for (name, ours), family in families.items():
        adjusted = holm([c for _, c in family])
        result["comparisons"] += [
            {"set": name, "predictor": ours, "tier": tier} | asdict(c)
            for (tier, _), c in zip(family, adjusted, strict=True)
        ]
    for name in dict.fromkeys(name for name, _ in tiers):
        file = out / f"{name}.fitness.json"
        if file.exists():
            result["fitness"][name] = json.loads(file.read_text("utf-8"))["rows"]
    return result


def _units(out: Path, name: str, tier: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return mean Pearson and MSE over folds, by variant, predictor and unit."""
    every: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for file in sorted(out.glob(f"{name}.{tier}.*.json")):
        for row in json.loads(file.read_text("utf-8"))["rows"]:
            key = row["variant"], row["predictor"], row["unit"]
            every[key].append((row["pearson"], row["mse"]))
    nested: dict[str, dict[str, dict[str, Any]]] = {}
    for (variant, predictor, unit), values in every.items():
        mean = np.mean(values, axis=0)
        nested.setdefault(variant, {}).setdefault(predictor, {})[unit] = tuple(map(float, mean))
    return nested


def _summary(
    name: str, tier: str, variant: str, predictor: str, units: dict[str, Any]
) -> dict[str, Any]:
    values = np.array(list(units.values()))
    worst = min(units, key=lambda unit: units[unit][0])
    return {
        "set": name, "tier": tier, "variant": variant, "predictor": predictor,
        "units": len(units), "pearson": float(values[:, 0].mean()),
        "mse": float(values[:, 1].mean()),
        "worst": worst, "worst_pearson": units[worst][0],
        "pearson_by_unit": {unit: value[0] for unit, value in sorted(units.items())},
    }  # fmt: skip


def write_csv(result: dict[str, Any], folder: Path) -> None:
    """Write scores, units, comparisons and fitness as the CSV files of the results page."""
    scores, about = result["scores"], ("set", "tier", "variant", "predictor")
    figures = ("units", "pearson", "mse", "worst", "worst_pearson")
    units = [
        {**r, "unit": unit, "pearson": value}
        for r in scores
        for unit, value in r["pearson_by_unit"].items()
    ]
    compared = ("set", "tier", "predictor", "simple", "metric", "difference", "p", "units", "unit",
                "worst", "verdict")  # fmt: skip
    fitness = [
        {**r, "set": name, "reasons": "; ".join(r["reasons"])}
        for name, rows in result["fitness"].items()
        for r in rows
    ]
    checked = {
        "set": "set", "condition": "condition", "context": "context", "certain": "certain genes",
        "slope": "slope", "pearson": "pearson", "library": "library",
        "target_library": "target library", "runaway": "largest runaway", "reasons": "reasons",
    }  # fmt: skip
    for name, rows, columns in (
        ("scores", scores, {c: c for c in (*about, *figures)}),
        ("units", units, {c: c for c in (*about, "unit", "pearson")}),
        ("comparisons", result["comparisons"], {c: c for c in compared}),
        ("fitness", fitness, checked),
    ):
        table = pd.DataFrame([{columns[c]: r[c] for c in columns} for r in rows])
        path = folder / f"any-data-{name}.csv"
        table.to_csv(path, index=False, float_format="%.5g", lineterminator="\n")


def markdown(result: dict[str, Any]) -> str:
    """Return the tables as text."""
    parts = [
        "# Closed-form effects on data that no recipe was tuned on",
        "Made by `python -m benchmarks.any_data`; `PROTOCOL.md` says what is compared.",
        "## Scores",
        _table(
            ["set", "tier", "predictor", "units", "Pearson", "worst unit", "MSE"],
            [
                [
                    r["set"], f"{r['tier']} {r['variant']}".strip(), r["predictor"],
                    str(r["units"]), f"{r['pearson']:.3f}",
                    f"{r['worst_pearson']:.2f} {r['worst']}", f"{r['mse']:.5f}",
                ]
                for r in result["scores"]
            ],
        ),
        "## Non-inferiority",
        f"Margins: Pearson −{PEARSON_MARGIN}, MSE × {MSE_MARGIN}; one-sided paired t over units, "
        f"Holm within a set and predictor, level {LEVEL}. MSE difference: relative.",
        _table(
            ["set", "tier", "predictor", "against", "metric", "difference", "p (Holm)",
             "worst unit", "verdict"],
            [
                [
                    r["set"], r["tier"], r["predictor"], r["simple"], r["metric"],
                    f"{r['difference']:+.3f}", f"{r['p']:.2g}", f"{r['worst']:+.2f} {r['unit']}",
                    r["verdict"],
                ]
                for r in result["comparisons"]
            ],
        ),
        "## Fitness of moved cells",
        _table(
            ["set", "conditions", "fit", "with certain genes", "slope", "least Pearson",
             "library", "largest runaway", "unfit"],
            [_fitness_row(name, rows) for name, rows in result["fitness"].items()],
        ),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _fitness_row(name: str, rows: list[dict[str, Any]]) -> list[str]:
    slopes = [r["slope"] for r in rows if r["slope"] is not None]
    correlations = [r["pearson"] for r in rows if r["pearson"] is not None]
    libraries = [r["library"] for r in rows]
    unfit = [r for r in rows if r["reasons"]]
    named = "; ".join(
        f"{r['condition']} in {r['context']}: {', '.join(r['reasons'])}" for r in unfit
    )
    return [
        name, str(len(rows)), str(len(rows) - len(unfit)), str(len(slopes)),
        f"{min(slopes):.2f} to {max(slopes):.2f}" if slopes else "not estimable",
        f"{min(correlations):.3f}" if correlations else "not estimable",
        f"{min(libraries):.2f} to {max(libraries):.2f}",
        f"{max(r['runaway'] for r in rows):.2f}", named or "none",
    ]  # fmt: skip


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
