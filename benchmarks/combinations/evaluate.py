"""A checkpoint's combinations against the truth and the baselines.

`python -m benchmarks.combinations.evaluate NAME --folder DIR --checkpoint DIR`; NAME is what a
`make_…` command wrote (`k562-semisynthetic`, `regulation`). Without `--checkpoint` only the
baselines are judged. Cells are sampled paired with control's and kept under the folder, so that a
second run makes only the tables. Knows nothing of training.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import anndata
import click
import numpy as np
from tqdm import tqdm

from benchmarks.combinations.predictors import Predictor, Trained
from benchmarks.combinations.scoring import Bootstrap, Scorer, Scores
from benchmarks.combinations.truth import Floats, Targets, Truth, change
from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.wire import Catalogue, Intervention

MODEL = "model"


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
    truth = Truth.read(folder / f"{name}.truth.npz")
    trained = Trained.of(anndata.read_h5ad(folder / f"{name}.h5ad"), truth)
    sizes = sorted({len(c) for c in truth.conditions} - {0, 1})
    held = {k: truth.of(k, trained=False) for k in sizes}
    model = (
        sampled(_store(checkpoint, folder, n_cells, workers), truth, held, seed)
        if checkpoint
        else None
    )
    reports = []
    for size, conditions in held.items():
        # Beyond triples would need every triple of a quadruple.
        for order in range(1, min(size, 3)):
            reports.append(_report(truth, conditions, order, trained, model))
    text = "\n".join(_tables(reports))
    click.echo(text)
    stem = f"{name}.{checkpoint.name if checkpoint else 'baselines'}"
    (folder / f"{stem}.md").write_text(text + "\n", "utf-8")
    (folder / f"{stem}.results.json").write_text(json.dumps(reports, indent=1) + "\n", "utf-8")


def sampled(
    store: ArmStore, truth: Truth, held: dict[int, list[Targets]], seed: int
) -> dict[Targets, Floats]:
    """Return the model's change of the held-out combinations and of their parts."""
    whole = [c for conditions in held.values() for c in conditions]
    parts = {frozenset(p) for c in whole for k in (1, 2) for p in combinations(sorted(c), k)}
    control = _share(store, truth, frozenset(), seed)
    wanted = sorted({*parts, *whole}, key=lambda c: (len(c), sorted(c)))
    return {
        c: change(_share(store, truth, c, seed), control)
        for c in tqdm(wanted, unit="condition", disable=None)
    }


def _share(store: ArmStore, truth: Truth, condition: Targets, seed: int) -> Floats:
    kind = store.checkpoint.config["kinds"][0]
    arm = tuple(Intervention(kind=kind, target=target) for target in sorted(condition))
    counts = store.counts(arm, seed).sum(axis=0).astype(np.float64)
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
    model: dict[Targets, Floats] | None,
) -> dict[str, object]:
    scorer, bootstrap = Scorer(truth, conditions, order), Bootstrap(len(conditions))
    predictors = [p for p in trained.predictors(conditions, truth) if _has_parts(p, scorer)]
    if model is not None:
        predictors.append(Predictor(MODEL, model, model))
    scores = {p.name: scorer.judge(p.changes, p.parts) for p in predictors}
    reliability = scorer.reliability()
    return {
        "interventions": len(next(iter(conditions))),
        "beyond": "singles" if order == 1 else "pairs",
        "conditions": len(conditions),
        "genes_judged": int(scores["additive"].judged.sum()),
        "replicate": float(reliability.mean()),
        "bound": float(np.sqrt(reliability).mean()),
        "predictors": {n: _figures(s, scores, bootstrap) for n, s in scores.items()},
    }


def _has_parts(predictor: Predictor, scorer: Scorer) -> bool:
    """Whether the predictor's interactions of this order can be had: beyond pairs needs all."""
    pairs = [frozenset(p) for c in scorer.conditions for p in combinations(sorted(c), 2)]
    parts = predictor.parts
    return scorer.order == 1 or parts is None or all(p in parts for p in pairs)


def _figures(
    scores: Scores, every: dict[str, Scores], bootstrap: Bootstrap
) -> dict[str, dict[str, object]]:
    found = {
        "pearson": bootstrap.mean(scores.pearson).as_json(),
        "interaction_pearson": bootstrap.mean(scores.interaction).as_json(),
        "sign_right": bootstrap.share(scores.right, scores.judged).as_json(),
        "error": bootstrap.mean(scores.error).as_json(),
    }
    difference, says = bootstrap.difference(scores.pearson, every["additive"].pearson)
    found["over_additive"] = {**difference.as_json(), "verdict": says}
    return found


def _tables(reports: Sequence[dict[str, object]]) -> Iterator[str]:
    for r in reports:
        yield (
            f"\n{r['conditions']} held-out combinations of {r['interventions']}; interactions "
            f"beyond {r['beyond']} at {r['genes_judged']} genes; another measurement "
            f"{r['replicate']:.3f}, perfect predictor {r['bound']:.3f}\n"
        )
        yield "| | Pearson | over additive | Pearson of interaction | sign right | RMSE |"
        yield "|---|---|---|---|---|---|"
        for name, f in r["predictors"].items():  # pyright: ignore
            over = f"{_text(f['over_additive'], '+')} {f['over_additive']['verdict']}"
            yield (
                f"| {name} | {_text(f['pearson'])} | {over if name != 'additive' else ''} | "
                f"{_text(f['interaction_pearson'])} | {_text(f['sign_right'])} | "
                f"{_text(f['error'])} |"
            )


def _text(figure: dict[str, object], sign: str = "") -> str:
    low, high = figure["interval"]  # pyright: ignore
    return f"{figure['value']:{sign}.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
