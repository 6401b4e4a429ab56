"""A checkpoint's combinations against the truth and the baselines.

`python -m benchmarks.combinations.evaluate NAME --folder DIR --checkpoint DIR`; NAME is what a
`make_…` command wrote (`k562-semisynthetic`, `regulation`). Without `--checkpoint` only the simple
predictors are compared. Cells are sampled paired with control's and kept under the folder, so that
a second run makes only the tables.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import anndata
import click
import numpy as np
from tqdm import tqdm

from benchmarks.combinations.predictors import Predictor, Trained
from benchmarks.combinations.scoring import Bootstrap, Changes, Scorer, Scores
from benchmarks.combinations.truth import Floats, Targets, Truth, change
from lingshu_model.contracts import Catalogue, Intervention
from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.network import numerics
from lingshu_model.train.data.cells import Condition

MODEL = "model"
Held = Mapping[int, Sequence[Targets]]


@click.command(context_settings={"show_default": True})
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/combinations"))
@click.option("--checkpoint", type=click.Path(path_type=Path), help="A folder of `lingshu train`.")
@click.option("--n-cells", default=512, help="Sampled per condition.")
@click.option("--seed", default=0, help="Of the sampled cells.")
@click.option("--workers", default=1, help="Tiles at a time.")
def main(
    name: str, folder: Path, checkpoint: Path | None, n_cells: int, seed: int, workers: int
) -> None:
    """Print the tables of NAME and write them beside its cells."""
    numerics.prepare(1)
    truth = Truth.read(folder / f"{name}.truth.npz")
    trained = Trained.of(anndata.read_h5ad(folder / f"{name}.h5ad"), truth)
    sizes = sorted({len(c) for c in truth.conditions} - {0, 1})
    held = {k: truth.of(k, trained=False) for k in sizes}
    models: dict[str, Changes] = {}
    if checkpoint:
        models[MODEL] = sampled(_store(checkpoint, folder, n_cells, workers), truth, held, seed)
    reports = []
    for size, conditions in held.items():
        # Beyond triples would need every triple of a quadruple.
        for order in range(1, min(size, 3)):
            reports.append(_report(truth, conditions, order, trained, models))
    text = "\n".join(_tables(reports))
    click.echo(text)
    stem = f"{name}.{checkpoint.name if checkpoint else 'baselines'}"
    (folder / f"{stem}.md").write_text(text + "\n", "utf-8")
    (folder / f"{stem}.results.json").write_text(json.dumps(reports, indent=1) + "\n", "utf-8")


def sampled(store: ArmStore, truth: Truth, held: Held, seed: int) -> dict[Targets, Floats]:
    """Return the model's change of the held-out combinations and of their parts."""
    control = _share(store, truth, frozenset(), seed)
    return {
        c: change(_share(store, truth, c, seed), control)
        for c in tqdm(_wanted(held), unit="condition", disable=None)
    }


def _wanted(held: Held) -> list[Targets]:
    whole = [c for conditions in held.values() for c in conditions]
    parts = {frozenset(p) for c in whole for k in (1, 2) for p in combinations(sorted(c), k)}
    return sorted({*parts, *whole}, key=lambda c: (len(c), sorted(c)))


def _share(store: ArmStore, truth: Truth, condition: Targets, seed: int) -> Floats:
    kind = store.checkpoint.config["kinds"][0]
    parts = tuple(Intervention(kind=kind, target=target) for target in sorted(condition))
    (context,) = store.checkpoint.contexts
    cells = store.counts(Condition(tuple(sorted(context.items())), parts), seed)
    counts = np.asarray(cells.sum(axis=0), np.float64).ravel()
    if tuple(store.checkpoint.panel) != truth.genes:
        raise click.ClickException("the checkpoint's panel is not that of the cells")
    return counts / counts.sum()


def _store(folder: Path, out: Path, n_cells: int, workers: int) -> ArmStore:
    checkpoint = Catalogue([folder.resolve().parent]).load(folder.resolve().name)
    chosen = checkpoint.config["sampler"]
    return ArmStore(
        checkpoint, out / "cells", n_cells, chosen["steps"], chosen["guidance"], workers=workers
    )


def _report(
    truth: Truth,
    conditions: Sequence[Targets],
    order: int,
    trained: Trained,
    models: Mapping[str, Changes],
) -> dict[str, object]:
    scorer, bootstrap = Scorer(truth, conditions, order), Bootstrap(len(conditions))
    predictors = [p for p in trained.predictors(conditions, truth) if _has_parts(p, scorer)]
    predictors += [Predictor(name, changes, changes) for name, changes in models.items()]
    scores = {p.name: scorer.score(p.changes, p.parts) for p in predictors}
    silent = {n for n, s in scores.items() if not s.interaction.any()}
    reliability = scorer.reliability()
    return {
        "interventions": len(next(iter(conditions))),
        "beyond": "singles" if order == 1 else "pairs",
        "conditions": len(conditions),
        "genes_compared": int(scores["additive"].compared.sum()),
        "replicate": float(reliability.mean()),
        "noise_ceiling": float(np.sqrt(reliability).mean()),
        "predictors": {
            n: _figures(s, scores["additive"], bootstrap, silent=n in silent)
            for n, s in scores.items()
        },
    }


def _has_parts(predictor: Predictor, scorer: Scorer) -> bool:
    """Whether the predictor's interactions of this order can be had: beyond pairs needs all."""
    pairs = [frozenset(p) for c in scorer.conditions for p in combinations(sorted(c), 2)]
    parts = predictor.parts
    return scorer.order == 1 or parts is None or all(p in parts for p in pairs)


def _figures(
    scores: Scores, additive: Scores, bootstrap: Bootstrap, *, silent: bool
) -> dict[str, dict[str, object] | None]:
    over, says = bootstrap.difference(scores.pearson, additive.pearson)
    return {
        "pearson": bootstrap.mean(scores.pearson).as_json(),
        "over_additive": None if scores is additive else {**over.as_json(), "verdict": says},
        "interaction_pearson": None if silent else bootstrap.mean(scores.interaction).as_json(),
        "sign_right": None if silent else bootstrap.share(scores.right, scores.compared).as_json(),
        "error": bootstrap.mean(scores.error).as_json(),
    }


def _tables(reports: Sequence[dict[str, object]]) -> Iterator[str]:
    for r in reports:
        yield (
            f"\n{r['conditions']} held-out combinations of {r['interventions']}; interactions "
            f"beyond {r['beyond']} at {r['genes_compared']} genes; another measurement "
            f"{r['replicate']:.3f}, perfect predictor {r['noise_ceiling']:.3f}\n"
        )
        yield "| | Pearson | over additive | Pearson of interaction | sign right | RMSE |"
        yield "|---|---|---|---|---|---|"
        for name, figures in r["predictors"].items():  # pyright: ignore
            columns = " | ".join(_text(figure) for figure in figures.values())
            yield f"| {name} | {columns} |"


def _text(figure: Mapping[str, object] | None) -> str:
    if figure is None:
        return ""
    low, high = figure["interval"]  # pyright: ignore
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}] {figure.get('verdict', '')}".strip()


if __name__ == "__main__":
    main()
