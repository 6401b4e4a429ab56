"""The OpenAI Agents SDK: tools in the strict form, called with the JSON that a model writes."""

import json
from contextlib import asynccontextmanager

from agents import RunContextWrapper
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp, MCPUtil


class Session:
    """A connected server, and its tools as the SDK hands them to a model."""

    cancels = True

    def __init__(self, server):
        self.server = server

    async def names(self):
        return [tool.name for tool in await self.server.list_tools()]

    async def call(self, name, arguments):
        (tool,) = (t for t in await self.server.list_tools() if t.name == name)
        output = await MCPUtil.invoke_mcp_tool(
            self.server, tool, RunContextWrapper(None), json.dumps(arguments)
        )
        blocks = output if isinstance(output, list) else [output]
        return "\n".join(block["text"] for block in blocks if "text" in block)


@asynccontextmanager
async def connect(server, limit_s):
    if "url" in server:
        kind, parameters = MCPServerStreamableHttp, {**server}
    else:
        kind, parameters = MCPServerStdio, {**server}
    connection = kind(
        params=parameters, client_session_timeout_seconds=limit_s, cache_tools_list=True
    )
    async with connection:
        yield Session(connection)
