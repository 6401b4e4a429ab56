"""Markdown tables of an evaluation, made from its evidence so that both always agree.

Knows nothing of how the figures came about.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lingshu_model.evaluate.pairing import PairingGain

UNDEFINED = "n/a"


def report_tables(evidence: Mapping[str, Any]) -> str:
    """Return every table of an evidence file as Markdown."""
    tier = evidence["tiers"]["seen"]
    parts = [
        "### Pearson and magnitude of the mean change, held-out cells",
        effect_table(tier["table"]),
        "### By perturbation",
        perturbation_table(tier["per_perturbation"]),
        "### Distributions, mean over perturbations",
        distribution_table(evidence["distribution"]["perturbations"]),
        "### Distributions, control",
        distribution_table(evidence["distribution"]["control"]),
        "### Copies of training cells",
        copy_table(evidence["copies"]),
        "### Metrics of the Virtual Cell Challenges, over the panel's genes",
        score_table(evidence["scores"]["table"]),
        "### Scaled: 0 is the held-out cells' own mean response, 1 one half of them for the other",
        scaled_table(evidence["scores"]),
    ]
    return "\n\n".join(parts) + "\n"


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
    )
    return _table(header, (_effect_line(row) for row in rows))


def _effect_line(row: Mapping[str, Any]) -> list[str]:
    seeds = " / ".join(_number(seed["value"]) for seed in row["seeds"])
    name = row["predictor"]
    pearson = "undefined, scored 0" if name == "control_mean" else _figure(row["pearson"])
    return [
        f"{row['set']} ({row['n_perturbations']})",
        name,
        pearson,
        seeds,
        _figure(row["difference"]),
        row["verdict"] or "",
        _number(row["bound"]),
        _figure(row["magnitude_ratio"]),
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


def distribution_table(metrics: Mapping[str, Mapping[str, Any]] | None) -> str:
    """Return one line per metric, each source against one real half; smaller is better."""
    if metrics is None:
        return "Too few held-out cells."
    sources = [name for name in next(iter(metrics.values())) if name != "verdicts"]
    baselines = [name for name in sources if name != "model"]
    ordered = ["model", *sorted(baselines)]
    header = ("metric", *ordered, *(f"model against {b}" for b in sorted(baselines)))
    return _table(
        header,
        (
            [name, *(_figure(row[s]) for s in ordered)]
            + [row["verdicts"][b] for b in sorted(baselines)]
            for name, row in metrics.items()
        ),
    )


def copy_table(copies: Mapping[str, Any]) -> str:
    """Return one line per seed."""
    header = ("cells", "exact copies (sampled, real)", "near copies, UMI", "genes", "smallest p")
    lines = _table(header, (_copy_line(check) for check in copies["per_seed"]))
    said = "more often than" if copies["more_than_real"] else "no more often than"
    return f"{lines}\n\nSampled cells copy training cells {said} real held-out cells do."


def _copy_line(check: Mapping[str, Any]) -> list[str]:
    exact = check["exact_copies"]
    near = [
        f"{_number(kinds['sampled'])}, {_number(kinds['real'])}"
        for kinds in (check["near_copies"][m] for m in ("cityblock", "hamming"))
    ]
    smallest = min(check["p"].values())
    return [
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
    if figure is None or figure["value"] is None:
        return UNDEFINED
    low, high = figure["interval"]
    span = "" if low is None else f" [{_number(low)}, {_number(high)}]"
    return f"{_number(figure['value'])}{span}"


def _number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3g}"
