"""The official SDK, version 1, on which most agent libraries stand: revisions with a handshake."""

from contextlib import asynccontextmanager

from drivers.common import session_of, text_of


class Session:
    """A connected client."""

    cancels = True

    def __init__(self, session):
        self.session = session

    async def names(self):
        return [tool.name for tool in (await self.session.list_tools()).tools]

    async def call(self, name, arguments):
        return text_of(await self.session.call_tool(name, arguments))


@asynccontextmanager
async def connect(server, limit_s):
    async with session_of(server, limit_s) as session:
        yield Session(session)
