"""`lingshu replay`: one experiment, a sample, or all of them, run again from their rows."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lingshu_tools.cli.common import (
    WAIT_S,
    call_and_wait,
    common,
    echo_json,
    open_app,
    progress_bar,
    settings,
    show,
)

if TYPE_CHECKING:
    from lingshu_tools.app import App
    from lingshu_tools.calls.results import Result
    from lingshu_tools.execution.replay_many import Tally

# Lines of each list on a terminal; --json has all.
_SHOWN = 20
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")


def _share(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = _PERCENT.fullmatch(value.strip())
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        message = f"{value!r} is no share: write it in per cent, such as 1% or 0.5%"
        raise click.BadParameter(message)
    return share


@click.command()
@click.argument("experiment_id", required=False)
@click.option("--all", "every", is_flag=True, help="Every experiment that succeeded.")
@click.option(
    "--sample",
    "share",
    callback=_share,
    metavar="PERCENT",
    help="A share of them, such as 1%: the same ones each time.",
)
@click.option(
    "--ledger",
    "database",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Those of another ledger file, which is only read, such as the shipped experiments.db.",
)
@common
@click.pass_context
def replay(
    ctx: click.Context,
    experiment_id: str | None,
    share: float | None,
    database: Path | None,
    *,
    every: bool,
) -> None:
    """Run experiments again from their rows and compare; exits with 1 when one differs.

    Give the id of an experiment, or of a screen, all finished experiments of which are replayed.

    Of many, those that have a verdict under the numerics profile of today's engine are not run
    again, so that an ended run goes on where it was.
    """
    # Exactly one of the three ways.
    if (experiment_id is not None) + every + (share is not None) != 1:
        message = "name one experiment or screen, or say --all, or --sample 1%"
        raise click.UsageError(message)
    if experiment_id is None:
        _many(ctx, share, database)
        return
    if database is not None:
        message = (
            "--ledger goes with --all and --sample. An id alone is looked up in this home and in "
            "the shipped experiments.db"
        )
        raise click.UsageError(message)
    from lingshu_tools.calls.registry import registry
    from lingshu_tools.experiments.lookup import is_screen
    from lingshu_tools.tools.replay_experiment import verdict_sentence

    app = open_app()
    if is_screen(experiment_id):
        result = _screen(app, experiment_id)
        show(result, registry()["replay_experiment"].text(result))
    else:
        result = call_and_wait(app, "replay_experiment", {"id": experiment_id})
        # One that was waited for is shown as the experiment that it is, with its verdict beside.
        later = getattr(result, "replay", None)
        show(result, later and verdict_sentence(later.of, later.verdict, later.differs))
    # No verdict counts as a failure: nothing was proved.
    ctx.exit(0 if verdict_of(result) in ("exact", "same_kind", "equivalent") else 1)


def _screen(app: "App", screen_id: str) -> "Result":
    """Return the replay of a screen, called again until nothing of it is under way."""
    from lingshu_tools.calls.dispatcher import call
    from lingshu_tools.calls.progress import reporting

    with progress_bar("replay") as sink, reporting(sink):
        while True:
            # The same call goes on with the replay, so it is repeated until nothing is under way.
            arguments = {"id": screen_id, "wait_s": WAIT_S, "limit": 2000}
            result = call(app, "replay_experiment", arguments)
            if result.status not in ("queued", "running"):
                return result


def verdict_of(result: Any) -> str | None:
    """Return the verdict of a replay, whether it was waited for or asked for later."""
    # get_experiment has the verdict in `replay`, replay_experiment at the top.
    replay = getattr(result, "replay", result)
    return getattr(replay, "verdict", None)


def _many(ctx: click.Context, share: float | None, database: Path | None) -> None:
    from lingshu_tools.execution.replay_many import finished, replay_many, sample
    from lingshu_tools.ledger import Ledger

    app = open_app()
    ledger = app.ledger if database is None else Ledger.open_read_only(database)
    ids = finished(ledger)
    chosen = ids if share is None else sample(ids, share)
    with progress_bar("replay", "experiments") as sink:
        tally = replay_many(app, ledger, chosen, sink)
    _tell(tally, len(ids))
    ctx.exit(0 if tally.ok else 1)


def _tell(tally: "Tally", of: int) -> None:
    earlier = len(tally.verdicts) - tally.now
    others = {name: verdict for name, verdict in tally.verdicts.items() if verdict != "exact"}
    if settings().as_json:
        fields = {
            "status": "succeeded" if tally.ok else "failed",
            "finished": of,
            "chosen": len(tally.verdicts) + len(tally.failed),
            "replayed_now": tally.now,
            "replayed_earlier": earlier,
            "verdicts": tally.counts,
            "not_exact": others,
            "without_verdict": tally.failed,
        }
        echo_json(fields)
        return
    counted = ", ".join(f"{count} {verdict}" for verdict, count in tally.counts.items())
    lines = [
        f"{len(tally.verdicts)} of {of} finished experiments replayed: {counted or 'none'}",
        f"{tally.now} now, {earlier} earlier under the same numerics profile",
        *(f"{name}: {verdict}" for name, verdict in list(others.items())[:_SHOWN]),
        *(f"{name}: no verdict: {why}" for name, why in list(tally.failed.items())[:_SHOWN]),
    ]
    click.echo("\n".join(lines))
    if len(others) > _SHOWN or len(tally.failed) > _SHOWN:
        click.echo("… and more: --json names all")
