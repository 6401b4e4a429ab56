"""The MCP server: every tool of the registry, registered once, answered by the dispatcher.

The SDK neither validates nor formats here: schemas, strictness and the texts of errors are the
dispatcher's, so that a call means the same for every entry point.
"""

import base64
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
from mcp.server import CacheHint, MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError

from lingshu_mcp.back import Back, back_of
from lingshu_mcp.lab_page.extension import UNLISTED, add_page
from lingshu_mcp.offers.registration import add_completions, add_prompts, add_resources, cards
from lingshu_mcp.spec_tool import spec_tool
from lingshu_mcp.tasks.experiments import ExperimentTasks
from lingshu_mcp.tasks.extension import Tasks
from lingshu_model import __version__
from lingshu_tools.calls.instructions import INSTRUCTIONS
from lingshu_tools.calls.published import published_tools
from lingshu_tools.errors import did_you_mean, quoted

if TYPE_CHECKING:
    from lingshu_mcp.calls import Calls
    from lingshu_tools.app import App

_PICTURE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">\
<circle cx="16" cy="16" r="14" fill="#0072B2"/>\
<circle cx="16" cy="16" r="6" fill="none" stroke="#fff" stroke-width="2"/>\
<circle cx="16" cy="16" r="2" fill="#fff"/></svg>"""
ICON: Final = f"data:image/svg+xml;base64,{base64.b64encode(_PICTURE.encode()).decode()}"


class LingshuServer(MCPServer):
    """An MCP server that lists the installed checkpoints, and says what there is in errors."""

    list_cards: Callable[[], Awaitable[list[types.Resource]]]
    tasks: Tasks

    async def list_resources(self) -> list[types.Resource]:
        """Return the model cards; experiments and pictures have templates."""
        # Resources of the lab page are for clients that show it.
        listed = [r for r in await super().list_resources() if not r.uri.startswith(UNLISTED)]
        return [*listed, *await self.list_cards()]

    async def list_resource_templates(self) -> list[types.ResourceTemplate]:
        """Return the templates for every client; those of the lab page are added for some."""
        templates = await super().list_resource_templates()
        return [t for t in templates if not t.uri_template.startswith(UNLISTED)]

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Any, Any] | None = None,
    ) -> types.GetPromptResult | types.InputRequiredResult:
        """Return a prompt.

        Raises:
            MCPError: invalid parameters: no such prompt, or not the arguments that it takes.
        """
        prompts = {prompt.name: prompt for prompt in await self.list_prompts()}
        if name not in prompts:
            near = did_you_mean(name, prompts)
            message = f"no prompt {quoted(name)}.{near} Prompts: {', '.join(prompts)}"
            raise MCPError(code=types.INVALID_PARAMS, message=message)
        known = prompts[name].arguments or []
        missing = [a.name for a in known if a.required and not (arguments or {}).get(a.name)]
        others = sorted(set(arguments or {}) - {a.name for a in known})
        if missing or others:
            message = (
                f"prompt {name!r} takes {', '.join(a.name for a in known)}; "
                f"missing: {', '.join(missing) or 'nothing'}; "
                f"not known: {quoted(others) if others else 'nothing'}"
            )
            raise MCPError(code=types.INVALID_PARAMS, message=message)
        return await super().get_prompt(name, arguments, context)


def build_server(
    app: "App",
    calls: "Calls | None" = None,
    *,
    app_of_caller: "Callable[[], App] | None" = None,
    core: bool = False,
) -> MCPServer:
    """Return an MCP server of the registered tools, working on `app`; no transport is opened.

    Args:
        app: what the tools work on.
        calls: the limits on calls, and who lets waiting calls go when the server is to end.
        app_of_caller: called in each request for the application of its principal, where there are
            several; `app` by default.
        core: only the six tools of `CORE`, for small models.
    """
    from lingshu_mcp.calls import Calls

    app_of = app_of_caller or (lambda: app)
    return assemble(back_of(app_of, calls or Calls()), core=core)


def assemble(back: Back, *, core: bool = False) -> MCPServer:
    """Return the same, of an application that is made when the first call comes."""
    tools = [tool for tool in published_tools() if tool.core_output_schema or not core]
    # The texts of the core server name no tool that it lacks.
    listed = [tool.name for tool in tools]
    tasks = Tasks([ExperimentTasks(back)])
    server = LingshuServer(
        "lingshu",
        title="lingshu-tools: experiments on a virtual cell",
        version=__version__,
        icons=[types.Icon(src=ICON, mime_type="image/svg+xml", sizes=["any"])],
        instructions=INSTRUCTIONS,
        tools=[spec_tool(back, tool, listed, core=core) for tool in tools],
        cache_hints={"tools/list": CacheHint(ttl_ms=300_000, scope="public")},
        # Nothing that a client may list changes while a server runs.
        subscriptions=False,
        extensions=[tasks],
        log_level="WARNING",
    )
    add_resources(server, back)
    add_prompts(server, back)
    add_completions(server, back)
    add_page(server)
    server.list_cards = lambda: cards(back)
    server.tasks = tasks
    return server
