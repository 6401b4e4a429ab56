"""`lingshu ledger migrate`: bring a ledger to this version's schema."""

import os
from pathlib import Path

import click

from lingshu_tools.cli.common import common, echo_json, open_app, settings


@click.command()
@click.option(
    "--ledger",
    "database",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another ledger file than the home's.",
)
@common
def migrate(database: Path | None) -> None:
    """Bring the ledger to this version's schema, after making a copy beside it.

    Nothing is taken away and no row changes. An older ledger works without it, but looks for rare
    states slowly.
    """
    from lingshu_tools.ledger.migrate import migrate as bring
    from lingshu_tools.ledger.migrate import migrate_server

    url = None if database else os.environ.get("LINGSHU_LEDGER")
    migrated = migrate_server(url) if url else bring(database or open_app().home / "experiments.db")
    if settings().as_json:
        backup = None if migrated.backup is None else str(migrated.backup)
        changed = {
            "before": migrated.before,
            "after": migrated.after,
            "restored": migrated.restored,
        }
        echo_json({"status": "succeeded", **changed, "backup": backup})
        return
    for restored in migrated.restored:
        click.echo(f"restored: {restored}")
    if migrated.before == migrated.after:
        click.echo(f"schema {migrated.after} already; what is derived from the rows was made anew")
    else:
        click.echo(f"schema {migrated.before} is now {migrated.after}")
    if migrated.backup is not None:
        click.echo(f"as it was, it is in {migrated.backup}")
