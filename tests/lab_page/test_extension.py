"""MCP Apps: clients that declare the extension get the page, and all others the same as before."""

import json
from typing import Any

import anyio
import httpx2
import pytest
from page_lab import Lab

from lingshu_mcp.calls import Calls
from lingshu_mcp.http import Address
from lingshu_mcp.http.run import gate_of
from lingshu_mcp.lab_page.document import APP_MIME_TYPE, URI, html
from lingshu_mcp.lab_page.extension import FIGURE, IDENTIFIER, TOOLS

ADDRESS = Address("127.0.0.1", 8931)
ALONE, OLDER = "2026-07-28", "2025-11-25"
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
CLIENT = {"name": "test", "version": "1"}
APPS = {"extensions": {IDENTIFIER: {"mimeTypes": [APP_MIME_TYPE]}}}
OTHERS: list[dict[str, Any]] = [
    {},
    {"extensions": {}},
    {"extensions": {IDENTIFIER: {}}},
    {"extensions": {IDENTIFIER: {"mimeTypes": ["text/html"]}}},
    {"extensions": {"io.modelcontextprotocol/tasks": {}}},
]
LISTS = ("tools/list", "resources/list", "resources/templates/list")


async def conversation(
    lab: Lab, capabilities: dict[str, Any], *requests: tuple[str, dict[str, Any]], version: str
) -> list[Any]:
    """The answers of a server to a client with these capabilities, its greeting first."""
    gate = gate_of(lab.app, Calls(), None, ADDRESS)
    transport = httpx2.ASGITransport(app=gate)
    base = f"http://{ADDRESS.netloc}"
    async with (
        gate.inner.router.lifespan_context(gate.inner),  # type: ignore[attr-defined]
        httpx2.AsyncClient(transport=transport, base_url=base) as client,
    ):
        headers, meta = dict(ACCEPT), {}
        greeting: tuple[str, dict[str, Any]] = ("server/discover", {})
        if version == ALONE:
            meta = {
                "io.modelcontextprotocol/protocolVersion": ALONE,
                "io.modelcontextprotocol/clientInfo": CLIENT,
                "io.modelcontextprotocol/clientCapabilities": capabilities,
            }
        else:
            hello = {"protocolVersion": version, "clientInfo": CLIENT, "capabilities": capabilities}
            greeting = ("initialize", hello)
        answers: list[Any] = []
        for number, (method, params) in enumerate([greeting, *requests], 1):
            sent = {**params, "_meta": meta} if meta else params
            if meta:
                headers |= {"mcp-protocol-version": ALONE, "mcp-method": method}
                headers["mcp-name"] = params.get("name") or params.get("uri") or ""
            message = {"jsonrpc": "2.0", "id": number, "method": method, "params": sent}
            response = await client.post("/mcp", content=json.dumps(message), headers=headers)
            text = response.text
            if response.headers["content-type"].startswith("text/event-stream"):
                text = [x[6:] for x in text.splitlines() if x.startswith("data: ")][-1]
            answers.append(json.loads(text)["result"])
            if method == "initialize":
                headers["mcp-session-id"] = response.headers["mcp-session-id"]
                note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
                await client.post("/mcp", content=json.dumps(note), headers=headers)
        return answers


def answers(
    lab: Lab, capabilities: dict[str, Any], *requests: tuple[str, dict[str, Any]], version: str
) -> list[Any]:
    return anyio.run(lambda: conversation(lab, capabilities, *requests, version=version))


def listed(lab: Lab, capabilities: dict[str, Any], version: str) -> list[Any]:
    return answers(lab, capabilities, *((method, {}) for method in LISTS), version=version)


@pytest.fixture(params=[ALONE, OLDER])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_client_without_the_extension_is_told_of_nothing(lab: Lab, version: str):
    first = listed(lab, OTHERS[0], version)
    text = json.dumps(first)
    for word in (URI, "ui://", "figures://", IDENTIFIER, APP_MIME_TYPE, "resourceUri"):
        assert word not in text
    for capabilities in OTHERS[1:]:
        assert listed(lab, capabilities, version) == first, capabilities


def test_a_client_with_the_extension_gets_the_page_and_its_tools(lab: Lab, version: str):
    greeting, tools, resources, templates = listed(lab, APPS, version)
    assert IDENTIFIER in greeting["capabilities"]["extensions"]
    linked = {t["name"]: t["_meta"] for t in tools["tools"] if "_meta" in t}
    assert linked == {name: {"ui": {"resourceUri": URI}} for name in TOOLS}
    (page,) = [r for r in resources["resources"] if r["uri"] == URI]
    assert page["mimeType"] == APP_MIME_TYPE
    assert FIGURE in [t["uriTemplate"] for t in templates["resourceTemplates"]]


def test_the_extension_adds_four_links_to_the_tools_and_nothing_else(lab: Lab, version: str):
    plain, linked = (listed(lab, c, version)[1]["tools"] for c in (OTHERS[0], APPS))
    extra = len(json.dumps(linked)) - len(json.dumps(plain))
    assert 0 < extra / 4 <= 80
    assert [{k: v for k, v in tool.items() if k != "_meta"} for tool in linked] == plain


def test_a_list_that_depends_on_the_client_is_not_to_be_shared(lab: Lab):
    plain, linked = (listed(lab, c, ALONE)[1] for c in (OTHERS[0], APPS))
    assert (plain["cacheScope"], linked["cacheScope"]) == ("public", "private")


def test_the_page_is_read_as_an_app_without_any_domain(lab: Lab, version: str):
    read = ("resources/read", {"uri": URI})
    (content,) = answers(lab, APPS, read, version=version)[1]["contents"]
    assert content["mimeType"] == APP_MIME_TYPE
    assert content["text"] == html()
    assert content["_meta"] == {"ui": {"csp": {}, "prefersBorder": False}}


def test_the_page_reads_its_figures_as_resources(lab: Lab, version: str):
    first, second = lab.experiments[:2]
    uris = [
        f"figures://{first}/volcano",
        f"figures://{lab.screen}/ranking",
        f"figures://{first}/comparison?other={second}",
    ]
    reads = [("resources/read", {"uri": uri}) for uri in uris]
    got = answers(lab, APPS, *reads, version=version)[1:]
    kinds = [json.loads(each["contents"][0]["text"])["kind"] for each in got]
    assert kinds == ["volcano", "ranking", "comparison"]
