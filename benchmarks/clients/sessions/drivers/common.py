"""What several drivers need: the text of a result, and a connected session of either SDK."""

from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

SECOND = version("mcp").startswith("2.")


def text_of(result):
    """Return the text blocks of a result, one below the other."""
    return "\n".join(block.text for block in result.content if block.type == "text")


@asynccontextmanager
async def session_of(server, limit_s):
    """Give an initialised `ClientSession` whose requests end after `limit_s` seconds."""
    async with _streams(server) as streams:
        limit = limit_s if SECOND else timedelta(seconds=limit_s)
        async with ClientSession(*streams[:2], read_timeout_seconds=limit) as session:
            await session.initialize()
            yield session


@asynccontextmanager
async def _streams(server):
    if "url" not in server:
        parameters = StdioServerParameters(command=server["command"], args=server["args"])
        async with stdio_client(parameters) as streams:
            yield streams
    elif SECOND:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        async with (
            httpx2.AsyncClient(headers=server["headers"], timeout=60) as http,
            streamable_http_client(server["url"], http_client=http) as streams,
        ):
            yield streams
    else:
        from mcp.client.streamable_http import streamablehttp_client

        async with streamablehttp_client(server["url"], headers=server["headers"]) as streams:
            yield streams
