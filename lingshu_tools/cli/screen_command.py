"""`lingshu screen`: plan a screen, or go on with one, and wait for its ranking."""

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from lingshu_tools.cli.common import (
    common,
    open_app,
    progress_bar,
    settings,
    show,
)

if TYPE_CHECKING:
    from lingshu_tools.app import App
    from lingshu_tools.tools.run_screen import ScreenResult

STEP_S = 2.0
"""How long one call waits, after which the bar is drawn anew."""
LINE_S = 30.0
"""Seconds between two lines of progress where there is no terminal."""
AT_WORK = ("queued", "running")
_LISTS = {
    "up": ("raise", "Gene or gene set to raise; GENE:2 counts twice."),
    "down": ("lower", "Gene or gene set to lower."),
    "like": ("like", "Perturbation whose effect is wanted."),
    "unlike": ("unlike", "Perturbation whose effect is to be reversed."),
    "keep": ("keep", "Gene that must not change."),
    "avoid": ("avoid", "Target to leave out: a gene, a gene set or a file of genes."),
    "only": ("only", "Kind or target that is allowed."),
}


def _objective_options(command: Any) -> Any:
    """Add an option for each part of an objective; lists are given by repeating the option."""
    for name, (word, help_text) in reversed(_LISTS.items()):
        command = click.option(f"--{word}", name, multiple=True, help=help_text)(command)
    return command


@click.command()
@click.argument("screen_id", required=False)
@_objective_options
@click.option("--toward", help="Experiment id or context, e.g. cell_type=B cell.")
@click.option("--magnitude", type=float, help="1 for large effects, -1 for small ones.")
@click.option("--keep-within", type=float, help="Bound of the genes to keep, log1p_cp10k.")
@click.option(
    "-c",
    "--candidates",
    multiple=True,
    help='Candidate or rule, such as "pairs_of all_seen". Default: all_seen.',
)
@click.option("--checkpoint", help="By name; the only one there is by default.")
@click.option("--context", help="The cells, e.g. cell_line=THP-1.")
@click.option("-n", "--n-cells", type=int, help="Paired cells of each candidate.")
@click.option("--seed", type=int, help="Equal seeds give equal cells.")
@click.option("--budget", type=int, help="Most cells in all.")
@click.option("--race/--no-race", default=None, help="Spend cells in rounds; default with rules.")
@click.option("--top-n", type=int, help="Best candidates that a race settles.")
@click.option("--top", type=int, default=10, show_default=True, help="Candidates to show.")
@click.option("--dry-run", is_flag=True, help="Plan only: nothing is simulated.")
@common
@click.pass_context
def screen(
    ctx: click.Context, screen_id: str | None, *, top: int, dry_run: bool, **given: Any
) -> None:
    """Plan a screen and run it, or go on with SCREEN_ID, and print the ranking.

    What is simulated is kept: after an interruption the same command, or SCREEN_ID, goes on where
    it was. Exits with 1 where the screen cannot be finished.
    """
    arguments = _arguments(given)
    # A plan is fixed when it is written: options beside its id would be ignored.
    if screen_id is not None and arguments:
        message = (
            f"{screen_id} is a whole plan, so leave out {', '.join(sorted(arguments))}; or leave "
            "out the id to plan another screen"
        )
        raise click.UsageError(message)
    app = open_app()
    try:
        if screen_id is None:
            screen_id = _planned(app, arguments, dry_run=dry_run)
        if screen_id is None or dry_run:
            return
        result = _finished(app, screen_id, top)
    finally:
        app.close()
    from lingshu_tools.calls.registry import registry

    show(result, registry()["run_screen"].text(result))
    ctx.exit(0 if result.status == "succeeded" else 1)


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of plan_screen that options of the line stand for."""
    names = ("toward", "magnitude", "keep_within")
    # Taken out of `given`, so that what is left are arguments of plan_screen as they stand.
    objective: dict[str, Any] = {
        word: list(given.pop(name)) for name, (word, _) in _LISTS.items() if given[name]
    }
    objective |= {name: given[name] for name in names if given[name] is not None}
    rest = {name: v for name, v in given.items() if name not in (*_LISTS, *names)}
    arguments = {name: v for name, v in rest.items() if v is not None and v != ()}
    if "candidates" in arguments:
        arguments["candidates"] = list(arguments["candidates"])
    return arguments | ({"objective": objective} if objective else {})


def _planned(app: "App", arguments: dict[str, Any], *, dry_run: bool) -> str | None:
    """Return the id of a plan, which is shown before it runs."""
    from lingshu_tools.calls.dispatcher import call
    from lingshu_tools.calls.registry import registry

    request = {"objective": {}, "candidates": ["all_seen"]} | arguments
    plan = call(app, "plan_screen", request)
    if dry_run:
        show(plan, registry()["plan_screen"].text(plan))
    elif not settings().as_json:
        again = f"lingshu screen {plan.screen_id} goes on with it after an interruption"
        click.echo(f"{plan.summary}\n{again}.", err=True)
    return plan.screen_id


def _finished(app: "App", screen_id: str, top: int) -> "ScreenResult":
    """Return the ranking of a screen when nothing of it is at work."""
    from lingshu_tools.calls.dispatcher import call
    from lingshu_tools.tools.run_screen import screen_shown

    try:
        with progress_bar(screen_id) as bar:
            # A bar on a terminal, lines elsewhere: a log shows that work goes on.
            tell = bar or Lines(screen_id)
            result = call(app, "run_screen", {"screen_id": screen_id, "wait_s": STEP_S})
            while result.status in AT_WORK:
                if result.progress:
                    tell(result.progress.done, result.progress.total)
                # Unlike run_screen, this begins nothing that failed again.
                result = call(app, "get_experiment", {"id": screen_id, "wait_s": STEP_S})
    except KeyboardInterrupt:
        click.echo(f"\nlingshu screen {screen_id} goes on where this ended", err=True)
        raise
    return screen_shown(app, screen_id, top=top, detailed=True, whole=True)


class Lines:
    """A line of progress each half minute, for a pipe or a file."""

    def __init__(self, name: str) -> None:
        self._name, self._last = name, time.monotonic()

    def __call__(self, cells: int, total: int) -> None:
        """Print how many cells are there, where half a minute has passed since the last line."""
        now = time.monotonic()
        if now - self._last >= LINE_S:
            self._last = now
            click.echo(f"{self._name}: {cells:,} of {total:,} cells", err=True)
            sys.stderr.flush()
