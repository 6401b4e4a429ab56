"""pydantic-ai: the toolset of a server."""

import json
from contextlib import asynccontextmanager

from fastmcp.client.transports import StdioTransport
from pydantic_ai.mcp import MCPToolset


class Session:
    """The toolset."""

    cancels = True

    def __init__(self, toolset):
        self.toolset = toolset

    async def names(self):
        return [tool.name for tool in await self.toolset.list_tools()]

    async def call(self, name, arguments):
        output = await self.toolset.direct_call_tool(name, arguments)
        return output if isinstance(output, str) else json.dumps(output, default=str)


@asynccontextmanager
async def connect(server, limit_s):
    if "url" in server:
        client, other = server["url"], {"headers": server["headers"]}
    else:
        client, other = StdioTransport(server["command"], server["args"], keep_alive=False), {}
    async with MCPToolset(client, read_timeout=limit_s, init_timeout=60, **other) as toolset:
        yield Session(toolset)
