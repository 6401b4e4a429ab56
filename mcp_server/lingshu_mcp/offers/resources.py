"""What resources hold: experiments and their effects, model cards, pictures."""

import json
import re
from typing import Any

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, NotFoundError, quoted
from lingshu_tools.experiments.designs import resolve_checkpoint
from lingshu_tools.experiments.lookup import is_screen, locate, locate_screen
from lingshu_tools.system.plain_text import plain_values
from lingshu_tools.tools.figures import figure as numbers_of

# ID-KIND-HASH.SUFFIX, as plot_experiment names files, and PROPOSAL.SUFFIX, as propose_batch names a
# plate map: a proposal has only one. No separator can be in it.
_FILE = re.compile(
    r"(mea_[a-z0-9]+|(?:exp|scr)_[a-z0-9]+(?=-))(?:-[a-z]+-[0-9a-f]{8})?\.(png|svg|csv)"
)


def checkpoints(app: App) -> list[str]:
    """Return the names of the installed checkpoints."""
    return list(app.catalogue.names())


def experiment(app: App, name: str) -> str:
    """Return an experiment with its provenance, or a screen, as JSON."""
    detail = "summary" if is_screen(name) else "provenance"
    return _json(call(app, "get_experiment", {"id": name, "detail": detail}))


def effects(app: App, name: str, top: str) -> str:
    """Return the genes that an experiment changes most, as JSON."""
    if not (top.isascii() and top.isdigit()):
        message = f"top={quoted(top)} is no number of genes, 1 to 200"
        raise InputError(message)
    arguments = {"id": name, "detail": "effects", "limit": int(top)}
    return _json(call(app, "get_experiment", arguments))


def times(app: App, name: str) -> tuple[str, str]:
    """Return when an experiment or a screen was recorded, and the last of its outcomes so far."""
    if is_screen(name):
        ledger, screen = locate_screen(app, name)
        created, ids = screen.created_at, [child.id for child in ledger.children(screen.id)]
    else:
        ledger, row = locate(app, name)
        created, ids = row.created_at, [row.id]
    # ISO 8601 of one time zone: the order of texts is that of times.
    return created, max([created, *(o.created_at for o in ledger.outcomes(ids).values())])


def figure(app: App, name: str, kind: str, other: str) -> str:
    """Return the numbers of a figure, as JSON."""
    return json.dumps(
        plain_values(numbers_of(app, name, kind, other or None)),
        ensure_ascii=False,
        allow_nan=False,
    )


def card(app: App, name: str) -> str:
    """Return the card of a checkpoint."""
    return (resolve_checkpoint(app, name).path / "card.md").read_text("utf-8")


def plot(app: App, file: str) -> bytes | str:
    """Return a file that plot_experiment or propose_batch made."""
    # Before the path is opened: only names of this form lead to a file.
    match = _FILE.fullmatch(file)
    path = app.home / "plots" / file
    if match is None or not path.is_file():
        message = f"no picture {quoted(file)}; plot_experiment draws one and returns its URI"
        raise NotFoundError(message)
    # Raises where the caller's principal does not see what the picture is of.
    if match[1].startswith("mea_"):
        app.locate(lambda ledger: ledger.measurement(match[1]))
    else:
        (locate_screen if is_screen(match[1]) else locate)(app, match[1])
    return path.read_bytes() if match[2] == "png" else path.read_text("utf-8")


def _json(result: Any) -> str:
    return result.model_dump_json(exclude_none=True)
