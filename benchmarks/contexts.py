"""What an effect seen in some contexts says of one in which it was not: each left out in turn.

    python -m benchmarks.contexts model/presets/pbmc.json --target IFN-beta --data DIR

Training cells alone, and of them those of contexts that have the target: the change of mean
ln(1 + UMI at the median depth) in one context is told by the others (`lingshu_model.train.related`)
and held against that context's own. Beside it the mean of the others and the nearest of them, by
control profile. *Top 100*: the genes that the others move most. *Own / told*: by how much the told
change would have to be multiplied for the least squared error; 1 is right. A context's own change
has noise that no prediction can meet. Nothing is trained and no cell sampled; knows nothing of
networks.
"""

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from lingshu_model.train import data
from lingshu_model.train.birth import Birth
from lingshu_model.train.cells import controls
from lingshu_model.train.related import Floats, carry_over, distances
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.tilt import Context, effects_of

TOP = 100


class Seen(NamedTuple):
    """One target's effects in the contexts that have it.

    Attributes:
        contexts: [contexts].
        value: [contexts, genes], of the genes that all of them measure.
        noise: squared standard errors.
        distance: between the contexts' control profiles, [contexts, contexts].
    """

    contexts: list[Context]
    value: Floats
    noise: Floats
    distance: Floats


@click.command(context_settings={"show_default": True})
@click.argument("preset", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--target", required=True)
@click.option("--data", "folder", type=click.Path(path_type=Path), default=Path("../shared/data"))
def main(preset: Path, target: str, folder: Path) -> None:
    """Print a table of how well TARGET's effects are told in contexts left out."""
    spec = TrainingSpec.read(preset)
    cells = data.read_cells(spec, folder)
    seen = effects(Birth(spec, cells.take(data.split(cells, spec).train)), target)
    click.echo("| left out | told by | Pearson | of the top 100 | error, top 100 | own / told |")
    click.echo("|---|---|---|---|---|---|")
    for left_out, context in enumerate(seen.contexts):
        others = np.flatnonzero(np.arange(len(seen.contexts)) != left_out)
        own, top = seen.value[left_out], _largest(seen.value[others].mean(axis=0))
        for name, told in _told(seen, left_out, others).items():
            whole, strong = (np.corrcoef(told[g], own[g])[0, 1] for g in (slice(None), top))
            error = ((told - own)[top] ** 2).mean()
            figures = f"{whole:.3f} | {strong:.3f} | {error:.4f} | {own @ told / (told @ told):.2f}"
            click.echo(f"| {' '.join(value for _, value in context)} | {name} | {figures} |")


def effects(birth: Birth, target: str) -> Seen:
    """Return what the training cells say of `target`.

    Raises:
        ClickException: fewer than three contexts have it.
    """
    cells, levels = birth.cells, birth.levels
    home = controls(cells)
    found = {
        context: effect
        for context, control in home.items()
        if (effect := effects_of(cells, levels, context, control)) and target in effect.targets
    }
    if len(found) < 3:  # two others at least
        message = f"{len(found)} contexts of {birth.spec.name} have {target!r}; three are needed"
        raise click.ClickException(message)
    rows = [cells.rows(home[context]) for context in found]
    profiles = np.stack([levels.rows(r).mean for r in rows])
    distance = distances(profiles, np.array([cells.source[r[0]] for r in rows]))
    places = [(effect, effect.targets.index(target)) for effect in found.values()]
    value, noise = (np.stack([getattr(e, n)[i] for e, i in places]) for n in ("value", "noise"))
    known = np.isfinite(value).all(axis=0)
    return Seen([*found], value[:, known], noise[:, known], distance)


def _told(seen: Seen, left_out: int, others: NDArray[np.int64]) -> dict[str, Floats]:
    value, noise = seen.value[others], seen.noise[others]
    return {
        "its relatives": carry_over(value, noise, seen.distance, others)[left_out],
        "the mean": value.mean(axis=0),
        "the nearest": value[seen.distance[left_out, others].argmin()],
    }


def _largest(change: Floats) -> NDArray[np.int64]:
    return np.argsort(-np.abs(change), kind="stable")[:TOP]


if __name__ == "__main__":
    main()
