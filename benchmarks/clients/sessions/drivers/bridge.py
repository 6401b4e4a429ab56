"""A TypeScript client in a Node process, driven through `bridge.mjs`."""

import asyncio
import itertools
import json
import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path

BRIDGE = Path(__file__).parents[1] / "bridge.mjs"


class Session:
    """A connected client."""

    cancels = True

    def __init__(self, process):
        self.process = process
        self.numbers = itertools.count()
        self.answers = {}
        self.reading = asyncio.ensure_future(self._read())

    async def ask(self, op, **message):
        """Return what an operation gives."""
        number = next(self.numbers)
        future = self.answers[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "op": op, **message})
        try:
            return await future
        except asyncio.CancelledError:
            self._send({"id": next(self.numbers), "op": "cancel", "call": number})
            raise

    async def names(self):
        return await self.ask("names")

    async def call(self, name, arguments):
        return await self.ask("call", name=name, arguments=arguments)

    def _send(self, message):
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self):
        async for line in self.process.stdout:
            answer = json.loads(line)
            future = self.answers.pop(answer["id"], None)
            if future is None or future.done():
                continue
            if "error" in answer:
                future.set_exception(RuntimeError(answer["error"]))
            else:
                future.set_result(answer["value"])


@asynccontextmanager
async def connect_version(version, server, limit_s):
    """Give a session of the client of a version."""
    process = await asyncio.create_subprocess_exec(
        *(os.environ["NODE"], BRIDGE, os.environ["NODE_MANIFEST"], version),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    session = Session(process)
    try:
        await session.ask("connect", server=server, limit_s=limit_s)
        yield session
        await session.ask("close")
    finally:
        process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
        session.reading.cancel()
