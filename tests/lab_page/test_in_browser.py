"""The lab page in a headless Chromium, over HTTP and in a host of MCP Apps."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx2
import pytest
from page_lab import CONTEXT, Lab, Served

from lingshu_mcp.lab_page.document import html
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.ledger import NewExperiment, NewOutcome

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")
expect = playwright.expect
SERIOUS = ("serious", "critical")
WAIT_MS = 60_000
"""A busy machine computes a figure in this time."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=WAIT_MS)
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        running = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield running
        running.close()


class Tab:
    """A page of the browser that was opened at an id, and what went wrong in it."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def _note(self, message: Any) -> None:
        # A refused request is an answer, which the page shows; Chromium writes it down as well.
        refused_by_server = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not refused_by_server:
            self.problems.append(message.text)

    def settle(self) -> None:
        """Wait until nothing of the page is loading."""
        self.page.wait_for_selector("main[aria-busy=false]")
        self.page.wait_for_function("() => !document.querySelector('.wait, [aria-busy=true]')")

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()
        self.settle()


@pytest.fixture
def opened(browser: Any, served: Served) -> Iterator[Callable[..., Tab]]:
    """Open the page at an id; it must not have written an error."""
    tabs: list[Tab] = []

    def open_at(name: str | None = None, **options: Any) -> Tab:
        tabs.append(Tab(browser, served.url(name), **options))
        tabs[-1].settle()
        return tabs[-1]

    yield open_at
    for tab in tabs:
        tab.context.close()
    assert [problem for tab in tabs for problem in tab.problems] == []


def experiments_list(tab: Tab, lab: Lab) -> None:
    tab.page.get_by_role("button", name="Experiments").click()
    expect(tab.page.get_by_role("heading", name="Experiments")).to_be_visible()


def comparison(tab: Tab, lab: Lab) -> None:
    tab.open_tab("Compare")
    tab.page.get_by_label("Id of the other experiment").fill(lab.experiments[1])
    tab.page.get_by_role("button", name="Compare", exact=True).click()
    expect(tab.page.get_by_role("heading", name="Most certain differences")).to_be_visible()


def gene(tab: Tab, lab: Lab) -> None:
    tab.page.get_by_label("Gene", exact=True).fill("psmb9")
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_text("in a new experiment")).to_be_visible()


def plate(tab: Tab, lab: Lab) -> None:
    lab_call = {"screen_id": lab.screen, "n_wells": 3, "replicates": 2, "wait_s": 0}
    call(lab.app, "propose_batch", lab_call)
    tab.open_tab("Plate map")
    expect(tab.page.get_by_role("table", name="Plate 1")).to_be_visible()


def refused(tab: Tab, lab: Lab) -> None:
    expect(tab.page.get_by_role("alert")).to_contain_text("exp_none")


def part(name: str) -> Callable[[Tab, Lab], None]:
    return lambda tab, _lab: tab.open_tab(name)


STATES: dict[str, tuple[str, Callable[[Tab, Lab], None]]] = {
    "screens": ("", lambda tab, lab: None),
    "experiments": ("", experiments_list),
    "ranking": ("screen", part("Ranking")),
    "plate": ("screen", plate),
    "evidence of a screen": ("screen", part("Evidence")),
    "replay of a screen": ("screen", part("Replay")),
    "volcano": ("experiment", part("Effect")),
    "gene": ("experiment", gene),
    "cells": ("experiment", part("Cells")),
    "evidence": ("experiment", part("Evidence")),
    "provenance": ("experiment", part("Provenance")),
    "comparison": ("experiment", comparison),
    "refused": ("unknown", refused),
}


def at(lab: Lab, what: str) -> str | None:
    ids = {"screen": lab.screen, "experiment": lab.experiments[0], "unknown": "exp_none"}
    return ids.get(what)


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_accessible_and_fits_both_widths_in_both_themes(
    opened: Callable[..., Tab], lab: Lab, sources: Path, state: str
):
    axe = sources / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("needs the packages of mcp_server/page: make page-check")
    what, act = STATES[state]
    tab = opened(at(lab, what))
    act(tab, lab)
    tab.settle()
    tab.page.evaluate(axe.read_text("utf-8"))
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for width, theme in ((1400, "light"), (1400, "dark"), (380, "dark"), (380, "light")):
        tab.page.set_viewport_size({"width": width, "height": 900})
        tab.page.emulate_media(color_scheme=theme)
        tab.settle()
        assert tab.page.evaluate(wider) <= 0, width
        report = tab.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        bad = [
            f"{v['id']}: {v['nodes'][0]['html'][:200]}"
            for v in report["violations"]
            if v["impact"] in SERIOUS
        ]
        assert bad == [], (width, theme)


def test_the_token_leaves_the_address_and_a_reload_keeps_the_page(
    opened: Callable[..., Tab], served: Served
):
    tab = opened()
    assert served.token.value not in tab.page.url
    assert all(served.token.value not in url for url in tab.requests[1:])
    tab.page.reload()
    tab.settle()
    expect(tab.page.get_by_role("heading", name="Screens")).to_be_visible()


def test_the_page_sends_requests_to_its_server_alone(opened: Callable[..., Tab], served: Served):
    tab = opened()
    home = f"http://{served.address.netloc}/"
    assert {url.partition("#")[0] for url in tab.requests if not url.startswith("data:")} == {
        home,
        f"{home}mcp",
    }


def test_without_its_token_the_page_says_how_to_get_in(browser: Any, served: Served):
    for address, says in (
        (f"http://{served.address.netloc}/", "has no token"),
        (f"http://{served.address.netloc}/#{'x' * 43}", "unknown or was revoked"),
    ):
        tab = Tab(browser, address)
        expect(tab.page.get_by_role("alert")).to_contain_text(says)
        tab.context.close()


def test_arrow_keys_go_through_tabs_and_genes_and_enter_chooses(
    opened: Callable[..., Tab], lab: Lab
):
    tab = opened(lab.experiments[0])
    tab.page.get_by_role("tab", name="Effect").focus()
    tab.page.keyboard.press("ArrowRight")
    chosen = tab.page.get_by_role("tab", selected=True)
    expect(chosen).to_have_text("Cells")
    expect(chosen).to_be_focused()
    tab.page.keyboard.press("ArrowLeft")
    tab.settle()
    tab.page.locator(".plot").focus()
    tab.page.keyboard.press("ArrowRight")
    live = tab.page.locator("#live")
    first = live.text_content()
    assert re.match(r"\S+: log2 fold change", first)
    tab.page.keyboard.press("ArrowRight")
    assert live.text_content() != first
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_text("in a new experiment")).to_be_visible()


def test_a_pointer_shows_the_nearest_gene(opened: Callable[..., Tab], lab: Lab):
    tab = opened(lab.experiments[0])
    target = tab.page.locator(".plot .target").bounding_box()
    x, y = target["x"] + target["width"] / 2, target["y"] + target["height"] / 2
    tab.page.mouse.move(x, y)
    expect(tab.page.locator(".tip")).to_contain_text("STAT1")


def test_an_unknown_gene_is_said_to_be(opened: Callable[..., Tab], lab: Lab):
    tab = opened(lab.experiments[0])
    tab.page.get_by_label("Gene", exact=True).fill("NOGENE")
    tab.page.get_by_role("button", name="Show", exact=True).click()
    expect(tab.page.get_by_text("NOGENE is not among the")).to_be_visible()


def test_an_id_of_any_text_is_refused_in_words(opened: Callable[..., Tab], lab: Lab):
    tab = opened(lab.experiments[0])
    tab.open_tab("Compare")
    other = tab.page.get_by_label("Id of the other experiment")
    for text in ("exp_nöne", "../x?y#z", "exp_a&other=exp_b", lab.screen):
        other.fill(text)
        tab.page.keyboard.press("Enter")
        alert = tab.page.get_by_role("alert")
        expect(alert).to_contain_text(f"{text} is not the id of an experiment")
    other.fill("exp_unknown")
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_role("heading", name="Not shown")).to_be_visible()
    expect(tab.page.get_by_role("alert")).to_contain_text("exp_unknown")


def test_replaying_writes_a_row_and_shows_the_verdict(opened: Callable[..., Tab], lab: Lab):
    name = lab.experiments[2]
    before = lab.app.ledger.verifications(name)
    tab = opened(name)
    tab.open_tab("Provenance")
    tab.page.get_by_role("button", name="Replay now").click()
    expect(tab.page.locator("main > .panel")).to_contain_text("exact: the same cells")
    written = lab.app.ledger.verifications(name)[len(before) :]
    assert [v.verdict for v in written] == ["exact"]
    tab.page.get_by_role("button", name="Open exp_").click()
    expect(tab.page.get_by_role("heading", level=1)).to_contain_text("knockout")


def test_another_target_is_costed_then_run_through_the_dispatcher(
    opened: Callable[..., Tab], lab: Lab
):
    tab = opened(lab.experiments[0])
    tab.page.get_by_text("Run from here").click()
    tab.page.get_by_label("Perturb another target").fill("IFNGR1")
    tab.page.get_by_role("button", name="Cost").click()
    run = tab.page.get_by_role("button", name="Run IFNGR1 knockout")
    wanted = {"perturbation": "IFNGR1 knockout", "limit": 5}
    earlier = call(lab.app, "list_experiments", wanted).experiments  # type: ignore[attr-defined]
    run.click()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("IFNGR1 knockout")
    tab.settle()
    rows = call(lab.app, "list_experiments", wanted).experiments  # type: ignore[attr-defined]
    assert len(rows) == len(earlier) + 1
    row = lab.app.ledger.experiment(rows[0].experiment_id)
    assert row.door == "mcp"
    assert row.request["context"] == CONTEXT


def test_two_chosen_experiments_are_compared_and_back_leads_back(
    opened: Callable[..., Tab], lab: Lab
):
    tab = opened()
    experiments_list(tab, lab)
    pair = tab.page.get_by_role("button", name="Compare the two")
    boxes = tab.page.get_by_role("checkbox")
    boxes.nth(0).check()
    expect(pair).to_be_disabled()
    boxes.nth(1).check()
    pair.click()
    expect(tab.page.get_by_role("heading", name="Most certain differences")).to_be_visible()
    tab.page.go_back()
    expect(tab.page.get_by_role("heading", name="Experiments")).to_be_visible()


def test_a_plate_is_proposed_and_recorded(opened: Callable[..., Tab], lab: Lab):
    tab = opened(lab.screen)
    tab.open_tab("Plate map")
    before = len(lab.app.ledger.measurements(lab.screen))
    tab.page.get_by_label("Replicates").fill("4")
    tab.page.get_by_label("Perturbations").fill("2")
    tab.page.get_by_role("button", name=re.compile("Propose a")).click()
    expect(tab.page.get_by_text("2 perturbations × 4")).to_be_visible()
    assert len(lab.app.ledger.measurements(lab.screen)) == before + 1


def test_text_of_a_ledger_is_never_markup(opened: Callable[..., Tab], lab: Lab):
    hostile = "<img src=x onerror=alert(1)>"
    created = lab.app.ledger.experiment(lab.experiments[0])
    values = {field.name: getattr(created, field.name) for field in fields(NewExperiment)}
    texts = dict.fromkeys(("perturbation", "context"), hostile)
    row = lab.app.ledger.begin(NewExperiment(**values | texts | {"client_key": None}))
    with lab.app.ledger.attempt(row.id) as attempt:
        lab.app.ledger.seal(attempt, NewOutcome(kind="failed", error=hostile))
    tab = opened()
    experiments_list(tab, lab)
    expect(tab.page.get_by_role("cell", name=hostile).first).to_be_visible()
    tab.page.get_by_role("button", name=hostile).first.click()
    expect(tab.page.get_by_role("tab", name="Provenance")).to_be_visible()
    assert tab.page.locator("img").count() == 0


def test_the_browser_refuses_script_that_is_not_of_the_page(browser: Any, served: Served):
    tab = Tab(browser, served.url())
    tab.settle()
    insert = """() => {
        const script = document.createElement('script');
        try { script.textContent = 'window.inserted = 1'; document.body.append(script); }
        catch (error) { return error.name; }
        return String(window.inserted);
    }"""
    assert tab.page.evaluate(insert) in ("TypeError", "undefined")
    text_as_html = "() => { try { document.body.innerHTML = '<b>x</b>' } catch (e) { return 1 } }"
    assert tab.page.evaluate(text_as_html) == 1
    outside = "() => fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    assert tab.page.evaluate(outside) == "refused"
    assert any("Content Security Policy" in problem for problem in tab.problems)
    tab.context.close()


def test_the_theme_is_chosen_by_hand(opened: Callable[..., Tab]):
    tab = opened(color_scheme="light")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert tab.page.evaluate(ground) == "rgb(255, 255, 255)"
    tab.page.get_by_label("Theme").select_option("dark")
    assert tab.page.evaluate(ground) == "rgb(22, 24, 28)"


HOST = """<!doctype html><title>host</title><iframe id="app" sandbox="allow-scripts"
 style="width:800px;height:900px"></iframe>"""
HOST_SCRIPT = """(page) => {
  const frame = document.getElementById('app');
  window.heard = [];
  window.tell = (message) => frame.contentWindow.postMessage({jsonrpc: '2.0', ...message}, '*');
  window.addEventListener('message', async (event) => {
    if (event.source !== frame.contentWindow) return;
    const {id, method, params} = event.data;
    window.heard.push(method);
    if (method === 'ui/initialize') tell({id, result: {protocolVersion: '2026-01-26',
      hostInfo: {name: 'test', version: '1'},
      hostCapabilities: {serverTools: {}, serverResources: {}},
      hostContext: {theme: 'dark', styles: {variables: {'--font-sans': 'serif'}}}}});
    else if (method === 'tools/call' || method === 'resources/read')
      tell({id, ...await window.forward(method, params)});
  });
  frame.srcdoc = page;
}"""


def test_in_a_chat_client_the_page_works_through_its_host(browser: Any, served: Served, lab: Lab):
    tab = Tab(browser, "about:blank")
    tab.page.set_content(HOST)
    tab.page.expose_function("forward", lambda method, params: forwarded(served, method, params))
    tab.page.evaluate(HOST_SCRIPT, html())
    tab.page.wait_for_function("heard.includes('ui/notifications/initialized')")
    result = forwarded(
        served, "tools/call", {"name": "get_experiment", "arguments": {"id": lab.screen}}
    )
    note = "ui/notifications/tool-input"
    tab.page.evaluate("m => tell(m)", {"method": note, "params": {"arguments": {"id": lab.screen}}})
    note = "ui/notifications/tool-result"
    tab.page.evaluate("m => tell(m)", {"method": note, "params": result["result"]})
    frame = tab.page.frame_locator("#app")
    expect(frame.get_by_role("heading", name="Screen")).to_be_visible()
    expect(frame.get_by_role("table", name=re.compile("score"))).to_be_visible()
    frame.get_by_role("button", name="STAT1 knockout").click()
    expect(frame.get_by_role("heading", level=1)).to_have_text("STAT1 knockout")
    expect(frame.locator(".plot svg")).to_be_visible()
    ground = frame.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert ground == "rgb(22, 24, 28)"
    said = set(tab.page.evaluate("heard"))
    assert {"tools/call", "resources/read", "ui/notifications/size-changed"} <= said
    assert not [url for url in tab.requests if url.startswith("http")]
    assert tab.problems == []
    tab.context.close()


def test_messages_that_are_not_of_the_host_are_ignored(browser: Any, lab: Lab):
    tab = Tab(browser, "about:blank")
    tab.page.set_content(HOST)
    tab.page.expose_function("forward", lambda method, params: {"result": {}})
    tab.page.evaluate(HOST_SCRIPT, html())
    tab.page.wait_for_function("heard.includes('ui/notifications/initialized')")
    frame = tab.page.frame_locator("#app")
    forged = {"jsonrpc": "2.0", "method": "ui/notifications/tool-result"}
    forged["params"] = {"isError": True, "content": [{"type": "text", "text": "forged"}]}
    frame.locator("body").evaluate("(e, m) => window.postMessage(m, '*')", forged)
    tab.page.evaluate("tell({id: 7, method: 'ping'})")
    tab.page.wait_for_function("heard.length >= 3")
    assert frame.get_by_text("forged").count() == 0
    tab.context.close()


def forwarded(served: Served, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """What a host gets from the server for a request of the page."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "host", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    headers = {
        "accept": "application/json, text/event-stream",
        "authorization": f"Bearer {served.token.value}",
        "content-type": "application/json",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": method,
        "mcp-name": str(params.get("name") or params.get("uri")),
    }
    url = f"http://{served.address.netloc}/mcp"
    text = httpx2.post(url, content=json.dumps(message), headers=headers, timeout=60).text
    if not text.startswith("{"):
        text = [line[6:] for line in text.splitlines() if line.startswith("data: ")][-1]
    answer = json.loads(text)
    return {key: answer[key] for key in ("result", "error") if key in answer}
