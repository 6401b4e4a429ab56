"""smolagents, through mcpadapt: tools that block, so a call cannot be cancelled."""

import asyncio
from contextlib import asynccontextmanager

from mcp import StdioServerParameters
from smolagents import MCPClient


class Session:
    """The tools."""

    cancels = False

    def __init__(self, tools):
        self.tools = {tool.name: tool for tool in tools}

    async def names(self):
        return list(self.tools)

    async def call(self, name, arguments):
        return str(await asyncio.to_thread(self.tools[name], **arguments))


@asynccontextmanager
async def connect(server, limit_s):
    if "url" in server:
        parameters = {**server, "transport": "streamable-http"}
    else:
        parameters = StdioServerParameters(command=server["command"], args=server["args"])
    limit = {"client_session_timeout_seconds": float(limit_s)}
    client = await asyncio.to_thread(MCPClient, parameters, limit, structured_output=False)
    try:
        yield Session(client.get_tools())
    finally:
        await asyncio.to_thread(client.disconnect)
