"""`lingshu ledger`: look at what was run, and prove that nobody changed it.

Knows nothing of hashes: the ledger verifies itself.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lingshu_tools.cli_common import common, echo_json, open_app, progress_bar, settings, show
from lingshu_tools.cli_migrate import migrate

if TYPE_CHECKING:
    from lingshu_tools.app import App

_WHICH = click.option(
    "--ledger",
    "database",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another ledger file, opened read-only, such as the shipped experiments.db.",
)


@click.group()
def ledger() -> None:
    """List, show and verify what was run."""


ledger.add_command(migrate)


@ledger.command("list")
@click.option("--tool", help="Only experiments of this tool.")
@click.option("--status", help="Only experiments in this state.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--before", help="Go on from this experiment id.")
@_WHICH
@common
def list_(
    tool: str | None, status: str | None, limit: int, before: str | None, database: Path | None
) -> None:
    """List experiments, newest first."""
    from lingshu_tools.dispatcher import call
    from lingshu_tools.registry import registry

    asked = {"tool": tool, "status": status, "limit": limit, "before": before}
    arguments = {name: value for name, value in asked.items() if value is not None}
    result = call(_app(database), "list_experiments", arguments)
    show(result, registry()["list_experiments"].text(result))


@ledger.command("show")
@click.argument("experiment_id")
@_WHICH
@common
def show_(experiment_id: str, database: Path | None) -> None:
    """Show one experiment with its provenance."""
    from lingshu_tools.dispatcher import call
    from lingshu_tools.registry import registry

    arguments = {"id": experiment_id, "detail": "provenance", "wait_s": 0}
    result = call(_app(database), "get_experiment", arguments)
    show(result, registry()["get_experiment"].text(result))


@ledger.command()
@click.option("--anchor", multiple=True, metavar="SEQ:HASH", help="A head kept from earlier.")
@_WHICH
@common
@click.pass_context
def verify(ctx: click.Context, anchor: tuple[str, ...], database: Path | None) -> None:
    """Re-derive every hash and read every object; exits with 1 at the first thing wrong."""
    from lingshu_tools.ledger import Head

    anchors = [Head.parse(text) for text in anchor]
    with progress_bar("verify") as sink:
        report = _app(database).ledger.verify(sink, anchors=anchors)
    problems = [str(problem) for problem in report.problems]
    if settings().as_json:
        status = "succeeded" if report.ok else "failed"
        counted = {"rows": report.rows, "objects": report.objects, "head": str(report.head)}
        echo_json({"status": status, "ok": report.ok, **counted, "problems": problems})
    else:
        objects = "no" if report.objects is None else report.objects
        click.echo(f"{report.rows} rows and {objects} objects; head {report.head}")
        click.echo("\n".join(problems) or "every hash is as it should be")
    ctx.exit(0 if report.ok else 1)


def _app(database: Path | None) -> "App":
    if database is None:
        return open_app()
    from lingshu_tools.app import App
    from lingshu_tools.ledger import Ledger

    return App(settings().home, door="cli", ledger=Ledger.open_read_only(database))
