"""`python -m lingshu_model.train FILE --out DIR`: train a checkpoint, resumable.

Run it again after a kill and it goes on to the same weights. Under `accelerate launch` every rank
trains on its share of each batch. `evidence.json` is added later, by the evaluation.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lingshu_model.system.launcher import LauncherError, named_ranks, refuse_changes, settle
from lingshu_model.system.redaction import protect_streams
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.plan import MINUTES
from lingshu_model.train.inspect.show import data_options, options_from
from lingshu_model.train.own_data import specify
from lingshu_model.train.recipes.choice import RECIPES
from lingshu_model.train.scratch import end_by_signals
from lingshu_model.train.spec import TrainingSpec


def _print_schema(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if value:
        click.echo(json.dumps(TrainingSpec.model_json_schema(), indent=1))
        ctx.exit()


@click.command(context_settings={"show_default": True})
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    default="../shared/data",
    help="The folder of a specification's files.",
)
@data_options
@click.option("--name", help="Of the checkpoint; made of the file's by default.")
@click.option("--minutes", type=click.FloatRange(0.1), default=MINUTES, help="Of training, about.")
@click.option("--yes", is_flag=True, help="Train on what was understood without asking.")
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON schema of a specification.",
)
@click.option("--out", type=click.Path(path_type=Path), default="runs", help="Where to write.")
@click.option("--threads", type=int, default=None, help="CPU threads per rank.")
@click.option("--epochs", type=int, default=None, help="Instead of the spec's.")
@click.option(
    "--ranks", "expected", type=int, default=None, help="Refuse another number of processes."
)
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default=None,
    help="Instead of the spec's: `effects` trains no network and takes seconds; `paper` has "
    "condition tokens and guidance, and no effects in closed form.",
)
@click.option(
    "--network-from",
    help="A checkpoint, by name or folder, whose network is taken; nothing is trained.",
)
@click.option(
    "--allow-unfit",
    is_flag=True,
    help="End with status 0 also where sampled cells do not deliver an effect.",
)
@click.pass_context
def main(
    ctx: click.Context,
    file: Path,
    data_dir: Path,
    out: Path,
    threads: int | None,
    epochs: int | None,
    expected: int | None,
    recipe: str | None,
    network_from: str | None,
    *,
    allow_unfit: bool,
    name: str | None,
    minutes: float,
    yes: bool,
    **values: Any,
) -> None:
    """Train a checkpoint on FILE into OUT/NAME/.

    FILE is an AnnData file (.h5ad), of which you say what the columns mean, or a specification
    (.json) that says all of it. What is understood of an AnnData file is shown before anything is
    trained. The same command goes on with what was trained before.
    """
    end_by_signals()
    # `lingshu train` keeps Ctrl-C back until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        _settle(expected)
    except LauncherError as error:
        sys.exit(f"lingshu train: {error}")
    source: Path | TrainingSpec = file
    if file.suffix == ".json":
        _refuse_data_options(ctx)
    else:
        schedule = {
            "recipe": recipe or "default",
            "epochs": epochs,
            "minutes": minutes,
            "allow_unfit": allow_unfit,
        }
        options = options_from(values)
        source = specify(file, out, options, name=name, yes=yes, schedule=schedule)
        data_dir = file.parent
    from lingshu_model.train.command import train  # torch and accelerate read the environment

    train(
        source,
        data_dir,
        out,
        threads,
        epochs,
        expected,
        recipe,
        allow_unfit=allow_unfit,
        network_from=network_from,
    )


def _refuse_data_options(ctx: click.Context) -> None:
    """Refuse what only describes an AnnData file: a specification says it itself."""
    given = [
        name
        for name in (*Options.__dataclass_fields__, "name", "minutes", "yes")
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        message = f"{option} describes an AnnData file, and a specification says all of that itself"
        raise click.UsageError(message)


def _settle(expected: int | None) -> None:
    refuse_changes(os.environ)
    if expected is None and (named := named_ranks(os.environ)) > 1:
        message = (
            f"the environment is that of one of {named} processes (WORLD_SIZE, RANK …): give "
            f"--ranks {named} to train in all of them, or --ranks 1 to train in this one alone"
        )
        raise LauncherError(message)
    settle(os.environ, expected)


if __name__ == "__main__":
    with protect_streams():
        main()
