"""MCP Inspector, command-line mode: each call is a process that starts and ends a server."""

import asyncio
import json
import os
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

ENTRY = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"


class Session:
    """How to start the program."""

    cancels = True

    def __init__(self, settings, limit_s):
        entry = Path(os.environ["NODE_MANIFEST"]).parent / ENTRY
        options = ["--config", settings, "--server", "lingshu", "--quiet", "--format", "json"]
        self.command = [os.environ["NODE"], entry, "--cli", *options]
        self.limit_s = limit_s

    async def names(self):
        # Exit status 6 where the schema of a tool is not one that every client takes.
        return [tool["name"] for tool in (await self.run("tools/list", "--strict"))["tools"]]

    async def call(self, name, arguments):
        given = ("--tool-name", name, "--tool-args-json", json.dumps(arguments))
        result = await self.run("tools/call", *given)
        return "\n".join(block["text"] for block in result["content"] if block["type"] == "text")

    async def run(self, method, *arguments):
        """Return the result that the program prints; its process is ended at the limit."""
        process = await asyncio.create_subprocess_exec(
            *(*self.command, "--method", method, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, wrote = await asyncio.wait_for(process.communicate(), self.limit_s)
        except (TimeoutError, asyncio.CancelledError):
            process.terminate()
            await process.wait()
            raise
        if not printed.strip():
            message = f"exit status {process.returncode}: {wrote.decode()[-300:]}"
            raise RuntimeError(message)
        printed = json.loads(printed)
        return printed.get("result", printed)


@asynccontextmanager
async def connect(server, limit_s):
    kind = {"type": "streamable-http"} if "url" in server else {"type": "stdio"}
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "servers.json"
        settings.write_text(json.dumps({"mcpServers": {"lingshu": {**kind, **server}}}), "utf-8")
        yield Session(settings, limit_s)
