"""A tool of the registry as the SDK registers it."""

from collections.abc import Callable, Collection
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from pydantic import Field

from lingshu_mcp.calls import Calls
from lingshu_mcp.confirming import confirmed
from lingshu_mcp.rendering import rendered
from lingshu_tools.app import App
from lingshu_tools.calls.registry import ToolSpec
from lingshu_tools.calls.results import Result
from lingshu_tools.errors import CostError, LingshuError


class SpecTool(Tool):
    """A registered tool whose call goes straight to the dispatcher."""

    app_of_caller: Any = Field(exclude=True)
    spec: Any = Field(exclude=True)
    calls: Any = Field(exclude=True)
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
            if isinstance(allowed, types.InputRequiredResult):
                return allowed
            return await self._call(allowed, context)
        except LingshuError as error:
            raise ToolError(str(error)) from error

    async def _call(
        self, arguments: dict[str, Any], context: Context[Any, Any]
    ) -> types.CallToolResult:
        version = context.protocol_version or ""

        async def report(done: int, total: int) -> None:
            await context.report_progress(done, total, f"{done}/{total} cells")

        def render(result: Result) -> types.CallToolResult:
            return rendered(self.spec, result, arguments, version=version, tools=self.listed)

        app = self.app_of_caller()
        return await self.calls.call(app, self.spec, arguments, report, render)


def spec_tool(
    app_of: Callable[[], App],
    spec: ToolSpec,
    output_schema: dict[str, Any],
    calls: Calls,
    listed: Collection[str],
) -> Tool:
    """Return a tool to register.

    Args:
        app_of: gives the application of the caller's principal.
        spec: the tool.
        output_schema: as it is listed.
        calls: the limits on calls.
        listed: the names of all tools that the server lists.
    """
    return SpecTool(
        fn=spec.run,
        name=spec.name,
        title=spec.title,
        description=spec.description,
        parameters=spec.input_schema,
        fn_metadata=FuncMetadata(arg_model=ArgModelBase, output_schema=output_schema),
        is_async=True,
        context_kwarg=None,
        annotations=types.ToolAnnotations(
            title=spec.title,
            read_only_hint=spec.read_only,
            destructive_hint=spec.destructive,
            idempotent_hint=spec.idempotent,
            open_world_hint=False,
        ),
        app_of_caller=app_of,
        spec=spec,
        calls=calls,
        listed=listed,
    )
