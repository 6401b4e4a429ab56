"""anthropic: the helper that makes runnable tools of a session's."""

from contextlib import asynccontextmanager

from anthropic.lib.tools.mcp import async_mcp_tool
from drivers.common import session_of


class Session:
    """The runnable tools."""

    cancels = True

    def __init__(self, tools):
        self.tools = {tool.name: tool for tool in tools}

    async def names(self):
        return list(self.tools)

    async def call(self, name, arguments):
        blocks = await self.tools[name].call(arguments)
        if isinstance(blocks, str):
            return blocks
        return "\n".join(block["text"] for block in blocks if block["type"] == "text")


@asynccontextmanager
async def connect(server, limit_s):
    async with session_of(server, limit_s) as session:
        tools = (await session.list_tools()).tools
        yield Session([async_mcp_tool(tool, session) for tool in tools])
