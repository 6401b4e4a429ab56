"""Closed-form effects beside every simple predictor: `python -m benchmarks.any_data --help`.

Every fold of every set and tier is written to its own file under --out as soon as it is done, so a
second run goes on where the first one ended; a file of another recipe (the sources of
`lingshu_model.effects` and of this folder) is made again. The tables are `results.json`,
`results.md` and CSV files. `PROTOCOL.md` says what is held out, what is compared and by which
margins.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import lingshu_model.effects
from benchmarks.any_data import published, sets, tables
from benchmarks.any_data.fitness import fitness
from benchmarks.any_data.predictors import (
    CARRIED,
    COMBINATION,
    PREDICTORS,
    SEEN,
    UNSEEN,
    Priors,
)
from benchmarks.any_data.sets import Cells, Floats, Fold
from lingshu_model.finishing.fitness import pearson

TIERS = (
    ("thp1", SEEN),
    ("thp1", UNSEEN),
    ("pbmc", SEEN),
    ("pbmc", CARRIED),
    ("gbm", SEEN),
    ("gbm", CARRIED),
    ("jurkat", SEEN),
    ("jurkat", UNSEEN),
    ("pig", SEEN),
    ("norman", COMBINATION),
    ("norman-published", COMBINATION),
)
Row = dict[str, Any]


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/any_data"))
@click.option("--set", "chosen", multiple=True, help="Only these sets.")
@click.option("--development", is_flag=True, help="On the development folds of the protocol.")
def main(data: Path, out: Path, chosen: tuple[str, ...], *, development: bool) -> None:
    """Evaluate every fold that is not done, then write the tables."""
    unknown = sorted(set(chosen) - {name for name, _ in TIERS})
    if unknown:
        raise click.ClickException(
            f"no set {unknown[0]!r}; there are {', '.join(dict.fromkeys(n for n, _ in TIERS))}"
        )
    out.mkdir(parents=True, exist_ok=True)
    recipe = _recipe()
    priors = _priors(data)
    wanted = [(name, tier) for name, tier in TIERS if not chosen or name in chosen]
    if development:
        wanted = [(name, tier) for name, tier in wanted if name != "norman-published"]
    for name in dict.fromkeys(name for name, _ in wanted):
        if name == "norman-published":
            _published(data, out, recipe)
            continue
        cells = sets.read(name, data)
        if development:
            cells = sets.development(name, cells)
        for tier in (t for n, t in wanted if n == name):
            for fold in folds(name, tier, cells):
                file = out / f"{name}.{tier}.{fold.name}.json"
                if not _is_evaluated(file, recipe):
                    write(file, recipe, _evaluate(fold, tier, priors))
                    click.echo(f"{file.name}: {len(fold.judged)} contrasts")
        file = out / f"{name}.fitness.json"
        if not _is_evaluated(file, recipe):
            train = next(folds(name, _first_tier(name), cells)).train
            write(file, recipe, fitness(train, priors))
            click.echo(file.name)
    results = tables.results(out, wanted)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    (out / "results.md").write_text(tables.markdown(results), "utf-8")
    tables.write_csv(results, out)
    click.echo(tables.markdown(results))


def _first_tier(name: str) -> str:
    return next(tier for n, tier in TIERS if n == name)


def folds(name: str, tier: str, cells: Cells) -> Iterator[Fold]:
    """Yield the folds of a set's tier."""
    if tier == CARRIED:
        return sets.contexts(cells)
    if tier == COMBINATION:
        return sets.doubles(cells)
    split = {"thp1": sets.replicates, "pig": sets.animals}.get(name, sets.fifths)
    if tier == UNSEEN:
        folds = split(cells)
        return sets.targets(folds if name == "thp1" else iter([next(folds)]))
    return split(cells)


def _evaluate(fold: Fold, tier: str, priors: Priors) -> list[Row]:
    rows: list[Row] = []
    for kind in PREDICTORS:
        if tier not in kind.tiers:
            continue
        predictor = kind().fit(fold.train, tier, priors)
        for judged in fold.judged:
            predicted = predictor.predict_change(judged)
            about = {"unit": judged.unit, "variant": judged.variant, "predictor": kind.name}
            rows.append(about | score(predicted, judged.truth))
    return rows


def score(predicted: Floats, truth: Floats) -> Row:
    """Return Pearson and MSE of a predicted change."""
    return {
        "pearson": pearson(predicted, truth),
        "mse": float(((predicted - truth) ** 2).mean()),
    }


def _published(data: Path, out: Path, recipe: str) -> None:
    for name, judged in published.folds(data):
        file = out / f"norman-published.{COMBINATION}.{name}.json"
        if not _is_evaluated(file, recipe):
            rows = [
                {"unit": unit, "variant": "", "predictor": predictor} | score(predicted, truth)
                for unit, truth, each in judged
                for predictor, predicted in each.items()
            ]
            write(file, recipe, rows)
            click.echo(f"{file.name}: {len(judged)} contrasts")


def _priors(data: Path) -> Priors:
    folder = data / "priors"
    return Priors(
        {
            "Hallmark": _gene_sets(folder / "msigdb_hallmark.gmt"),
            "Reactome": _gene_sets(folder / "reactome.gmt"),
        },
        frozenset((folder / "lambert2018.txt").read_text("utf-8").split()),
    )


def _gene_sets(path: Path) -> dict[str, frozenset[str]]:
    fields = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    return {name: frozenset(genes) for name, _, *genes in fields}


def _recipe() -> str:
    """Return a digest of the sources that decide a fold's figures."""
    here = Path(__file__).parent
    effects = Path(str(lingshu_model.effects.__file__)).parent
    deciding = (here / f"{name}.py" for name in ("fitness", "predictors", "published", "sets"))
    digest = hashlib.sha256()
    for path in sorted([*effects.glob("*.py"), *deciding]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _is_evaluated(file: Path, recipe: str) -> bool:
    return file.exists() and json.loads(file.read_text("utf-8"))["recipe"] == recipe


def write(file: Path, recipe: str, rows: list[Row]) -> None:
    """Write the rows of a fold, whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"recipe": recipe, "rows": rows}, default=_plain) + "\n", "utf-8")
    part.replace(file)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON")
