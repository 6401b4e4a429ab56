"""The official SDK, version 2: the revision of 2026-07-28."""

from contextlib import asynccontextmanager

import httpx2
from drivers.common import text_of
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client


class Session:
    """A connected client."""

    cancels = True

    def __init__(self, client):
        self.client = client

    async def names(self):
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def call(self, name, arguments):
        return text_of(await self.client.call_tool(name, arguments))


@asynccontextmanager
async def connect(server, limit_s):
    if "url" in server:
        async with (
            httpx2.AsyncClient(headers=server["headers"], timeout=60) as http,
            Client(
                streamable_http_client(server["url"], http_client=http),
                read_timeout_seconds=limit_s,
            ) as client,
        ):
            yield Session(client)
    else:
        parameters = StdioServerParameters(command=server["command"], args=server["args"])
        async with Client(parameters, read_timeout_seconds=limit_s) as client:
            yield Session(client)
