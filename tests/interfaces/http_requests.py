"""The HTTP server's application in memory, spoken to in JSON-RPC over HTTP."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx2
from stdio import HELLO

from lingshu_mcp.calls import Calls
from lingshu_mcp.http import Address
from lingshu_mcp.http.gate import Gate
from lingshu_mcp.http.run import gate_of
from lingshu_tools.app import App
from lingshu_tools.system.access_tokens import AccessTokens

ADDRESS = Address("127.0.0.1", 8931)
NUMBERS = count(1)
ALONE = "2026-07-28"
"""The revision of MCP without sessions."""
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@dataclass
class Web:
    """A gate and a client that reaches it."""

    gate: Gate
    client: httpx2.AsyncClient
    tokens: AccessTokens
    calls: Calls

    def as_owner(self) -> "Caller":
        return Caller(self, self.tokens.ensure_owner().read_text().strip())

    def as_named(self, name: str, **limits: int | None) -> "Caller":
        limits = {"max_calls": None, "max_cells": None} | limits
        return Caller(self, self.tokens.add(name, **limits))


@dataclass
class Caller:
    """A client with a token, and a session once it has asked for one."""

    web: Web
    token: str | None
    session: dict[str, str] = field(default_factory=dict)

    async def post(self, content: Any, **headers: str) -> httpx2.Response:
        sent = ACCEPT | self.session | {k.replace("_", "-"): v for k, v in headers.items()}
        if self.token is not None:
            sent["authorization"] = f"Bearer {self.token}"
        return await self.web.client.post("/mcp", content=content, headers=sent)

    async def ask(self, method: str, **params: Any) -> httpx2.Response:
        number = next(NUMBERS)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        return await self.post(json.dumps(message))

    async def ask_alone(self, tool: str, **arguments: Any) -> httpx2.Response:
        """Call a tool in the form that knows no sessions."""
        return await self.send_alone("tools/call", tool, {"name": tool, "arguments": arguments})

    async def send_alone(
        self, method: str, name: str, params: Any, *, extensions: Sequence[str] = ()
    ) -> httpx2.Response:
        """Send a request in the form that knows no sessions; `name` is what its header repeats."""
        capabilities = {"extensions": {each: {} for each in extensions}} if extensions else {}
        meta = {
            "io.modelcontextprotocol/protocolVersion": ALONE,
            "io.modelcontextprotocol/clientInfo": HELLO["clientInfo"],
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        }
        sent = {**params, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": next(NUMBERS), "method": method, "params": sent}
        headers = {"mcp_protocol_version": ALONE, "mcp_method": method, "mcp_name": name}
        return await self.post(json.dumps(message), **headers)

    async def greet(self) -> "Caller":
        self.session = {}
        response = await self.ask("initialize", **HELLO)
        assert response.status_code == 200, response.text
        self.session = {"mcp-session-id": response.headers["mcp-session-id"]}
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await self.post(json.dumps(note))).status_code == 202
        return self

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool; return its result, refused or not."""
        response = await self.ask("tools/call", name=tool, arguments=arguments)
        assert response.status_code == 200, response.text
        return answer(response)["result"]

    async def structured(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must not refuse; return its structured result."""
        result = await self.call(tool, **arguments)
        assert not result.get("isError"), result
        return result["structuredContent"]

    async def refused(self, tool: str, **arguments: Any) -> str:
        """Call a tool that must refuse; return its text."""
        result = await self.call(tool, **arguments)
        assert result.get("isError"), result
        return result["content"][0]["text"]


def answer(response: httpx2.Response) -> Any:
    """The JSON-RPC answer in a response: its body, or the last event of its stream."""
    text = response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        text = [line[6:] for line in text.splitlines() if line.startswith("data: ")][-1]
    return json.loads(text)


@asynccontextmanager
async def serving(app: App, *, with_tokens: bool = True) -> AsyncIterator[Web]:
    """A server of `app` in this process; no socket is opened."""
    calls, tokens = Calls(), AccessTokens(app.home)
    gate = gate_of(app, calls, tokens if with_tokens else None, ADDRESS)
    transport = httpx2.ASGITransport(app=gate)
    async with (
        gate.inner.router.lifespan_context(gate.inner),
        httpx2.AsyncClient(transport=transport, base_url=f"http://{ADDRESS.netloc}") as client,
    ):
        yield Web(gate, client, tokens, calls)
