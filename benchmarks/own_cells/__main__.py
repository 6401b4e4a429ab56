"""`python -m benchmarks.own_cells --data DATA --out OUT`: a user's cells against truth.

DATA is the folder of the public files (kang2018, pbmc3k, cellxgene220). Everything goes through the
tools, with a separate engine below OUT. What is there is not computed again. Figures are printed
as Markdown and written to OUT/tables.md.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import click
import numpy as np

from benchmarks.own_cells.folds import FILE, simple_predictors, trained
from lingshu_model.contracts import Catalogue, Cells, decode_cells
from lingshu_model.contracts.catalogue import SHIPPED
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.results import Result
from lingshu_tools.errors import LingshuError
from lingshu_tools.user_cells import Roots

IFN_BETA = [{"kind": "cytokine", "target": "IFN-beta"}]
FOLDS: Mapping[str, tuple[str, str | None, Sequence[str]]] = {
    # name: donor and type that training lacks, types that are predicted
    "kang-no-1015": ("1015", None, ("CD4 T cells", "CD14+ Monocytes", "B cells")),
    "kang-no-101": ("101", None, ("CD4 T cells", "CD14+ Monocytes")),
    "kang-no-1015-cd4-t-cells": ("1015", "CD4 T cells", ("CD4 T cells",)),
    "kang-no-1015-cd14-monocytes": ("1015", "CD14+ Monocytes", ("CD14+ Monocytes",)),
}
STRONGEST = 50
PARTS = ("perturbed", "scored", "completed", "genes")
DRAWS = 2
"""Seeds of a completion, whose mean is compared."""
SETS = {
    "pbmc3k": ("pbmc3k.h5ad", ("B", "CD14+ Mono"), "training data"),
    "cellxgene220": (
        "cellxgene220.h5ad",
        ("B cell", "T cell", "embryonic fibroblast"),
        "not seen",
    ),
}


@dataclass(frozen=True)
class Bench:
    """One run: the data, the folder and the application."""

    data: Path
    out: Path
    app: App

    def call(self, tool: str, **arguments: Any) -> Result:
        """Return a result of a tool, waiting as long as it takes."""
        while True:
            result = call(self.app, tool, {**arguments, "wait_s": 45})
            if result.status not in ("queued", "running"):
                return result

    def cells(self, result: Result, role: str) -> Cells:
        """Return the cells of an arm of an experiment."""
        outcome = self.app.ledger.outcome(result.experiment_id or "")
        assert outcome is not None
        return decode_cells(self.app.ledger.get_object(outcome.artifacts[role]))


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--fold", "folds", multiple=True, type=click.Choice([*FOLDS]), help="Only these.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only these.")
@click.option("--cells", default=64, help="Cells of a scoring or completing call.")
def main(data: Path, out: Path, folds: tuple[str, ...], parts: tuple[str, ...], cells: int) -> None:
    """Compare what the tools say of a user's cells with truth."""
    data, out = data.resolve(), out.resolve()
    parts = parts or PARTS
    chosen = (folds or tuple(FOLDS)) if "perturbed" in parts else ()
    for name in chosen:
        if not (out / "folds" / name / "checkpoint").is_dir():
            donor, cell_type, _ = FOLDS[name]
            trained(data, out / "folds" / name, name, donor, cell_type)
    roots = [out / "folds" / name / "checkpoint" for name in chosen]
    (out / "files").mkdir(parents=True, exist_ok=True)
    os.environ["LINGSHU_CHECKPOINTS"] = os.pathsep.join(map(str, roots))
    app = App(out / "home", catalogue=Catalogue([*roots, SHIPPED]))
    for folder in (data, out / "files"):
        Roots(app.home).add(folder)
    bench = Bench(data, out, app)
    lines: list[str] = []
    try:
        makers = {
            "perturbed": lambda: _perturbed(bench, chosen),
            "scored": lambda: _scored(bench, cells),
            "completed": lambda: _completed(bench, cells),
            "genes": lambda: _genes(bench),
        }
        for part in parts:
            for line in makers[part]():
                click.echo(line)
                lines.append(line)
    finally:
        app.close()
        app.engine.shutdown()
    (out / "tables.md").write_text("\n".join(lines) + "\n", "utf-8")


def _perturbed(bench: Bench, folds: Sequence[str]) -> Iterator[str]:
    yield "## Perturbed: control cells of a left-out donor against its stimulated cells\n"
    yield (
        "| left out | cells of the user | real stimulated | predictor | Pearson, all genes | "
        f"Pearson, {STRONGEST} strongest | RMSE of change |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name in folds:
        donor, cell_type, types = FOLDS[name]
        left = f"donor {donor}" + (f" and all {cell_type}" if cell_type else "")
        for each in types:
            yield from _one_type(bench, name, left, donor, each)


def _one_type(bench: Bench, name: str, left: str, donor: str, each: str) -> Iterator[str]:
    where = {"donor": donor, "cell_type8": each, "stim": "CTRL"}
    result = bench.call(
        "perturb_cells",
        checkpoint=name,
        interventions=IFN_BETA,
        cells=str(bench.data / FILE),
        cells_where=where,
        n_cells=5000,
    )
    control, moved = (bench.cells(result, role) for role in ("control", "perturbed"))
    panel = bench.app.catalogue.load(name).panel
    file = anndata.read_h5ad(bench.data / FILE)
    mine = (file.obs["donor"].astype(str) == donor) & (file.obs["cell_type8"] == each)
    stimulated = file[(mine & (file.obs["stim"] == "STIM")).to_numpy()]
    names = {str(n) for n in file.var_names}
    # Genes that the panel calls as the file does, so that truth is found by name.
    positions = [i for i, gene in enumerate(panel) if gene in names and control.measured[i]]
    genes = [panel[i] for i in positions]
    truth_counts = stimulated[:, genes].X.toarray()
    before = _levels(control.counts[:, positions]).mean(0)
    truth = _levels(truth_counts).mean(0) - before
    predictions = {
        "carried effect (perturb_cells)": _levels(moved.counts[:, positions]).mean(0) - before,
        **simple_predictors(bench.out / "folds" / name / "train.h5ad", genes, before, each),
    }
    top = np.argsort(-np.abs(truth))[:STRONGEST]
    for predictor, change in predictions.items():
        rmse = float(np.sqrt(((change - truth) ** 2).mean()))
        yield (
            f"| {left} | {each}, {len(control)} | {len(truth_counts)} | {predictor} | "
            f"{_pearson(change, truth)} | {_pearson(change[top], truth[top])} | {rmse:.3f} |"
        )


def _scored(bench: Bench, n: int) -> Iterator[str]:
    yield "\n## Scored with the shipped pbmc checkpoint\n"
    yield (
        "| file | label | cells | best context | bits per gene | next context | paired "
        "difference | verdict | usual share |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, (file, labels, seen) in SETS.items():
        for label in labels:
            result = bench.call(
                "score_cells",
                checkpoint="pbmc",
                cells=str(bench.data / file),
                cells_where={"cell_type": label},
                n_cells=n,
            )
            first, second = result.contexts[:2]
            yield (
                f"| {name} ({seen}) | {label} | {result.n_cells} | {_named(first.context)} | "
                f"{first.bits:.3f} | {_named(second.context)} | {second.more_than_best:.4f} ± "
                f"{2 * (second.more_se or 0):.4f} | {result.typical.verdict} | "
                f"{result.typical.usual_share:.2f} |"
            )


def _completed(bench: Bench, n: int) -> Iterator[str]:
    yield "\n## Completed with the shipped pbmc checkpoint, every fifth gene left out\n"
    yield (
        "| file | label | cells | held-out genes | Pearson of means: drawn | context mean | RMSE "
        "of a cell's level: drawn | context mean | within-gene correlation: drawn |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, (file, labels, seen) in SETS.items():
        for label in labels[:2]:
            yield _one_completion(bench, f"{name} ({seen})", file, label, n)


def _one_completion(bench: Bench, name: str, file: str, label: str, n: int) -> str:
    checkpoint = bench.app.catalogue.load("pbmc")
    cells = anndata.read_h5ad(bench.data / file)
    cells = cells[(cells.obs["cell_type"].astype(str) == label).to_numpy()][:n].copy()
    left_out = np.arange(cells.n_vars) % 5 == 0
    slug = re.sub(r"[^a-z0-9]+", "-", f"{file}-{label}".lower())
    path = bench.out / "files" / f"{slug}.h5ad"
    cells[:, ~left_out].copy().write_h5ad(path)
    draws: list[np.ndarray] = []
    for seed in range(DRAWS):
        result = bench.call(
            "complete_cells", checkpoint="pbmc", cells=str(path), n_cells=n, seed=seed
        )
        draws.append(bench.cells(result, "cells").counts)
    place = {gene: i for i, gene in enumerate(checkpoint.panel)}
    given = bench.cells(result, "given").measured
    row = next(i for i, e in enumerate(checkpoint.config["seen"])
               if e["context"] == result.context and not e["interventions"])  # fmt: skip
    mean = checkpoint.reference["mean_log1p_cp10k"][row]
    held = [
        (place[gene], j)
        for j, gene in enumerate(cells.var_names)
        if left_out[j] and gene in place and not given[place[gene]]
    ]
    held = [(at, j) for at, j in held if np.isfinite(mean[at])]
    panel_at, file_at = (np.array(x) for x in zip(*held, strict=True))
    # Levels of truth and of draws on one library: the counts that the file has.
    library = np.asarray(cells[:, ~left_out].X.sum(1)).reshape(-1, 1)
    truth = np.log1p(1e4 * cells.X[:, file_at].toarray() / library)
    drawn = np.mean([np.log1p(1e4 * d[:, panel_at] / library) for d in draws], axis=0)
    simple = np.broadcast_to(mean[panel_at], truth.shape)
    varied = np.argsort(-truth.var(0))[:200]
    within = [np.corrcoef(drawn[:, g], truth[:, g])[0, 1] for g in varied
              if drawn[:, g].std() and truth[:, g].std()]  # fmt: skip
    rmse = [float(np.sqrt(((x - truth) ** 2).mean())) for x in (drawn, simple)]
    return (
        f"| {name} | {label} | {len(truth)} | {len(held):,} | "
        f"{_pearson(drawn.mean(0), truth.mean(0))} | {_pearson(mean[panel_at], truth.mean(0))} | "
        f"{rmse[0]:.3f} | {rmse[1]:.3f} | {np.mean(within):.3f} |"
    )


def _genes(bench: Bench) -> Iterator[str]:
    yield "\n## Gene report, panel of the shipped pbmc checkpoint (18,080 genes)\n"
    yield "| file | matched | renamed | missing | ambiguous |"
    yield "|---|---|---|---|---|"
    for file in (FILE, "pbmc3k.h5ad", "cellxgene220.h5ad"):
        genes = _dry(bench, bench.data / file).user_cells.genes
        counts = (genes.matched, genes.renamed, genes.missing, genes.ambiguous)
        yield f"| {file} | {' | '.join(f'{n:,}' for n in counts)} |"
    yield "\nThe same cells with mouse names (`Isg15` for `ISG15`) are refused:\n"
    mouse = anndata.read_h5ad(bench.data / FILE)[:50].copy()
    mouse.var_names = [str(gene).capitalize() for gene in mouse.var_names]
    mouse.write_h5ad(bench.out / "files" / "mouse.h5ad")
    try:
        _dry(bench, bench.out / "files" / "mouse.h5ad")
        yield "> it was not refused"
    except LingshuError as error:
        yield f"> {str(error).splitlines()[0]}"


def _dry(bench: Bench, path: Path) -> Result:
    return bench.call(
        "perturb_cells",
        checkpoint="pbmc",
        interventions=IFN_BETA,
        cells=str(path),
        n_cells=50,
        dry_run=True,
    )


def _levels(counts: np.ndarray) -> np.ndarray:
    return np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))


def _pearson(a: np.ndarray, b: np.ndarray) -> str:
    return f"{np.corrcoef(a, b)[0, 1]:.3f}" if np.ptp(a) and np.ptp(b) else "undefined"


def _named(context: Mapping[str, str]) -> str:
    return ", ".join(context.values())


if __name__ == "__main__":
    main()
