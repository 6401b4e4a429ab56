"""The extension io.modelcontextprotocol/ui (MCP Apps, 2026-01-26), for clients that declare it.

A client that declares the extension with the MIME type of such pages gets: the extension among the
server's capabilities, `_meta.ui.resourceUri` on four tools, the page among the resources and the
figures among the resource templates. Every other client gets the same answers as without it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.resources import FunctionResource

from lingshu_mcp.lab_page.document import APP_MIME_TYPE, URI, html

IDENTIFIER: Final = "io.modelcontextprotocol/ui"
TOOLS: Final = frozenset({"get_experiment", "run_screen", "compare_experiments", "propose_batch"})
"""Tools whose results the page shows; each costs 14 tokens of the list."""
FIGURE: Final = "figures://{id}/{kind}{?other}"
UNLISTED: Final = ("ui://", "figures://")
"""How URIs begin that only clients with the extension are told of."""
# No domain at all: the page has everything that it needs.
_PAGE: Final[Mapping[str, Any]] = {
    "uri": URI,
    "name": "lab_page",
    "title": "Lab page",
    "description": "Screens, effects, cells, plates and provenance, interactive",
    "mimeType": APP_MIME_TYPE,
}
_FIGURES: Final[Mapping[str, Any]] = {
    "uriTemplate": FIGURE,
    "name": "figure",
    "title": "Numbers of a figure",
    "description": "volcano, embedding, comparison (other: a second experiment), ranking, plate",
    "mimeType": "application/json",
}
Request = ServerRequestContext[Any, Any]


def add_page(server: MCPServer) -> None:
    """Make the page readable, and advertise it to clients that show such pages."""
    server.add_resource(
        FunctionResource(
            uri=URI, name="lab_page", mime_type=APP_MIME_TYPE, fn=html, meta={"ui": _UI}
        )
    )
    server.middleware.append(_advertise)


_UI: Final[Mapping[str, Any]] = {"csp": {}, "prefersBorder": False}


async def _advertise(ctx: Request, call_next: CallNext) -> HandlerResult:
    result = await call_next(ctx)
    add = _ADDITIONS.get(ctx.method)
    if add is None or not isinstance(result, dict) or not _declared(ctx):
        return result
    add(result)
    if "cacheScope" in result:
        # The answer depends on what the client can do.
        result["cacheScope"] = "private"
    return result


def _declared(ctx: Request) -> bool:
    known = ctx.session.client_capabilities
    extensions: Mapping[str, Any] = (known.extensions if known else None) or {}
    if ctx.method == "initialize":
        # The session takes them over when the request has been answered.
        given: Any = (ctx.params or {}).get("capabilities")
        extensions = (given.get("extensions") if isinstance(given, dict) else None) or {}
    settings: Any = extensions.get(IDENTIFIER)
    types: Any = settings.get("mimeTypes") if isinstance(settings, dict) else None
    return isinstance(types, list | tuple) and APP_MIME_TYPE in types


def _tools(result: dict[str, Any]) -> None:
    for tool in result.get("tools", ()):
        if tool["name"] in TOOLS:
            tool["_meta"] = {**tool.get("_meta", {}), "ui": {"resourceUri": URI}}


def _capabilities(result: dict[str, Any]) -> None:
    capabilities: dict[str, Any] = result.setdefault("capabilities", {})
    capabilities.setdefault("extensions", {})[IDENTIFIER] = {}


def _resources(result: dict[str, Any]) -> None:
    result.setdefault("resources", []).append({**_PAGE, "_meta": {"ui": _UI}})


def _templates(result: dict[str, Any]) -> None:
    result.setdefault("resourceTemplates", []).append(dict(_FIGURES))


_ADDITIONS: Final[Mapping[str, Callable[[dict[str, Any]], None]]] = {
    "initialize": _capabilities,
    "server/discover": _capabilities,
    "tools/list": _tools,
    "resources/list": _resources,
    "resources/templates/list": _templates,
}
