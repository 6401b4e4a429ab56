"""langchain-mcp-adapters: tools of a session, called as LangChain's agents do."""

from contextlib import asynccontextmanager
from datetime import timedelta

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools


class Session:
    """The tools of a session."""

    cancels = True

    def __init__(self, tools):
        self.tools = {tool.name: tool for tool in tools}

    async def names(self):
        return list(self.tools)

    async def call(self, name, arguments):
        blocks = await self.tools[name].ainvoke(arguments)
        if isinstance(blocks, str):
            return blocks
        return "\n".join(block.get("text", "") for block in blocks)


@asynccontextmanager
async def connect(server, limit_s):
    transport = "streamable_http" if "url" in server else "stdio"
    settings = {
        **server,
        "transport": transport,
        "session_kwargs": {"read_timeout_seconds": timedelta(seconds=limit_s)},
    }
    client = MultiServerMCPClient({"lingshu": settings})
    async with client.session("lingshu") as session:
        yield Session(await load_mcp_tools(session))
