"""A tool of the registry as the SDK registers it."""

from collections.abc import Sequence
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from pydantic import Field

from lingshu_mcp.back import Back, spec_of
from lingshu_mcp.client_folders import client_folders
from lingshu_mcp.confirming import confirmed
from lingshu_tools.calls.published import PublishedTool
from lingshu_tools.errors import CostError, LingshuError


class SpecTool(Tool):
    """A registered tool whose call goes straight to the dispatcher."""

    back: Any = Field(exclude=True)
    listed: Any = Field(exclude=True)

    async def run(
        self,
        arguments: dict[str, Any],
        context: Context[Any, Any],
        convert_result: bool = False,  # noqa: ARG002, FBT001, FBT002 - the SDK's signature
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Return the typed result as structured content, with a compact text beside it.

        A call that needs `max_seconds` is made after the user has agreed, where the client can ask.

        Raises:
            ToolError: with the dispatcher's text.
        """
        try:
            try:
                return await self._call(arguments, context)
            except CostError as error:
                allowed = await confirmed(context, arguments, error)
                if allowed is None:
                    raise
            # Outside the `except`, so that an error of the second call does not carry the first
            # one.
            if isinstance(allowed, types.InputRequiredResult):
                return allowed
            return await self._call(allowed, context)
        except LingshuError as error:
            raise ToolError(str(error)) from error

    async def _call(
        self, arguments: dict[str, Any], context: Context[Any, Any]
    ) -> types.CallToolResult:
        app, calls = await self.back.get()
        # Read by now: `back` has imported what answers calls.
        from lingshu_mcp.rendering import rendered
        from lingshu_tools.calls.results import Result
        from lingshu_tools.experiments.roots import client_folders as opened_by_client

        spec, version = await spec_of(self.name), context.protocol_version or ""

        async def report(done: int, total: int) -> None:
            await context.report_progress(done, total, f"{done}/{total} cells")

        def render(result: Result) -> types.CallToolResult:
            return rendered(spec, result, arguments, version=version, tools=self.listed)

        # Roots of this client hold for this call alone.
        token = opened_by_client.set(await client_folders(context, arguments))
        try:
            return await calls.call(app, spec, arguments, report, render)
        finally:
            opened_by_client.reset(token)


def spec_tool(back: Back, tool: PublishedTool, listed: Sequence[str], *, core: bool) -> Tool:
    """Return a tool to register.

    Args:
        back: what answers its calls.
        tool: as it is listed.
        listed: the names of all tools that the server lists.
        core: whether these are the core tools alone.
    """
    schema = tool.core_output_schema if core else tool.output_schema
    return SpecTool(
        fn=_never,
        name=tool.name,
        title=tool.title,
        description=tool.description,
        parameters=dict(tool.input_schema),
        fn_metadata=FuncMetadata(arg_model=ArgModelBase, output_schema=dict(schema or {})),
        is_async=True,
        context_kwarg=None,
        # What the protocol assumes of a hint that is not there is left out; so is a second title.
        annotations=types.ToolAnnotations(
            read_only_hint=tool.read_only or None,
            # The default is true: false is said of what changes something without destroying it.
            destructive_hint=None if tool.destructive or tool.read_only else False,
            idempotent_hint=tool.idempotent or None,
            open_world_hint=False,
        ),
        back=back,
        listed=listed,
    )


def _never() -> None:
    """Stand for the function of a tool, which `SpecTool.run` does not use."""
