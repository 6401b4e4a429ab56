"""What gene features are worth for a target never perturbed: one target left out at a time.

`python -m benchmarks.combinations.unseen PRESET --data DIR --priors FILE`: PRESET is a training
spec (`model/presets/thp1-crispr.json`, or that of a made set), its single perturbations are the
targets. Nothing is trained but the tilts a network starts from (`lingshu_model.train.reach`), and
all that is chosen is chosen without the target judged. Compared: the mean of the other targets'
tilts, with nothing else; reach by co-expression, by priors, by both, and by priors that belong to
other genes. Only targets with features are judged. Pearson of the change with the target's own
training cells, its own gene left out; intervals over targets. Knows nothing of networks.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from benchmarks.combinations.birth import shares_of
from benchmarks.combinations.scoring import Bootstrap
from benchmarks.combinations.truth import Floats, change
from lingshu_model.evaluate.changes import pearson
from lingshu_model.train import data
from lingshu_model.train.birth import Birth
from lingshu_model.train.cells import TrainingCells
from lingshu_model.train.priors import read_features
from lingshu_model.train.reach import fit_reach
from lingshu_model.train.spec import TrainingSpec


@click.command(context_settings={"show_default": True})
@click.argument("preset", type=click.Path(path_type=Path, exists=True))
@click.option("--data", "folder", type=click.Path(path_type=Path), default=Path("../shared/data"))
@click.option("--priors", type=click.Path(path_type=Path, exists=True), required=True)
def main(preset: Path, folder: Path, priors: Path) -> None:
    """Print a table of Pearson over left-out targets."""
    spec = TrainingSpec.read(preset)
    cells = singles(data.read_cells(spec, folder))
    known = read_features(priors)
    birth = Birth(spec, cells, known)
    targets = [about["target"] for about in birth.tilts.about]
    theta = birth.tilts.theta[1:].astype(np.float64)
    panel = {gene: i for i, gene in enumerate(cells.panel)}
    own = np.array([panel.get(target, -1) for target in targets], np.int64)
    judged = [i for i, target in enumerate(targets) if target in known]
    truth = _measured(cells, targets)
    rest = shares_of(birth.laws, np.zeros(len(cells.panel)))
    found: dict[str, Floats] = {}
    for name, features in _features(birth, targets, known).items():
        scores = []
        for i in judged:
            others = np.arange(len(targets)) != i
            told = _told(theta[others], features[others], own[others], features[i])
            scores.append(_score(change(shares_of(birth.laws, told), rest), truth[i], own[i]))
        found[name] = np.array(scores)
    _print(found, len(targets))


def singles(cells: TrainingCells) -> TrainingCells:
    """Return control and single perturbations alone."""
    kept = [i for i, c in enumerate(cells.conditions) if len(c.interventions) < 2]
    rows = np.flatnonzero(np.isin(cells.condition, kept))
    number = {old: new for new, old in enumerate(kept)}
    return replace(
        cells.take(rows),
        condition=np.array([number[c] for c in cells.condition[rows]], np.int64),
        conditions=tuple(cells.conditions[i] for i in kept),
    )


def _features(birth: Birth, targets: list[str], known: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return features [targets, …] by predictor; of no columns, they leave the mean alone."""
    panel = {gene: i for i, gene in enumerate(birth.cells.panel)}
    width = birth.spec.gene_features
    both = np.stack(
        [
            birth.features[panel[t]] if t in panel else np.concatenate([np.zeros(width), prior])
            for t in targets
            for prior in [known.get(t, np.zeros(birth.features.shape[1] - width))]
        ]
    )
    shuffled = np.random.default_rng(0).permutation(len(targets))
    return {
        "mean of the others": np.zeros((len(targets), 0)),
        "co-expression": both[:, :width],
        "priors": both[:, width:],
        "co-expression and priors": both,
        "priors of other targets": both[shuffled, width:],
    }


def _told(theta: Floats, features: Floats, own: np.ndarray, of: Floats) -> Floats:
    reach = fit_reach(theta, features, own)
    if reach is None:
        raise click.ClickException(f"{len(theta)} targets are too few to leave one out")
    return reach.of(of[None])[0]


def _measured(cells: TrainingCells, targets: list[str]) -> Floats:
    """Return every target's change, pooled over its cells, [targets, genes]."""
    pooled = {
        tuple(i.target for i in c.interventions): cells.counts(cells.rows(n)).sum(axis=0)
        for n, c in enumerate(cells.conditions)
    }
    share = {name: counts / counts.sum() for name, counts in pooled.items()}
    return np.stack([change(share[(target,)], share[()]) for target in targets])


def _score(predicted: Floats, true: Floats, own: int) -> float:
    other = np.arange(len(true)) != own
    return float(pearson(predicted[other], true[other]))


def _print(found: Mapping[str, Floats], targets: int) -> None:
    first = next(iter(found))
    n = len(found[first])
    bootstrap = Bootstrap(n)
    click.echo(f"{n} of {targets} targets have features and are judged\n")
    click.echo("| | Pearson | over the mean of the others |\n|---|---|---|")
    for name, scores in found.items():
        mean = bootstrap.mean(scores)
        over, says = bootstrap.difference(scores, found[first])
        low, high = mean.interval
        columns = f"| {name} | {mean.value:.3f} [{low:.3f}, {high:.3f}] |"
        low, high = over.interval
        more = "" if name == first else f"{over.value:+.3f} [{low:.3f}, {high:.3f}] {says}"
        click.echo(f"{columns} {more} |")


if __name__ == "__main__":
    main()
