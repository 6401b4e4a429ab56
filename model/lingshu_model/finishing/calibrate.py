"""`lingshu calibrate CHECKPOINT`: errors by size, intervals and signs, judged again.

The folds of its training cells are rotated as a training does at its end, without sampling. What
that says replaces `tiers.*.certainty`, `gene_variance` and `null_labels` of its evidence; all other
figures stay. The digest of the checkpoint does not cover its evidence, so experiments replay.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from lingshu_model.contracts import Catalogue, Checkpoint, CheckpointError
from lingshu_model.contracts.catalogue import pin
from lingshu_model.contracts.error_model import GENE_VARIANCE
from lingshu_model.contracts.evidence_text import dumps, rounded
from lingshu_model.evaluate.data import DEFAULT
from lingshu_model.finishing.evidence import (
    certainty_of,
    count_folds,
    gene_variance,
    judged_folds,
)
from lingshu_model.finishing.null_labels import null_check
from lingshu_model.system.progress_bars import Progress
from lingshu_model.system.redaction import protect_streams
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.sources import read_cells, split
from lingshu_model.train.priors import read_features
from lingshu_model.train.spec import TrainingSpec


@click.command()
@click.argument("checkpoint")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=DEFAULT,
    show_default=True,
    help="The folder of the data files that it was trained on.",
)
def main(checkpoint: str, data: Path) -> None:
    """Judge the intervals of CHECKPOINT (a name or a folder) again, and pin its evidence."""
    try:
        known = _checkpoint(checkpoint)
        text = dumps(recalibrated(known, data))
    except (ValueError, CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from error
    (known.path / "evidence.json").write_text(text, "utf-8")
    click.echo(f"pinned {pin(known.path)}")


def recalibrated(checkpoint: Checkpoint, data: Path) -> dict[str, Any]:
    """Return the evidence of a checkpoint with its certainty judged again.

    Args:
        checkpoint: of format 2, with evidence.
        data: folder of the files that it was trained on.

    Raises:
        ValueError: it stores no effects, or its panel is not that of the data.
        OSError: a data file is not there.
    """
    if checkpoint.effects is None:
        message = f"{checkpoint.name} stores no effects (format 1), so it has no intervals to judge"
        raise ValueError(message)
    spec = TrainingSpec.model_validate(checkpoint.config["training"])
    cells = read_cells(spec, data)
    # Effects and evidence are arrays in panel order: another order would pair wrong genes.
    if tuple(cells.panel) != tuple(checkpoint.panel):
        message = (
            f"the data have {len(cells.panel)} genes and {checkpoint.name} has "
            f"{len(checkpoint.panel)}: name the files that it was trained on with --data"
        )
        raise ValueError(message)
    parts = split(cells, spec)
    # Test cells stay out, as in the training itself.
    cells = cells.take(np.concatenate([parts.train, parts.validation]))
    priors = read_features(data / spec.priors) if spec.priors else {}
    return rounded(_with(checkpoint.evidence, cells, priors))


def _with(
    evidence: Mapping[str, Any], cells: TrainingCells, priors: Mapping[str, Any]
) -> dict[str, Any]:
    with Progress(total=count_folds(cells), unit="fold", desc="held-out folds") as bar:
        judged = judged_folds(cells, priors, bar.update)
    certain = certainty_of(judged)
    tiers = {
        # A tier that these folds cannot judge keeps what it had.
        name: tier and {**tier, "certainty": certain[name] or tier.get("certainty")}
        for name, tier in evidence["tiers"].items()
    }
    return {
        **evidence,
        "tiers": tiers,
        GENE_VARIANCE: gene_variance(cells, priors),
        "null_labels": null_check(cells),
    }


def _checkpoint(name: str) -> Checkpoint:
    folder = Path(name)
    if folder.is_dir():
        return Catalogue([folder.resolve().parent]).load(folder.resolve().name)
    return Catalogue().load(name)


if __name__ == "__main__":
    with protect_streams():
        main()
