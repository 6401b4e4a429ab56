"""`python -m lingshu_model.train SPEC --data DIR --out DIR`: train a checkpoint, resumable.

Run it again after a kill and it goes on to the same weights. Under `accelerate launch` every rank
trains on its share of each batch. `evidence.json` is added later, by the evaluation.
"""

import os
import signal
import sys
from pathlib import Path

import click

from lingshu_model.system.launcher import LauncherError, named_ranks, refuse_changes, settle
from lingshu_model.system.redaction import protect_streams
from lingshu_model.train.scratch import end_by_signals


@click.command(context_settings={"show_default": True})
@click.argument("spec_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default="../shared/data")
@click.option("--out", type=click.Path(path_type=Path), default="runs", help="Where to write.")
@click.option("--threads", type=int, default=None, help="CPU threads per rank.")
@click.option("--epochs", type=int, default=None, help="Instead of the spec's.")
@click.option(
    "--ranks", "expected", type=int, default=None, help="Refuse another number of processes."
)
@click.option(
    "--recipe",
    type=click.Choice(["default", "effects"]),
    default=None,
    help="Instead of the spec's: `effects` trains no network and takes seconds.",
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
def main(
    spec_file: Path,
    data_dir: Path,
    out: Path,
    threads: int | None,
    epochs: int | None,
    expected: int | None,
    recipe: str | None,
    network_from: str | None,
    *,
    allow_unfit: bool,
) -> None:
    """Train the checkpoint described by SPEC_FILE into OUT/NAME/."""
    end_by_signals()
    # `lingshu train` keeps Ctrl-C back until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        _settle(expected)
    except LauncherError as error:
        sys.exit(f"lingshu train: {error}")
    from lingshu_model.train.command import train  # torch and accelerate read the environment

    train(
        spec_file,
        data_dir,
        out,
        threads,
        epochs,
        expected,
        recipe,
        allow_unfit=allow_unfit,
        network_from=network_from,
    )


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
