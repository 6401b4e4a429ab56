"""What the server offers beside its tools, in both protocol eras, and that it offers no more."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, MCPError

from lingshu_mcp import build_server
from lingshu_mcp.offers.completions import MOST
from lingshu_mcp.offers.registration import MIME
from lingshu_mcp.tasks.extension import IDENTIFIER
from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine, calls_in
from lingshu_tools.app import App, Budget, PrincipalApp
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.registry import CORE, TOOL_NAMES, registry
from lingshu_tools.report.methods import methods_paragraph

KNOCK_OUT = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8}
SCREEN = {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1", "JAK2"], "n_cells": 8}
both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])
LIST_TOKENS = 11_000
INPUT_TOKENS = 7_000
MOST_PNG = 60_000


def drive(app: App, mode: str, act: Callable[[Client], Awaitable[Any]], **options: Any) -> Any:
    core = options.pop("core", False)

    async def main() -> Any:
        server = build_server(app, core=core)
        async with Client(server, mode=mode, **options) as client:  # type: ignore[arg-type]
            return await act(client)

    return anyio.run(main)


@pytest.fixture
def finished(app: App) -> str:
    result = call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45})
    app.runner.wait([result.experiment_id], 120)
    return result.experiment_id


@pytest.fixture
def screen(app: App) -> str:
    name = call(app, "run_screen", SCREEN | {"wait_s": 45}).screen_id
    app.runner.wait([child.id for child in app.ledger.children(name)], 120)
    return name


def refusal(client: Client, ask: Callable[[], Awaitable[Any]]) -> Awaitable[MCPError]:
    async def run() -> MCPError:
        try:
            await ask()
        except MCPError as error:
            return error
        pytest.fail("not refused")

    return run()


@both_eras
def test_only_what_there_is_is_advertised(app: App, mode: str):
    async def act(client: Client) -> dict[str, Any]:
        return client.server_capabilities.model_dump(by_alias=True, exclude_none=True)

    assert drive(app, mode, act) == {
        "prompts": {"listChanged": False},
        "resources": {"listChanged": False, "subscribe": False},
        "tools": {"listChanged": False},
        "completions": {},
        **({"extensions": {IDENTIFIER: {}}} if mode == "auto" else {}),
    }


def test_the_server_has_a_picture_that_needs_no_network(app: App):
    (icon,) = build_server(app).icons or []
    assert icon.src.startswith("data:image/svg+xml;base64,")


def tokens(value: Any) -> float:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) / 4


@both_eras
def test_the_list_of_tools_is_small(app: App, mode: str):
    async def act(client: Client) -> list[dict[str, Any]]:
        listed = (await client.list_tools()).tools
        return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed]

    tools = drive(app, mode, act)
    assert tokens(tools) <= LIST_TOKENS
    inputs = [{k: t[k] for k in ("name", "description", "inputSchema")} for t in tools]
    assert tokens(inputs) <= INPUT_TOKENS
    core = drive(app, mode, act, core=True)
    assert tokens(core) <= LIST_TOKENS / 2
    assert len(core) == 6


def test_shared_parts_of_results_are_spelled_out_once(app: App):
    async def act(client: Client) -> list[Any]:
        return (await client.list_tools()).tools

    text = [json.dumps(tool.output_schema) for tool in drive(app, "auto", act)]
    for part in ('"how_to_get_more"', '"ledger_head": {', '"beats_trivial_baseline"'):
        assert sum(part in schema for schema in text) == 1, part
    assert not any('"$ref"' in schema for schema in text)


@both_eras
def test_six_tools_for_small_models_lead_to_each_other_only(app: App, mode: str):
    async def act(client: Client) -> tuple[list[str], Any, Any]:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        result = await client.call_tool("perturb_cells", KNOCK_OUT | {"wait_s": 45})
        return listed, result, await client.call_tool("cancel_experiment", {"id": "exp_x"})

    listed, result, unlisted = drive(app, mode, act, core=True)
    assert tuple(listed) == CORE
    assert len(CORE) == 6
    assert set(CORE) < set(TOOL_NAMES)
    assert {tool for tool, _ in calls_in(result.structured_content["next_step"])} <= set(CORE)
    assert unlisted.is_error


@both_eras
def test_a_prompt_that_is_not_there_is_an_error_that_names_those_that_are(
    app: App, mode: str, capsys: pytest.CaptureFixture[str]
):
    async def act(client: Client) -> list[MCPError]:
        asks: list[tuple[str, dict[str, str]]] = [
            ("write_upp", {}),
            ("write_up", {}),
            ("write_up", {"id": "exp_x", "more": "x"}),
            ("write_up", {"id": "exp_x"}),
            ("compare_experiments", {"ids": "exp_x"}),
        ]
        return [
            await refusal(client, lambda n=name, a=given: client.get_prompt(n, a))
            for name, given in asks
        ]

    unknown, missing, more, absent, few = drive(app, mode, act)
    assert {error.error.code for error in (unknown, missing, more, absent, few)} == {
        types.INVALID_PARAMS
    }
    assert "'write_up'" in str(unknown)
    assert "design_screen" in str(unknown)
    assert "missing: id" in str(missing)
    assert "'more'" in str(more)
    assert "exp_x" in str(absent)
    assert "2 to 10" in str(few)
    assert "Traceback" not in capsys.readouterr().err


@both_eras
def test_every_prompt_holds_the_numbers_it_is_about(
    app: App, finished: str, screen: str, mode: str
):
    given = {
        "design_screen": {"objective": "lower PSMB9", "genes": "PSMB9"},
        "audit_claim": {"claim": "it works", "id": finished},
        "compare_experiments": {"ids": f"{finished}, {screen}"},
        "write_up": {"id": screen},
    }

    async def act(client: Client) -> dict[str, str]:
        listed = (await client.list_prompts()).prompts
        assert [prompt.name for prompt in listed] == list(given)
        assert all(p.title and p.description for p in listed)
        assert all(a.description for p in listed for a in p.arguments or [])
        return {
            prompt.name: (await client.get_prompt(prompt.name, given[prompt.name]))
            .messages[0]
            .content.text  # type: ignore[union-attr]
            for prompt in listed
        }

    texts = drive(app, mode, act)
    assert "STAT1" in texts["design_screen"]
    assert finished in texts["audit_claim"]
    assert all(name in texts["compare_experiments"] for name in (finished, screen))
    assert methods_paragraph(app, screen) in texts["write_up"]
    for text in texts.values():
        assert len(text) / 4 < 4000


def test_a_methods_paragraph_has_its_numbers_from_the_ledger(app: App, finished: str, screen: str):
    row = app.ledger.experiment(finished)
    text = methods_paragraph(app, finished)
    for number in ("STAT1 knockout", "8 cells", "seed 0", row.request["checkpoint_digest"]):
        assert str(number) in text
    assert str(app.ledger.head()) in text
    assert "No replay is recorded" in text
    call(app, "replay_experiment", {"id": finished, "wait_s": 45})
    assert "Recorded replays: 1 exact." in methods_paragraph(app, finished)
    of_screen = methods_paragraph(app, screen)
    assert "ranked 2 perturbations" in of_screen
    assert "lower PSMB9" in of_screen
    assert "no cell was measured" in of_screen


@both_eras
def test_experiments_effects_and_cards_are_resources(
    app: App, finished: str, screen: str, mode: str
):
    async def act(client: Client) -> dict[str, Any]:
        uris = [resource.uri for resource in (await client.list_resources()).resources]
        uri_of = {
            "experiment": f"ledger://experiments/{finished}",
            "screen": f"ledger://experiments/{screen}",
            "effects": f"ledger://experiments/{finished}/effects",
            "top": f"ledger://experiments/{finished}/effects?top=3",
        }
        read = {name: await client.read_resource(uri) for name, uri in uri_of.items()}
        read |= {"card": await client.read_resource(uris[0])} if uris else {}
        return {name: content.contents[0] for name, content in read.items()}

    (name,) = app.catalogue.names()
    (app.catalogue.load(name).path / "card.md").write_text("# card", "utf-8")
    read = drive(app, mode, act)
    assert json.loads(read["experiment"].text)["provenance"]["request"]["n_cells"] == 8
    assert len(json.loads(read["screen"].text)["ranking"]) == 2
    assert len(json.loads(read["top"].text)["genes"]) == 3
    assert len(json.loads(read["effects"].text)["genes"]) > 3
    assert read["card"].text == "# card"
    assert read["card"].mime_type == "text/markdown"


@both_eras
@pytest.mark.parametrize(
    "uri",
    [
        "ledger://experiments/exp_nothing",
        "ledger://experiments/exp_nothing/effects",
        "ledger://experiments/exp_nothing/effects?top=many",
        "model://nothing/card",
        "plots://nothing.png",
        "plots://..%2F..%2Fsecret.png",
        "plots://exp_a-volcano-00000000.png",
        "nothing://x",
    ],
)
def test_a_resource_that_is_not_there_is_refused_with_its_uri(app: App, mode: str, uri: str):
    error = drive(app, mode, lambda c: refusal(c, lambda: c.read_resource(uri)))
    assert error.error.code == types.INVALID_PARAMS
    assert error.error.data == {"uri": uri}


def test_a_principal_finds_nothing_of_another_in_resources_prompts_and_completions(
    app: App, finished: str
):
    other = PrincipalApp(app, "other", Budget())
    (app.home / "plots").mkdir(exist_ok=True)
    file = f"{finished}-volcano-00000000.csv"
    (app.home / "plots" / file).write_text("gene,", "utf-8")
    ref = types.ResourceTemplateReference(type="ref/resource", uri="ledger://experiments/{id}")

    async def act(client: Client) -> list[Any]:
        uris = (f"ledger://experiments/{finished}", f"plots://{file}")
        refused = [await refusal(client, lambda u=uri: client.read_resource(u)) for uri in uris]
        refused.append(
            await refusal(client, lambda: client.get_prompt("write_up", {"id": finished}))
        )
        offered = await client.complete(ref, {"name": "id", "value": finished})
        return [refused, offered.completion.values]

    async def main() -> list[Any]:
        server = build_server(app, app_of_caller=lambda: other)
        async with Client(server) as client:
            return await act(client)

    refused, completed = anyio.run(main)
    assert {error.error.code for error in refused} == {types.INVALID_PARAMS}
    assert completed == []
    owner = drive(app, "auto", lambda client: client.read_resource(f"plots://{file}"))
    assert owner.contents[0].text == "gene,"


@pytest.mark.slow
@both_eras
def test_a_picture_comes_on_request_as_a_link_or_inline(app: App, finished: str, mode: str):
    async def act(client: Client) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        results = [
            await client.call_tool("plot_experiment", {"id": finished, "wait_s": 45} | image)
            for image in ({}, {"image": "none"}, {"image": "link"}, {"image": "inline"})
        ]
        uri = results[0].structured_content["uri"]
        read = {
            suffix: (await client.read_resource(uri.replace(".png", f".{suffix}"))).contents[0]
            for suffix in MIME
        }
        return results, results[0].structured_content, read

    results, structured, read = drive(app, mode, act)
    kinds = [[block.type for block in result.content] for result in results]
    assert kinds == [["text"], ["text"], ["text", "resource_link"], ["text", "image"]]
    assert results[2].content[1].uri == structured["uri"]
    assert all(len(json.dumps(r.structured_content)) < 4000 for r in results)
    assert Path(structured["png"]).stat().st_size <= MOST_PNG
    assert {suffix: content.mime_type for suffix, content in read.items()} == MIME
    assert "<svg" in read["svg"].text
    assert read["csv"].text.startswith("gene,")


@both_eras
def test_what_names_something_of_the_home_is_completed(
    app: App, finished: str, screen: str, mode: str
):
    prompt = types.PromptReference(type="ref/prompt", name="design_screen")
    effects = types.ResourceTemplateReference(
        type="ref/resource", uri="ledger://experiments/{id}/effects{?top}"
    )
    both = types.ResourceTemplateReference(type="ref/resource", uri="ledger://experiments/{id}")

    async def act(client: Client) -> list[list[str]]:
        asks = [
            (prompt, "genes", "PSMB9, stat"),
            (prompt, "context", "cell"),
            (prompt, "checkpoint", ""),
            (prompt, "objective", "lower"),
            (both, "id", "scr"),
            (effects, "id", ""),
        ]
        return [
            (await client.complete(ref, {"name": n, "value": v})).completion.values
            for ref, n, v in asks
        ]

    genes, contexts, checkpoints, nothing, screens, ids = drive(app, mode, act)
    assert "PSMB9, STAT1" in genes
    assert all(len(values) <= MOST for values in (genes, contexts, ids))
    assert any(value.startswith("cell_line=THP-1") for value in contexts)
    assert checkpoints == list(app.catalogue.names())
    assert nothing == []
    assert screens[0] == screen
    assert all(name.startswith("scr_") for name in screens)
    assert finished in ids
    assert not any(name.startswith("scr_") for name in ids)


class TestExpensiveCalls:
    """A call that is estimated to take long is made after somebody has agreed."""

    expensive = KNOCK_OUT | {"n_cells": 64, "wait_s": 45}

    @pytest.fixture
    def app(self, app: App, monkeypatch: pytest.MonkeyPatch) -> App:
        monkeypatch.setattr("lingshu_tools.app.ASK_ABOVE_S", 0.5)
        return app

    def run(self, app: App, mode: str, more: dict[str, Any], **options: Any) -> Any:
        return drive(
            app, mode, lambda c: c.call_tool("perturb_cells", self.expensive | more), **options
        )

    @both_eras
    def test_a_client_that_cannot_ask_is_shown_the_call_that_is_accepted(self, app: App, mode: str):
        refused = self.run(app, mode, {})
        text = refused.content[0].text
        assert refused.is_error
        assert "about 1 s of computing" in text
        assert app.ledger.find().items == ()
        ((tool, arguments),) = calls_in(text)
        assert arguments["max_seconds"] == 2
        accepted = drive(app, mode, lambda c: c.call_tool(tool, arguments))
        assert accepted.structured_content["status"] == "succeeded"

    @both_eras
    @pytest.mark.parametrize(
        ("action", "content", "runs"),
        [
            ("accept", {"run": True}, True),
            ("accept", {"run": False}, False),
            ("decline", None, False),
            ("cancel", None, False),
        ],
    )
    def test_a_client_that_can_ask_asks_its_user(
        self, app: App, mode: str, action: Any, content: Any, runs: bool
    ):
        questions: list[str] = []

        async def answer(_: Any, params: types.ElicitRequestFormParams) -> types.ElicitResult:
            questions.append(params.message)
            return types.ElicitResult(action=action, content=content)

        result = self.run(app, mode, {}, elicitation_callback=answer)
        assert len(questions) == 1
        assert "about 1 s of computing" in questions[0]
        assert result.is_error != runs
        assert bool(app.ledger.find().items) == runs

    @both_eras
    def test_a_limit_of_the_caller_is_kept_without_a_question(self, app: App, mode: str):
        async def answer(*_: Any) -> types.ElicitResult:
            pytest.fail("asked")

        refused = self.run(app, mode, {"max_seconds": 0.9}, elicitation_callback=answer)
        assert refused.is_error
        assert "max_seconds=0.9" in refused.content[0].text
        accepted = self.run(app, mode, {"max_seconds": 10}, elicitation_callback=answer)
        assert accepted.structured_content["status"] == "succeeded"

    def test_a_screen_is_estimated_by_what_is_left_of_it(self, app: App):
        dear = SCREEN | {"n_cells": 64, "wait_s": 45}
        result = drive(app, "auto", lambda c: c.call_tool("run_screen", dear))
        assert result.is_error
        ((tool, arguments),) = calls_in(result.content[0].text)
        ran = drive(app, "auto", lambda c: c.call_tool(tool, arguments)).structured_content
        app.runner.wait([child.id for child in app.ledger.children(ran["screen_id"])], 120)
        again = {"screen_id": ran["screen_id"]}
        resumed = drive(app, "auto", lambda c: c.call_tool("run_screen", again))
        assert resumed.structured_content["status"] == "succeeded"

    def test_nobody_is_asked_outside_mcp(self, app: App):
        catalogue = Catalogue()
        engine = FakeEngine(catalogue.load(catalogue.names()[0]).panel)
        with_python = App(app.home, door="python", engine=engine)
        result = call(with_python, "perturb_cells", self.expensive)
        with_python.runner.wait([result.experiment_id], 120)
        assert result.status == "succeeded"


def test_the_registry_has_the_core_in_order():
    assert [name for name in registry() if name in CORE] == list(CORE)
