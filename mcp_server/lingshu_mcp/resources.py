"""Resources: experiments and their effects, model cards and pictures, each under its URI."""

import re
from collections.abc import Callable
from typing import Any, Final

import mcp_types as types
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from lingshu_mcp.calls import Calls
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, LingshuError, NotFoundError, quoted
from lingshu_tools.experiments.designs import resolve_checkpoint
from lingshu_tools.experiments.lookup import is_screen, locate, locate_screen

EXPERIMENT: Final = "ledger://experiments/{id}"
EFFECTS: Final = "ledger://experiments/{id}/effects{?top}"
CARD: Final = "model://{checkpoint}/card"
PLOT: Final = "plots://{name}."
"""Followed by the suffix of the file."""
TOP: Final = 50
"""Genes of an effect that are read where `top` is left out."""
MIME: Final = {"png": "image/png", "svg": "image/svg+xml", "csv": "text/csv"}
_FILE = re.compile(r"((?:exp|scr)_[a-z0-9]+)-[a-z]+-[0-9a-f]{8}\.(png|svg|csv)")


def add_resources(server: MCPServer, app_of: Callable[[], App], calls: Calls) -> None:
    """Register the templates of all resources."""

    async def read(work: Callable[[App], str | bytes]) -> str | bytes:
        app = app_of()
        try:
            return await calls.read(app, lambda: work(app))
        except InputError as error:
            raise ResourceNotFoundError(str(error)) from error
        except LingshuError as error:
            raise ResourceError(str(error)) from error

    @server.resource(EXPERIMENT, title="Experiment or screen", mime_type="application/json")
    async def experiment(id: str) -> str | bytes:  # noqa: A002 - a variable of the URI
        """The result of an experiment with its whole provenance; of a screen, its ranking."""
        return await read(lambda app: _experiment(app, id))

    @server.resource(EFFECTS, title="Effect on each gene", mime_type="application/json")
    async def effects(id: str, top: str = str(TOP)) -> str | bytes:  # noqa: A002 - the same
        """The genes of an experiment that change most, strongest first; `top` up to 200."""
        return await read(lambda app: _effects(app, id, top))

    @server.resource(CARD, title="Model card", mime_type="text/markdown")
    async def card(checkpoint: str) -> str | bytes:
        """How a checkpoint was made, what it is good for, and what its data cannot show."""
        return await read(lambda app: _card(app, checkpoint))

    def add_plot(suffix: str) -> None:
        uri = f"{PLOT}{suffix}"

        @server.resource(uri, name=f"plot_{suffix}", title=suffix.upper(), mime_type=MIME[suffix])
        async def plot(name: str) -> str | bytes:
            """A picture that plot_experiment drew (PNG, SVG), or the numbers behind it (CSV)."""
            return await read(lambda app: _plot(app, f"{name}.{suffix}"))

    for suffix in MIME:
        add_plot(suffix)


def cards(app: App) -> list[types.Resource]:
    """Return the model cards of the installed checkpoints, as they are listed."""
    return [
        types.Resource(
            uri=CARD.format(checkpoint=name),
            name=f"{name} card",
            title=f"Model card of {name}",
            mime_type="text/markdown",
        )
        for name in app.catalogue.names()
    ]


def _experiment(app: App, name: str) -> str:
    detail = "summary" if is_screen(name) else "provenance"
    return _json(call(app, "get_experiment", {"id": name, "detail": detail}))


def _effects(app: App, name: str, top: str) -> str:
    if not (top.isascii() and top.isdigit()):
        message = f"top={quoted(top)} is no number of genes, 1 to 200"
        raise InputError(message)
    arguments = {"id": name, "detail": "effects", "limit": int(top)}
    return _json(call(app, "get_experiment", arguments))


def _card(app: App, name: str) -> str:
    return (resolve_checkpoint(app, name).path / "card.md").read_text("utf-8")


def _plot(app: App, file: str) -> bytes | str:
    match = _FILE.fullmatch(file)
    path = app.home / "plots" / file
    if match is None or not path.is_file():
        message = f"no picture {quoted(file)}; plot_experiment draws one and returns its URI"
        raise NotFoundError(message)
    # Raises where the caller's principal does not see what the picture is of.
    (locate_screen if is_screen(match[1]) else locate)(app, match[1])
    return path.read_bytes() if match[2] == "png" else path.read_text("utf-8")


def _json(result: Any) -> str:
    return result.model_dump_json(exclude_none=True)
