"""Markdown tables of an evaluation, made from its evidence so that both always agree.

Knows nothing of how the figures came about.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lingshu_model.evaluate.curve import Curve
from lingshu_model.evaluate.effects import NOTHING
from lingshu_model.evaluate.pairing import PairingGain
from lingshu_model.evaluate.sample import HIGHER_IS_BETTER

UNDEFINED = "n/a"
NEARLY_ONE = 0.99
BESIDE = ("model", "verdicts", "ratio_to_half")
TIERS = {
    "seen": "held-out cells of conditions trained on",
    "seen_elsewhere": "a context it was never trained in",
}


def report_tables(evidence: Mapping[str, Any]) -> str:
    """Return every table of an evidence file as Markdown."""
    parts: list[str] = []
    for tier, title in TIERS.items():
        found = evidence["tiers"][tier]
        if found:
            parts += _tier_tables(found, title)
    distribution = evidence["distribution"]
    for name, metrics in distribution["groups"].items():
        n = distribution["pools_of_groups"][name]
        mean = f", mean over {n}" if n > 1 else ""
        parts += [f"### Distributions: {name}{mean}", distribution_table(metrics)]
    for name, found in evidence["composition"].items():
        parts += [f"### Cells recognised as what they are: {name}", composition_table(found)]
    parts += ["### Copies of training cells", copy_table(evidence["copies"])]
    for name, found in evidence["scores"].items():
        parts += [
            f"### Metrics of the Virtual Cell Challenges, over the panel's genes: {name}",
            score_table(found["table"]),
            "### Scaled: 0 = the held-out cells' mean response, 1 = one half of them for the other",
            scaled_table(found),
        ]
    return "\n\n".join(parts) + "\n"


def _tier_tables(found: Mapping[str, Any], title: str) -> list[str]:
    parts = [
        f"### Pearson and magnitude of the mean change, {title}",
        effect_table(found["table"]),
        f"### By perturbation, {title}",
        perturbation_table(found["per_perturbation"]),
    ]
    for source, rows in found.get("other_sources", {}).items():
        parts += [f"### The same, {source}", effect_table(rows)]
    for name, response in found.get("responses", {}).items():
        for controls, each in response["figures"].items():
            n, m = each["n_cells"]
            parts += [
                f"### {name}: figures against {controls} ({n} perturbed, {m} control)",
                response_table(each["figures"]),
            ]
        parts += [
            f"### {name}: distance of cells from {response['cells']['n_cells']} real ones",
            cells_table(response["cells"]),
            f"### {name}: genes that should rise, log1p_cp10k",
            set_table(response["sets"]),
        ]
    return parts


def response_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one line per predictor: every figure and what the model's says against it."""
    header = ["predictor"]
    for name in figures:
        header += [name, "verdict"]
    lines = [["model", *_spread([(_figure(f["model"]), "") for f in figures.values()])]]
    for baseline in next(iter(figures.values()))["baselines"]:
        each = [f["baselines"][baseline] for f in figures.values()]
        lines.append([baseline, *_spread([(_figure(e), e["verdict"]) for e in each])])
    halves = [f["half"] for f in figures.values()]
    n = " and ".join(map(str, halves[0]["n_cells"]))
    lines.append([f"split half ({n})", *_spread([(_figure(h), h["verdict"]) for h in halves])])
    at_half = _spread([(_figure(h["model_at_half"]), "") for h in halves])
    lines.append(["model against that half", *at_half])
    lines.append(["bound", *_spread([(_number(f["bound"]), "") for f in figures.values()])])
    own = _spread([(_figure(f["monte_carlo"]), "") for f in figures.values()])
    lines.append(["model, Monte Carlo", *own])
    return _table(header, lines)


def _spread(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [cell for pair in pairs for cell in pair]


def cells_table(cells: Mapping[str, Any]) -> str:
    """Return one line per source: its metrics and what the model's say against them."""
    metrics = [name for name in cells if name != "n_cells"]
    header = ["source"]
    for name in metrics:
        header += [name, "verdict"]
    lines = [
        [
            source,
            *_spread(
                [(_figure(cells[m][source]), cells[m][source]["verdict"] or "") for m in metrics]
            ),
        ]
        for source in cells[metrics[0]]
    ]
    return _table(header, lines)


def set_table(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one line per gene set: its mean change in the real cells, the model and baselines."""
    if not sets:
        return "No gene set was asked for."
    baselines = list(next(iter(sets.values()))["baselines"])
    header = ("set", "genes", "real", "model", *baselines)
    return _table(
        header,
        (
            [name, str(row["genes"]), _figure(row["real"]), _figure(row["model"])]
            + [_number(row["baselines"][b]) for b in baselines]
            for name, row in sets.items()
        ),
    )


def composition_table(found: Mapping[str, Any]) -> str:
    """Return one line per type and one of the whole: shares recognised, markers recovered."""
    sources = list(found["recognised"])
    header = ["type", "cells"]
    header += [f"{s}: recognised" for s in sources] + [f"{s}: markers" for s in sources]
    lines = [
        [kind, str(n)]
        + [_number(found["recognised"][s][kind]) for s in sources]
        + [_number(found["markers"][s][kind]) for s in sources]
        for kind, n in found["n_cells"].items()
    ]
    distances = [_number(found["distance"][s]) for s in sources]
    lines.append(["variation distance of the composition", "", *distances, *[""] * len(sources)])
    return _table(header, lines)


def effect_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per set and predictor."""
    header = (
        "set",
        "predictor",
        "Pearson",
        "by seed",
        "model minus it",
        "verdict",
        "bound",
        "‖·‖ ratio",
        "Monte Carlo",
    )
    return _table(header, (_effect_line(row) for row in rows))


def _effect_line(row: Mapping[str, Any]) -> list[str]:
    seeds = " / ".join(_number(seed["value"]) for seed in row["seeds"])
    name = row["predictor"]
    pearson = "undefined, scored 0" if name in NOTHING else _figure(row["pearson"])
    return [
        f"{row['set']} ({row['n_perturbations']})",
        name,
        pearson,
        seeds,
        _figure(row["difference"]),
        row["verdict"] or "",
        _number(row["bound"]),
        _figure(row["magnitude_ratio"]),
        _figure(row["monte_carlo"]) if row["monte_carlo"] else "",
    ]


def perturbation_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one line per perturbation, the best predicted first."""
    header = ("perturbation", "Pearson", "replicate reference", "bound", "‖·‖ ratio", "n test")
    ordered = sorted(rows.items(), key=lambda item: -(item[1]["pearson"] or 0.0))
    return _table(
        header,
        (
            [
                name,
                _figure({"value": row["pearson"], "interval": row["interval"]}),
                _number(row["reference"]),
                _number(row["bound"]),
                _number(row["magnitude_ratio"]),
                str(row["n_test_cells"]),
            ]
            for name, row in ordered
        ),
    )


def distribution_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one line per metric, each source against one real half."""
    sources = [name for name in next(iter(metrics.values())) if name not in BESIDE]
    ordered = ["model", *sorted(sources)]
    header = ("metric", *ordered, "model / half", *(f"model against {b}" for b in sorted(sources)))
    lines = [
        [
            name + (" ↑" if name in HIGHER_IS_BETTER else ""),
            *(_figure(row[source]) for source in ordered),
            _number(row["ratio_to_half"]),
            *(row["verdicts"][baseline] for baseline in sorted(sources)),
        ]
        for name, row in metrics.items()
    ]
    return _table(header, lines)


def copy_table(copies: Mapping[str, Any]) -> str:
    """Return one line per seed."""
    header = (
        "source",
        "cells",
        "exact copies (sampled, real)",
        "near copies, UMI",
        "genes",
        "smallest p",
    )
    lines = _table(header, map(_copy_line, copies["sources"], copies["per_seed"]))
    said = "more often than" if copies["more_than_real"] else "no more often than"
    return f"{lines}\n\nSampled cells copy training cells {said} real held-out cells do."


def _copy_line(source: str, check: Mapping[str, Any]) -> list[str]:
    exact = check["exact_copies"]
    near = [
        f"{_number(kinds['sampled'])}, {_number(kinds['real'])}"
        for kinds in (check["near_copies"][m] for m in ("cityblock", "hamming"))
    ]
    smallest = min(check["p"].values())
    return [
        source,
        str(check["n_cells"]),
        f"{exact['sampled']}, {exact['real']}",
        *near,
        f"{smallest:.2g}",
    ]


def score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per metric and predictor, the model first."""
    header = ("metric", "predictor", "value", "model minus it", "verdict")
    return _table(
        header,
        (
            [
                row["metric"],
                row["predictor"],
                _figure(row),
                _figure(row["difference"]),
                row["verdict"] or "",
            ]
            for row in rows
        ),
    )


def scaled_table(scores: Mapping[str, Any]) -> str:
    """Return one line per scaled metric with the values its ends stand for, and their mean."""
    predictors = list(scores["scaled"])
    ends = scores["scale"]
    return _table(
        ("metric", "at 0", "at 1", *predictors),
        (
            [
                metric,
                *(_number(ends[end].get(metric)) for end in ("baseline", "replicate")),
                *(_number(scores["scaled"][name][metric]) for name in predictors),
            ]
            for metric in scores["scaled"][predictors[0]]
        ),
    )


def curve_table(curve: Curve) -> str:
    """Return one line per number of steps, and what real halves and training cells reach."""
    metrics = list(curve.points[0].metrics)
    header = ("steps", "s per cell", *metrics, "Pearson of the change", "‖·‖ ratio")
    lines = [
        [
            str(p.steps),
            f"{p.seconds_per_cell:.3g}",
            *(_figure(e.as_json()) for e in p.metrics.values()),
        ]
        + [_figure(e.as_json()) if e else "" for e in (p.pearson, p.magnitude)]
        for p in curve.points
    ]
    lines += [
        [source, "", *(_figure(e.as_json()) for e in found.values()), "", ""]
        for source, found in curve.beside.items()
    ]
    return f"### Quality against steps\n\n{_table(header, lines)}\n"


def pairing_table(gains: Mapping[int, Mapping[str, PairingGain]], n_cells: int) -> str:
    """Return the ratios of Monte Carlo variances, independent over paired cells."""
    header = ("steps", "knock-out", "all genes", "median gene", "score", "score SE, paired / apart")
    lines = (
        [
            str(steps),
            name,
            *(_figure(e.as_json()) for e in (gain.genes_total, gain.genes_median, gain.score)),
            f"{gain.score_se[0]:.2g} / {gain.score_se[1]:.2g}",
        ]
        for steps, by_name in gains.items()
        for name, gain in by_name.items()
    )
    title = f"### Variance of a change, independent over paired, {n_cells} cells"
    return f"{title}\n\n{_table(header, lines)}\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None or figure["value"] != figure["value"]:
        return UNDEFINED
    low, high = figure["interval"]
    span = "" if low is None or low != low else f" [{_number(low)}, {_number(high)}]"
    return f"{_number(figure['value'])}{span}"


def _number(value: float | None) -> str:
    # Four digits, so that a correlation of 0.9993 is not 1.
    return (
        UNDEFINED
        if value is None
        else f"{value:.4g}"
        if abs(value) > NEARLY_ONE
        else f"{value:.3g}"
    )
