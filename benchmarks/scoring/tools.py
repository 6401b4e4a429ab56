"""What `cell-eval`, `pdex` and `cell-eval2` say of a screen. Needs them installed."""

import dataclasses
import logging
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import anndata
import cell_eval
import cell_eval2
import numpy as np
import pandas as pd
from cell_eval2.anchor import compute_replicate_anchor
from pdex import pdex
from scipy import sparse

from benchmarks.scoring.made import CONTROL, Screen

PERTURBATION = "target"
SLOW = ["pearson_edistance", "clustering_agreement"]
Values = dict[str, dict[str, float]]


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("cell-eval", "pdex", "cell-eval2", "numpy", "scipy")}


def as_anndata(arms: Mapping[str, Any], genes: list[str]) -> anndata.AnnData:
    labels = np.concatenate([[name] * cells.shape[0] for name, cells in arms.items()])
    obs = pd.DataFrame({PERTURBATION: pd.Categorical(labels)})
    obs.index = [f"cell{i}" for i in range(len(labels))]
    counts = sparse.vstack(list(arms.values()), format="csr")
    return anndata.AnnData(counts, obs, pd.DataFrame(index=genes))


@dataclasses.dataclass
class Ranked:
    """U, p and adjusted p of every perturbation (sorted) and gene."""

    u: np.ndarray
    p: np.ndarray
    adjusted: np.ndarray
    fold: np.ndarray


def rank_test(cells: anndata.AnnData) -> Ranked:
    """Return pdex's test of log1p cells against the control, called as cell-eval calls it."""
    table = pdex(
        cells, PERTURBATION, mode="ref", is_log1p=True, epsilon=0.0, reference=CONTROL
    ).to_pandas()
    columns = ("statistic", "p_value", "fdr", "log2_fold_change")
    wide = [table.pivot(index="target", columns="feature", values=c) for c in columns]
    return Ranked(*(frame[cells.var_names].to_numpy() for frame in wide))


def ranked_cell_eval(screen: Screen) -> list[Ranked]:
    """Return the tests of both sides, normalised as cell-eval does."""
    sides = (screen.real, screen.predicted)
    evaluator = cell_eval.MetricsEvaluator(
        *(as_anndata(arms, screen.genes) for arms in reversed(sides)),
        control_pert=CONTROL,
        pert_col=PERTURBATION,
        outdir=tempfile.mkdtemp(),
        skip_de=True,
    )
    return [rank_test(evaluator.anndata_pair.real), rank_test(evaluator.anndata_pair.pred)]


def ranked_cell_eval2(screen: Screen) -> list[Ranked]:
    """Return the tests of both sides against the real control, normalised as cell-eval2 does."""
    from cell_eval2.de_compute import _cpm_log1p

    sides = (screen.real, {**screen.predicted, CONTROL: screen.real[CONTROL]})
    return [rank_test(_cpm_log1p(as_anndata(arms, screen.genes))) for arms in sides]


def run_cell_eval(screen: Screen) -> tuple[Values, dict[str, float]]:
    """Return cell-eval's values by metric and perturbation, and their means."""
    with tempfile.TemporaryDirectory() as folder:
        evaluator = cell_eval.MetricsEvaluator(
            as_anndata(screen.predicted, screen.genes),
            as_anndata(screen.real, screen.genes),
            control_pert=CONTROL,
            pert_col=PERTURBATION,
            outdir=folder,
        )
        table, means = evaluator.compute(skip_metrics=SLOW, write_csv=False, break_on_error=True)
    frame = table.to_pandas().set_index("perturbation")
    row = means.filter(means["statistic"] == "mean").drop("statistic").row(0, named=True)
    return {m: frame[m].to_dict() for m in frame}, row


def run_cell_eval2(screen: Screen) -> tuple[Values, dict[str, float]]:
    """Return cell-eval2's values by metric and perturbation, and their aggregates."""
    config = preset()
    table = cell_eval2.compute_metrics(
        as_anndata(screen.predicted, screen.genes),
        as_anndata(screen.real, screen.genes),
        config=config,
    )
    values: Values = {}
    for name, metric, value in table.iter_rows():
        values.setdefault(metric, {})[name] = value
    means = cell_eval2.aggregate_metrics(table, metrics=members())
    return values, dict(means.select("metric", "mean").iter_rows())


def ends(screen: Screen) -> tuple[dict[str, float], dict[str, float]]:
    """Return cell-eval2's baseline and replicate by metric."""
    real = as_anndata(screen.real, screen.genes)
    base = cell_eval2.build_generic_baseline(real, config=preset(), allow_degenerate=True).agg
    row = base.filter(base["statistic"] == "mean").drop("statistic").row(0, named=True)
    _, anchor = compute_replicate_anchor(real, config=preset())
    replicate = dict(anchor.select("metric", "replicate").iter_rows())
    return ({m: row[m] for m in members()}, {m: replicate[m] for m in members()})


def members() -> list[str]:
    from cell_eval2.competition import competition_members

    return list(competition_members())


def preset() -> Any:
    config = cell_eval2.EvalConfig.from_preset("vcc2026")
    tests = dataclasses.replace(config.de, backend="pdex")
    return dataclasses.replace(config, pert_col=PERTURBATION, device="cpu", de=tests)


def quietly() -> None:
    """Keep the tools' progress and warnings off the terminal."""
    logging.disable(logging.CRITICAL)
