"""`python -m docs.builder.figures FOLDER`: the figures of the documentation.

Four are drawn from files of this repository (the shipped checkpoint, its evidence, the shipped
ledger), two from 256 cells of each arm of an experiment, which starts an engine. `sources.json`
holds the digests of what they were drawn from, so that a test can say when they are old.
"""

import hashlib
import json
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "model" / "lingshu_model" / "checkpoints" / "thp1-crispr"
LEDGER = ROOT / "experiments.db"
STRONG, WEAK, LINE = "#0b6e4f", "#b0b7bf", "#c2410c"
N_CELLS = 256
SHOWN = 8
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lingshu-tools",
    "figure.dpi": 100,
    "savefig.bbox": "tight",
}


def sources() -> dict[str, str]:
    """Return the digest of every file that the figures are drawn from."""
    files = [CHECKPOINT.with_name("thp1-crispr.digests.json"), LEDGER]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read_json(name: str) -> Any:
    """Return a JSON file of the checkpoint."""
    return json.loads((CHECKPOINT / name).read_text("utf-8"))


def effects(genes: Sequence[Any]) -> Figure:
    """Draw the effect of losing STAT1: means, intervals, and what is supported."""
    # Strongest genes, and some from further down the list.
    shown = [*genes[:12], *genes[60:66]]
    figure, axes = plt.subplots(figsize=(6, 3.4))
    for place, gene in enumerate(shown):
        colour = STRONG if gene.certainty == "supported" else WEAK
        axes.plot(gene.interval, [-place, -place], color=colour, lw=1.5)
        axes.plot(gene.model_mean, -place, "o", ms=4, color=colour)
    axes.set_yticks([-place for place in range(len(shown))], [g.gene for g in shown], fontsize=7)
    axes.axvline(0, color="black", lw=0.6)
    axes.set_xlabel("change after loss of STAT1 (log1p_cp10k), 95 % in a new experiment")
    axes.set_title("green: supported (lfsr ≤ 0.05);  grey: not", fontsize=9, loc="left")
    return figure


def effect_rows() -> list[dict[str, Any]]:
    """Return the conditions of the stored effects, in their order."""
    return read_json("config.json")["effects"]["rows"]


def _target(row: dict[str, Any]) -> str:
    [intervention] = row["interventions"]
    return intervention["target"]


def evidence(conditions: Sequence[Any]) -> Figure:
    """Draw the held-out figure of each knock-out beside that of the best simple predictor."""
    figure, axes = plt.subplots(figsize=(6, 3.4))
    ordered = sorted(conditions, key=lambda row: -row.value)
    for place, row in enumerate(ordered):
        low, high = row.interval
        colour = STRONG if low > 0 else WEAK
        axes.plot([place, place], [low, high], color=colour, lw=1.5)
        axes.plot(place, row.value, "o", ms=4, color=colour)
        axes.plot(place, row.best_simple_value, "_", ms=8, mew=1.6, color=LINE)
    axes.axhline(0, color="black", lw=0.6)
    names = [row.condition.removesuffix(" knockout") for row in ordered]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_ylabel("Pearson of change, held out")
    title = "dot: checkpoint, 95 % (grey: not above 0);  dash: best simple predictor"
    axes.set_title(title, fontsize=9, loc="left")
    return figure


def null_labels() -> Figure:
    """Draw magnitudes of null labels beside those of the knock-outs."""
    checks = read_json("evidence.json")["null_labels"]
    mean = load_file(CHECKPOINT / "effects-rows-00.safetensors")["mean"]
    sizes = {
        _target(row): (float(np.linalg.norm(mean[i])), row["n_cells"][0])
        for i, row in enumerate(effect_rows())
        if row["interventions"][0]["kind"] != "sham"
    }
    figure, axes = plt.subplots(figsize=(6, 2.8))
    ordered = sorted(sizes, key=lambda name: -sizes[name][0])
    for place, name in enumerate(ordered):
        size, n_cells = sizes[name]
        # Null labels of about as many cells.
        check = min(checks, key=lambda c: abs(np.log(c["n_cells"] / n_cells)))
        limit = check["magnitude_quantiles"]["0.95"]
        axes.bar(place, size, color=STRONG if size > limit else WEAK)
        axes.plot([place - 0.4, place + 0.4], [limit, limit], color=LINE, lw=1.5)
    axes.set_yscale("log")
    axes.set_ylim(0.03, 12)
    axes.set_xticks(range(len(ordered)), ordered, rotation=90, fontsize=7)
    axes.set_ylabel("magnitude (log1p_cp10k)")
    title = "bar: a knock-out;  line: 95 % of null labels of about as many cells"
    axes.set_title(title, fontsize=9, loc="left")
    return figure


def chain() -> Figure:
    """Draw the first rows of the shipped ledger as links of its chain."""
    with sqlite3.connect(f"file:{LEDGER}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT seq, kind, row_hash, hash FROM chain ORDER BY seq LIMIT 6")
        links = rows.fetchall()
    figure, axes = plt.subplots(figsize=(7, 1.9))
    for place, (seq, kind, row_hash, link) in enumerate(links):
        x = place * 1.25
        axes.add_patch(plt.Rectangle((x, 0), 1, 1, fill=False, lw=1.2, ec=STRONG))
        axes.text(x + 0.5, 0.8, str(seq), ha="center", fontsize=7)
        axes.text(x + 0.5, 0.6, kind, ha="center", weight="bold", fontsize=7)
        axes.text(x + 0.5, 0.4, f"row {row_hash[7:13]}", ha="center", fontsize=7)
        axes.text(x + 0.5, 0.18, f"hash {link[7:13]}", ha="center", fontsize=7, color=LINE)
        if place:
            arrow = {"arrowstyle": "->", "color": LINE}
            axes.annotate("", (x, 0.2), (x - 0.25, 0.2), arrowprops=arrow)
    axes.set_xlim(-0.05, 1.25 * len(links))
    axes.set_ylim(-0.1, 1.1)
    axes.axis("off")
    return figure


@dataclass(frozen=True)
class Sampled:
    """Counts [cells, genes] of both arms, the genes; held-out figures; rows of the effect."""

    control: np.ndarray
    perturbed: np.ndarray
    genes: list[str]
    conditions: Sequence[Any]
    effect: Sequence[Any]


def sampled(ranking: Path | None = None) -> Sampled:
    """Return the arms of the STAT1 knock-out, sampled by an engine that ends afterwards.

    With `ranking` the ranking of the demo's screen is drawn into that file by `plot_experiment`.
    """
    import anndata

    from lingshu_tools import Lab

    with tempfile.TemporaryDirectory() as home, Lab(Path(home)) as lab:
        knock_out = [{"kind": "knockout", "target": "STAT1"}]
        call = {"interventions": knock_out, "n_cells": N_CELLS, "wait_s": 45}
        effect = lab.perturb_cells(checkpoint="thp1-crispr", **call)
        while effect.status in ("queued", "running"):
            effect = lab.get_experiment(id=effect.experiment_id, wait_s=45)
        arms = lab.export_experiment(id=effect.experiment_id, wait_s=45)
        rows = lab.get_experiment(id=effect.experiment_id, detail="effects", limit=80)
        [about] = lab.describe_model(checkpoint="thp1-crispr", limit=60).checkpoints
        cells = anndata.read_h5ad(arms.path)
        if ranking is not None:
            _ranking(lab, ranking)
        lab.app.engine.shutdown()
    is_control = (cells.obs["arm"] == "control").to_numpy()
    counts = cells.X.toarray()
    conditions = [row for row in about.held_out if row.tier == "seen"]
    genes = list(cells.var_names)
    return Sampled(counts[is_control], counts[~is_control], genes, conditions, rows.genes)


def _ranking(lab: Any, file: Path) -> None:
    question = {"objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]}, "candidates": ["all_seen"]}
    screen = lab.run_screen(checkpoint="thp1-crispr", wait_s=45, **question)
    while screen.status in ("queued", "running"):
        screen = lab.run_screen(screen_id=screen.screen_id, wait_s=45)
    plot = lab.plot_experiment(id=screen.screen_id, kind="ranking", top=SHOWN, wait_s=45)
    file.write_bytes(Path(plot.png).read_bytes())
    file.chmod(0o644)


def cell(control: np.ndarray) -> Figure:
    """Draw what a virtual cell is: counts of genes, and how well their means fit."""
    reference = load_file(CHECKPOINT / "reference.safetensors")
    seen = [condition["interventions"] for condition in read_json("config.json")["seen"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8))
    left.imshow(np.log1p(control[:40, :80]), aspect="auto", cmap="Greens")
    left.set_xlabel("80 of 299 genes")
    left.set_ylabel("40 sampled cells")
    left.set_title("UMI counts, ln(1 + c)", fontsize=9, loc="left")
    trained = reference["mean_count"][seen.index([])]
    right.loglog(trained + 1e-3, control.mean(axis=0) + 1e-3, ".", ms=3, color=STRONG)
    limits = [1e-3, float(trained.max()) * 1.3]
    right.plot(limits, limits, color="black", lw=0.6)
    right.set_xlabel("mean UMI, training cells")
    right.set_ylabel("mean UMI, sampled cells")
    figure.tight_layout()
    return figure


def pairing(control: np.ndarray, perturbed: np.ndarray, genes: list[str]) -> Figure:
    """Draw one gene of paired cells, and the standard error with and without pairing."""
    levels = [np.log1p(10_000 * c / c.sum(axis=1, keepdims=True)) for c in (control, perturbed)]
    difference = levels[1] - levels[0]
    paired = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
    apart = np.sqrt(sum(x.var(axis=0, ddof=1) / len(x) for x in levels))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8))
    gene = genes.index("B2M") if "B2M" in genes else int(np.argmax(control.mean(axis=0)))
    _joined(left, levels, gene)
    left.set_title(genes[gene], fontsize=9, loc="left")
    left.set_ylabel("log1p_cp10k")
    right.plot(apart, paired, ".", ms=3, color=STRONG)
    limits = [0.0, float(apart.max()) * 1.05]
    right.plot(limits, limits, color="black", lw=0.6)
    right.set_xlabel("standard error, independent cells")
    right.set_ylabel("standard error, paired cells")
    figure.tight_layout()
    return figure


def _joined(axes: Axes, levels: list[np.ndarray], gene: int) -> None:
    """Join 60 control cells to the perturbed cells that share their random stream."""
    for i in range(60):
        axes.plot([0, 1], [level[i, gene] for level in levels], lw=0.4, color=WEAK)
    for x, level in enumerate(levels):
        axes.plot(np.full(60, x), level[:60, gene], ".", ms=3, color=STRONG)
    axes.set_xticks([0, 1], ["control", "STAT1 lost"])


def main(folder: str) -> None:
    """Draw every figure into a folder, and record the digests of their sources."""
    out = Path(folder)
    mpl.use("agg")
    with plt.rc_context(STYLE):
        cells = sampled(out / "ranking.png")
        drawn = {
            "cell": cell(cells.control),
            "effects": effects(cells.effect),
            "evidence": evidence(cells.conditions),
            "pairing": pairing(cells.control, cells.perturbed, cells.genes),
            "null-labels": null_labels(),
            "chain": chain(),
        }
        for name, figure in drawn.items():
            figure.savefig(out / f"{name}.png", metadata={"Software": None})
    (out / "sources.json").write_text(json.dumps(sources(), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
