"""The client of FastMCP."""

from contextlib import asynccontextmanager

from drivers.common import text_of
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport


class Session:
    """A connected client."""

    cancels = True

    def __init__(self, client):
        self.client = client

    async def names(self):
        return [tool.name for tool in await self.client.list_tools()]

    async def call(self, name, arguments):
        return text_of(await self.client.call_tool(name, arguments))


@asynccontextmanager
async def connect(server, limit_s):
    if "url" in server:
        transport = StreamableHttpTransport(server["url"], headers=server["headers"])
    else:
        transport = StdioTransport(server["command"], server["args"], keep_alive=False)
    async with Client(transport, timeout=limit_s) as client:
        yield Session(client)
