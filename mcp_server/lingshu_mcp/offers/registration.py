"""What a server registers beside its tools; the modules that do the work are imported later."""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Final

import anyio.to_thread
import mcp_types as types
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.shared.exceptions import MCPError
from pydantic import Field

from lingshu_mcp.back import Back
from lingshu_mcp.lab_page.extension import FIGURE
from lingshu_tools.errors import InputError, LingshuError

EXPERIMENT: Final = "ledger://experiments/{id}"
EFFECTS: Final = "ledger://experiments/{id}/effects{?top}"
CARD: Final = "model://{checkpoint}/card"
PLOT: Final = "plots://{name}."
"""Followed by the suffix of the file."""
TOP: Final = 50
"""Genes of an effect that are read where `top` is left out."""
MIME: Final = {"png": "image/png", "svg": "image/svg+xml", "csv": "text/csv"}
Id = Annotated[str, Field(description="Experiment id exp_… or screen id scr_…")]


async def work(back: Back, module: str, function: str, *arguments: Any) -> Any:
    """Return what a function of a module of this package returns for the caller's application.

    Raises:
        LingshuError: refused, failed, or not answered in time.
    """
    app, calls = await back.get()

    def find() -> Callable[..., Any]:
        # In a thread, when first used: these modules import what takes time.
        return getattr(import_module(f"lingshu_mcp.offers.{module}"), function)

    reading = await anyio.to_thread.run_sync(find)
    return await calls.read(app, lambda: reading(app, *arguments))


async def cards(back: Back) -> list[types.Resource]:
    """Return the model cards of the installed checkpoints, as they are listed."""
    try:
        names = await work(back, "resources", "checkpoints")
    except LingshuError as error:
        raise MCPError(code=types.INTERNAL_ERROR, message=str(error)) from error
    return [
        types.Resource(
            uri=CARD.format(checkpoint=name),
            name=f"{name} card",
            title=f"Model card of {name}",
            mime_type="text/markdown",
        )
        for name in names
    ]


def add_resources(server: MCPServer, back: Back) -> None:
    """Register the templates of all resources."""

    async def read(function: str, *arguments: str) -> str | bytes:
        try:
            return await work(back, "resources", function, *arguments)
        except InputError as error:
            # A wrong id is the caller's to mend, and has its own error code.
            raise ResourceNotFoundError(str(error)) from error
        except LingshuError as error:
            raise ResourceError(str(error)) from error

    @server.resource(EXPERIMENT, title="Experiment or screen", mime_type="application/json")
    async def experiment(id: str) -> str | bytes:  # noqa: A002 - a variable of the URI
        """The result of an experiment with its whole provenance; of a screen, its ranking."""
        return await read("experiment", id)

    @server.resource(EFFECTS, title="Effect on each gene", mime_type="application/json")
    async def effects(id: str, top: str = str(TOP)) -> str | bytes:  # noqa: A002 - the same
        """The genes of an experiment that change most, strongest first; `top` up to 200."""
        return await read("effects", id, top)

    @server.resource(FIGURE, title="Numbers of a figure", mime_type="application/json")
    async def figure(id: str, kind: str, other: str = "") -> str | bytes:  # noqa: A002 - the same
        """The columns, labels and intervals that a page draws."""
        return await read("figure", id, kind, other)

    @server.resource(CARD, title="Model card", mime_type="text/markdown")
    async def card(checkpoint: str) -> str | bytes:
        """How a checkpoint was made, what it is good for, and what its data cannot show."""
        return await read("card", checkpoint)

    # A function, so that each handler keeps its own suffix.
    def add_plot(suffix: str) -> None:
        uri = f"{PLOT}{suffix}"

        @server.resource(uri, name=f"plot_{suffix}", title=suffix.upper(), mime_type=MIME[suffix])
        async def plot(name: str) -> str | bytes:
            """A picture that plot_experiment drew (PNG, SVG), or the numbers behind it (CSV)."""
            return await read("plot", f"{name}.{suffix}")

    for suffix in MIME:
        add_plot(suffix)


def add_prompts(server: MCPServer, back: Back) -> None:
    """Register all prompts."""

    async def write(function: str, *arguments: str) -> str:
        try:
            return await work(back, "prompts", function, *arguments)
        except InputError as error:
            raise MCPError(code=types.INVALID_PARAMS, message=str(error)) from error
        except LingshuError as error:
            raise MCPError(code=types.INTERNAL_ERROR, message=str(error)) from error

    @server.prompt(title="Design a screen")
    async def design_screen(
        objective: Annotated[str, Field(description="What the perturbations are to achieve")],
        genes: Annotated[str, Field(description="Genes to move, separated by commas")] = "",
        context: Annotated[str, Field(description="The cells, as listed: cell_line=THP-1")] = "",
        checkpoint: Annotated[str, Field(description="Checkpoint; default: all")] = "",
    ) -> str:
        """Turn an objective into genes, candidates and a plan, before anything is simulated."""
        return await write("design", objective, genes, context, checkpoint)

    @server.prompt(title="Audit a claim")
    async def audit_claim(
        claim: Annotated[str, Field(description="The sentence to check")],
        id: Id,  # noqa: A002 - the name of an argument
    ) -> str:
        """Check a sentence against the experiment or screen it rests on."""
        return await write("audit", claim, id)

    @server.prompt(title="Compare experiments")
    async def compare_experiments(
        ids: Annotated[str, Field(description="Two to ten ids, separated by commas")],
    ) -> str:
        """Say what experiments share and where they differ by more than their errors."""
        return await write("compare", ids)

    @server.prompt(title="Write up")
    async def write_up(id: Id) -> str:  # noqa: A002 - the same
        """A methods paragraph with numbers from the ledger, and how to report the result."""
        return await write("write_up", id)


def add_completions(server: MCPServer, back: Back) -> None:
    """Register the completion of every argument that names something of a home."""

    @server.completion()
    async def complete(
        ref: types.PromptReference | types.ResourceTemplateReference,
        argument: types.CompletionArgument,
        context: types.CompletionContext | None,
    ) -> types.Completion:
        given = (context.arguments if context else None) or {}
        kind = f"{getattr(ref, 'uri', '')} {argument.name}".strip()
        try:
            return await work(back, "completions", "completed", kind, argument.value, given)
        except LingshuError:
            # What is asked for while somebody types; the call itself says what is wrong.
            return types.Completion(values=[])
