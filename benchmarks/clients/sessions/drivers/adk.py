"""google-adk: the tools of an `McpToolset`, called as its agents do."""

import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

from google.adk.tools.mcp_tool.mcp_session_manager import (
    StdioConnectionParams,
    StreamableHTTPConnectionParams,
)
from google.adk.tools.mcp_tool.mcp_toolset import McpToolset
from mcp import StdioServerParameters


class Session:
    """The tools."""

    cancels = True

    def __init__(self, tools):
        self.tools = {tool.name: tool for tool in tools}

    async def names(self):
        return list(self.tools)

    async def call(self, name, arguments):
        # The context of an invocation without confirmation, credential or state.
        context = SimpleNamespace(tool_confirmation=None, state={}, _invocation_context=None)
        output = await self.tools[name].run_async(args=arguments, tool_context=context)
        blocks = output.get("content") if isinstance(output, dict) else None
        if blocks is None:
            return json.dumps(output, default=str)
        return "\n".join(block["text"] for block in blocks if block["type"] == "text")


@asynccontextmanager
async def connect(server, limit_s):
    if "url" in server:
        parameters = StreamableHTTPConnectionParams(
            **server, timeout=limit_s, sse_read_timeout=limit_s
        )
    else:
        command = StdioServerParameters(command=server["command"], args=server["args"])
        parameters = StdioConnectionParams(server_params=command, timeout=limit_s)
    toolset = McpToolset(connection_params=parameters)
    try:
        yield Session(await toolset.get_tools())
    finally:
        await toolset.close()
