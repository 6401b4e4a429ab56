"""google-genai: the adapter that its clients put round a session."""

from contextlib import asynccontextmanager

from drivers.common import session_of, text_of
from google.genai._adapters import McpToGenAiToolAdapter
from google.genai.types import FunctionCall


class Session:
    """The adapter."""

    cancels = True

    def __init__(self, adapter):
        self.adapter = adapter

    async def names(self):
        return [f.name for tool in self.adapter.tools for f in tool.function_declarations]

    async def call(self, name, arguments):
        return text_of(await self.adapter.call_tool(FunctionCall(name=name, args=arguments)))


@asynccontextmanager
async def connect(server, limit_s):
    async with session_of(server, limit_s) as session:
        yield Session(McpToGenAiToolAdapter(session, await session.list_tools()))
