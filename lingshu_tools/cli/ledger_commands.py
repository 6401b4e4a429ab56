"""`lingshu ledger`: look at what was run, prove that nobody changed it, take it elsewhere."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lingshu_tools.cli.common import common, echo_json, open_app, progress_bar, settings, show
from lingshu_tools.cli.migrate_command import migrate

if TYPE_CHECKING:
    from lingshu_tools.app import App
    from lingshu_tools.ledger.reading import Reading

_WHICH = click.option(
    "--ledger",
    "database",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another ledger file, opened read-only, such as the shipped experiments.db.",
)


@click.group()
def ledger() -> None:
    """List, show, verify, export and import what was run."""


ledger.add_command(migrate)


@ledger.command("list")
@click.option("--tool", help="Only experiments of this tool.")
@click.option("--status", help="Only experiments in this state.")
@click.option("--tag", help="Only experiments with this tag.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--before", help="Go on from this experiment id.")
@_WHICH
@common
def list_(
    tool: str | None,
    status: str | None,
    tag: str | None,
    limit: int,
    before: str | None,
    database: Path | None,
) -> None:
    """List experiments, newest first."""
    from lingshu_tools.calls.dispatcher import call
    from lingshu_tools.calls.registry import registry

    request = {"tool": tool, "status": status, "tag": tag, "limit": limit, "before": before}
    arguments = {name: value for name, value in request.items() if value is not None}
    result = call(_app(database), "list_experiments", arguments)
    show(result, registry()["list_experiments"].text(result))


@ledger.command("show")
@click.argument("experiment_id")
@_WHICH
@common
def show_(experiment_id: str, database: Path | None) -> None:
    """Show an experiment or a screen as a page of a lab book."""
    app = _app(database)
    if not settings().as_json:
        from lingshu_tools.cli.lab_book import page

        click.echo(page(app, experiment_id))
        return
    from lingshu_tools.calls.dispatcher import call
    from lingshu_tools.experiments.lookup import is_screen

    # A screen has no provenance of its own.
    detail = "summary" if is_screen(experiment_id) else "provenance"
    show(call(app, "get_experiment", {"id": experiment_id, "detail": detail, "wait_s": 0}))


@ledger.command("tag")
@click.argument("experiment_id")
@click.argument("tags", nargs=-1, required=True)
@common
def tag_(experiment_id: str, tags: tuple[str, ...]) -> None:
    """Tag an experiment, so that `list --tag` finds it; a tag is never taken away."""
    app = open_app()
    names = app.ledger.tag(experiment_id, tags, principal=app.principal)
    _tell({"experiment_id": experiment_id, "tags": names}, f"{experiment_id}: {', '.join(names)}")


@ledger.command()
@click.option("--anchor", multiple=True, metavar="SEQ:HASH", help="A head kept from earlier.")
@_WHICH
@common
@click.pass_context
def verify(ctx: click.Context, anchor: tuple[str, ...], database: Path | None) -> None:
    """Re-derive every hash, read every object, compare the schema; exits with 1 if one is wrong."""
    from lingshu_tools.ledger import Head
    from lingshu_tools.system.plain_text import plain

    anchors = [Head.parse(text) for text in anchor]
    with progress_bar("verify", "rows") as sink:
        report = _to_audit(database).verify(sink, anchors=anchors)
    problems = [plain(str(problem)) for problem in report.problems]
    if settings().as_json:
        status = "succeeded" if report.ok else "failed"
        counted = {"rows": report.rows, "objects": report.objects, "head": str(report.head)}
        echo_json({"status": status, "ok": report.ok, **counted, "problems": problems})
    else:
        objects = "no" if report.objects is None else report.objects
        click.echo(f"{report.rows} rows and {objects} objects; head {report.head}")
        click.echo("\n".join(problems) or "every hash is as it should be")
    ctx.exit(0 if report.ok else 1)


@ledger.command("export")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--license", "terms", help="Terms of use, as text or a URL; said in the archive.")
@_WHICH
@common
def export_(out: Path, terms: str | None, database: Path | None) -> None:
    """Write the whole ledger, rows and objects, to the new file OUT.zip.

    All of it or nothing: every row is a link of one hash chain, so no part can be taken out. For
    single experiments there is the tool export_experiment.
    """
    from lingshu_tools.archive import export_ledger

    with progress_bar("export") as sink:
        # Of another file too: what is read-only can be exported.
        archive = export_ledger(_app(database).ledger, out, terms=terms, progress=sink)
    metadata = archive.metadata.model_dump(mode="json")
    rows, objects = sum(archive.metadata.rows.values()), archive.metadata.objects
    _tell(
        {"path": str(archive.path), "digest": archive.digest, "bytes": archive.bytes, **metadata},
        f"{archive.path}: {rows} rows and {objects.count} objects, {archive.bytes:,} bytes\n"
        f"{archive.digest}\nhead {archive.metadata.head}",
        [
            f"the outcome of {name} still waits for the database; it is not in"
            for name in archive.spooled
        ],
    )


@ledger.command("import")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), help="A new home.")
@click.option(
    "--max-gib",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Refuse archives that unpack to more.",
)
@common
def import_(archive: Path, into: Path | None, max_gib: int) -> None:
    """Make ARCHIVE the ledger of an empty home, once every hash in it has been derived again."""
    from lingshu_tools.archive import Limits, import_ledger
    from lingshu_tools.errors import InputError

    if os.environ.get("LINGSHU_LEDGER"):
        message = (
            "LINGSHU_LEDGER names the ledger to be used, and an archive becomes a file in a home: "
            "unset it, here and where the imported ledger is to be used"
        )
        raise InputError(message)
    # The home of this shell, unless --into names another; both must be empty.
    home = into.expanduser().absolute() if into else open_app().home
    with progress_bar("import") as sink:
        imported = import_ledger(
            archive, home, limits=Limits(total=max_gib * 1024**3), progress=sink
        )
    rows, objects = sum(imported.metadata.rows.values()), imported.metadata.objects
    _tell(
        {"home": str(imported.home), **imported.metadata.model_dump(mode="json")},
        f"{imported.home}: {rows} rows and {objects.count} objects, all verified\n"
        f"head {imported.metadata.head}: compare it with one the sender names",
    )


@ledger.command()
@click.option(
    "--older-than",
    type=click.FloatRange(min=1 / 24),
    default=7,
    show_default=True,
    metavar="DAYS",
    help="Leave younger objects alone: their rows may be on the way.",
)
@click.option("--delete", is_flag=True, help="Delete them; without it they are only listed.")
@common
def gc(older_than: float, *, delete: bool) -> None:
    """List objects, and stored cells of users, that no row refers to, or delete them.

    Safe while others are at work.
    """
    from lingshu_tools.ledger.garbage import DAY_S, collect_garbage
    from lingshu_tools.user_cells.unused import unused_cells

    app = open_app()
    # The first refuses a home that serves another ledger too; the second relies on that.
    objects = collect_garbage(app.ledger, min_age_s=older_than * DAY_S, delete=delete)
    cells = unused_cells(app.ledger, app.home, min_age_s=older_than * DAY_S, delete=delete)
    named = [[str(path) for path in garbage.paths] for garbage in (objects, cells)]
    sizes = f"{len(named[0])} objects, {objects.bytes:,} bytes"
    if named[1]:
        sizes += f", and {len(named[1])} files of user_cells/, {cells.bytes:,} bytes"
    kept, young, deleted = (
        getattr(objects, name) + getattr(cells, name) for name in ("kept", "young", "deleted")
    )
    outcome = f"{deleted} deleted" if delete else "nothing deleted; --delete does it"
    _tell(
        {
            "objects": named[0],
            "user_cells": named[1],
            "bytes": objects.bytes + cells.bytes,
            "young": young,
            "kept": kept,
            "deleted": deleted,
        },
        "\n".join(
            [
                *named[0],
                *named[1],
                f"{sizes}, that no row refers to: {outcome}",
                f"kept: {kept} in use, {young} younger than {older_than:g} days",
            ]
        ),
    )


def _tell(structured: dict[str, Any], text: str, warnings: Sequence[str] = ()) -> None:
    if settings().as_json:
        echo_json({"status": "succeeded", **structured, "warnings": list(warnings)})
    else:
        click.echo("\n".join([text, *warnings]))


def _to_audit(database: Path | None) -> "Reading":
    """Return the ledger; where its schema keeps it from being used, it can still be verified."""
    from lingshu_tools.errors import SchemaError
    from lingshu_tools.ledger.backend import backend_of
    from lingshu_tools.ledger.reading import Reading

    try:
        return _app(database).ledger
    # An audit reads rows as they are: a schema of another version is no reason not to look.
    except SchemaError:
        home = open_app().home if database is None else database.parent
        # A file that was named wins over the server that the environment names.
        url = None if database else os.environ.get("LINGSHU_LEDGER")
        address = url or str((database or home / "experiments.db").absolute())
        return Reading.open_for_audit(backend_of(address, writable=False), home)


def _app(database: Path | None) -> "App":
    if database is None:
        return open_app()
    from lingshu_tools.app import App
    from lingshu_tools.ledger import Ledger

    return App(settings().home, door="cli", ledger=Ledger.open_read_only(database))
