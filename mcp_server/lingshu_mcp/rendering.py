"""Results as clients get them: structured content, a text and, on request, a picture."""

import base64
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import mcp_types as types
from mcp_types.version import is_version_at_least

from lingshu_tools.calls.concise import is_detailed, shown, structured
from lingshu_tools.calls.registry import TOOL_NAMES, ToolSpec
from lingshu_tools.calls.results import Result

LINKS_SINCE: Final = "2025-06-18"
"""The first protocol version with links to resources in a result."""


def rendered(
    spec: ToolSpec,
    result: Result,
    arguments: Mapping[str, Any],
    *,
    version: str,
    tools: Collection[str] = TOOL_NAMES,
) -> types.CallToolResult:
    """Return a result with its text.

    Args:
        spec: the tool.
        result: what it returned.
        arguments: of the call; `image` says whether a picture is linked to or put inline.
        version: of the protocol.
        tools: those that the server lists: a next step names no other.
    """
    detailed = is_detailed(arguments)
    # Before the text is made: text and structured content name the same next step.
    result = shown(for_tools(result, tools), detailed=detailed)
    blocks: list[types.ContentBlock] = [types.TextContent(type="text", text=spec.text(result))]
    image, path = arguments.get("image"), getattr(result, "png", None)
    # Inline only on request: the base64 of a picture fills a model's context.
    if path is not None and image == "inline":
        data = base64.b64encode(Path(path).read_bytes()).decode()
        blocks.append(types.ImageContent(type="image", data=data, mime_type="image/png"))
    elif path is not None and image == "link" and is_version_at_least(version, LINKS_SINCE):
        blocks.append(_link(result, path))
    value = structured(result, spec.name, arguments, detailed=detailed)
    return types.CallToolResult(content=blocks, structured_content=value)


def for_tools(result: Result, tools: Collection[str]) -> Result:
    """Return a result whose next step leads only to tools that are listed."""
    others = [name for name in TOOL_NAMES if name not in tools]
    if not others or not result.next_step:
        return result
    # A next step is a list of calls, parted by semicolons.
    parts = result.next_step.split("; ")
    kept = [part for part in parts if not any(f"{name}(" in part for name in others)]
    return result.model_copy(update={"next_step": "; ".join(kept).rstrip(";") or None})


def _link(result: Result, path: str) -> types.ResourceLink:
    return types.ResourceLink(
        type="resource_link",
        uri=getattr(result, "uri", ""),
        name=Path(path).name,
        description=result.summary,
        mime_type="image/png",
        size=Path(path).stat().st_size,
    )
