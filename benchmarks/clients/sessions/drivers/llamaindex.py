"""LlamaIndex: function tools of `McpToolSpec`. Each call opens a session, over stdio a server."""

from contextlib import asynccontextmanager

from llama_index.tools.mcp import BasicMCPClient, McpToolSpec


class Session:
    """The tools."""

    cancels = True

    def __init__(self, tools):
        self.tools = {tool.metadata.name: tool for tool in tools}

    async def names(self):
        return list(self.tools)

    async def call(self, name, arguments):
        return (await self.tools[name].acall(**arguments)).content


@asynccontextmanager
async def connect(server, limit_s):
    if "url" in server:
        client = BasicMCPClient(server["url"], headers=server["headers"], timeout=limit_s)
    else:
        client = BasicMCPClient(server["command"], server["args"], timeout=limit_s)
    yield Session(await McpToolSpec(client).to_tool_list_async())
