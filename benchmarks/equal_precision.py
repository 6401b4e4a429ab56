"""Seconds of sampling until the mean change of a condition has a given standard error.

    python -m benchmarks.equal_precision thp1-crispr --rate 385 --other 24000

A perturbed cell and its control share their streams (`paired`), so that the standard error of a
gene's mean change is that of the per-cell differences. A model that draws both arms independently
(`unpaired`) has the sum of both variances. `--rate` and `--other` are cells per processor second of
this model and of another one, such as scVI, of the same run (`benchmarks.speed beside-scvi`); the
other model's cells are taken to vary as this model's do.

For each condition: cells until the median standard error over its certain genes (local false sign
rate below .05 in the stored effect) is `--error`, and the seconds that they take. A paired control
cell is drawn by the network and moved, so a pair costs one cell; two arms cost two.
"""

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint
from lingshu_model.evaluate.arms import seen_conditions
from lingshu_model.evaluate.metrics.matrices import csr, expression_levels
from lingshu_model.evaluate.tables import table
from lingshu_model.network import numerics
from lingshu_model.sampling.delivery import CERTAIN, DeliveringSampler
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.sampler import sample_arm
from lingshu_model.train.data.cells import Condition

Floats = NDArray[np.float64]
OTHER_SEED = 1_000_003
HEAD = (
    *("condition", "certain genes", "cells, paired", "cells an arm, unpaired", "ratio"),
    *("seconds, paired", "seconds, unpaired", "seconds of the other model"),
)


@click.command(context_settings={"show_default": True}, help=__doc__)
@click.argument("checkpoint")
@click.option("--rate", type=float, required=True)
@click.option("--other", type=float, required=True)
@click.option("--error", default=0.05, help="log1p_cp10k.")
@click.option("--n-cells", default=512)
@click.option("--targets", default="STAT1,IFNGR2,JAK2,IRF1,SMAD4")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    checkpoint: str,
    rate: float,
    other: float,
    error: float,
    n_cells: int,
    targets: str,
    out: Path | None,
) -> None:
    """Print the table, and write it as CSV with `--out`."""
    numerics.prepare(1)
    loaded = Catalogue().load(checkpoint)
    sampler = load_sampler(loaded, threads=1, device="cpu")
    if not isinstance(sampler, DeliveringSampler):
        raise click.ClickException(f"{checkpoint} stores no effects: nothing is certain")
    lines: list[list[str]] = []
    for condition in seen_conditions(loaded):
        names = [each.target for each in condition.interventions]
        if names and names[0] in targets.split(","):
            line = _line(names[0], loaded, sampler, condition, n_cells, error, rate, other)
            lines += [line] if line else []
    click.echo(table(HEAD, lines))
    if out is not None:
        rows = [",".join(f'"{word}"' for word in line) for line in [HEAD, *lines]]
        out.write_text("\n".join(rows) + "\n", "utf-8")


def _line(
    name: str,
    checkpoint: Checkpoint,
    sampler: DeliveringSampler,
    condition: Condition,
    n: int,
    error: float,
    rate: float,
    other: float,
) -> list[str] | None:
    """Return the row of a condition; None where no gene's change is certain."""
    arm = _arm(checkpoint, condition, n)
    posterior = sampler.effect(arm).posterior
    certain = (posterior.lfsr < CERTAIN) & sampler.measured(arm)
    if not certain.any():
        click.echo(f"{name}: no gene's change is certain", err=True)
        return None
    control = arm.model_copy(update={"interventions": ()})
    arms = [arm, control, control.model_copy(update={"seed": OTHER_SEED})]
    perturbed, paired, apart = (_levels(sampler, each)[:, certain] for each in arms)
    together = float(np.median((perturbed - paired).var(axis=0, ddof=1)))
    independent = float(np.median(perturbed.var(axis=0, ddof=1) + apart.var(axis=0, ddof=1)))
    pairs, each_arm = together / error**2, independent / error**2
    return [
        *(name, str(int(certain.sum())), f"{pairs:.0f}", f"{each_arm:.0f}"),
        *(f"{each_arm / pairs:.1f}" if pairs else "inf", f"{pairs / rate:.2f}"),
        *(f"{2 * each_arm / rate:.2f}", f"{2 * each_arm / other:.3f}"),
    ]


def _levels(sampler: DeliveringSampler, arm: ArmRequest) -> Floats:
    return np.asarray(expression_levels(csr(sample_arm(sampler, arm).counts)).toarray())


def _arm(checkpoint: Checkpoint, condition: Condition, n: int) -> ArmRequest:
    defaults = checkpoint.config["sampler"]
    return ArmRequest(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        context=dict(condition.context),
        interventions=condition.interventions,
        seed=0,
        n_cells=n,
        steps=defaults["steps"],
        guidance=defaults["guidance"],
    )


if __name__ == "__main__":
    main()
