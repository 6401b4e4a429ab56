"""Tools in the forms of OpenAI, Anthropic and LangChain: one dispatcher, the same rows."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from chat_display import KNOCK_OUT

from lingshu_tools.calls.registry import CORE, TOOL_NAMES
from lingshu_tools.chat import AgentApp, Toolbox
from lingshu_tools.errors import NotFoundError

TEXT = json.dumps(KNOCK_OUT)


def as_object(value: Any) -> Any:
    """A mapping as an SDK's object with attributes; the arguments stay."""
    if not isinstance(value, dict):
        return value
    fields = {k: v if k in ("input", "arguments") else as_object(v) for k, v in value.items()}
    return SimpleNamespace(**fields)


def openai(tools: Toolbox, name: str, arguments: Any, wrap: Any) -> tuple[dict[str, Any], bool]:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    message = tools.answer_openai(wrap(call))
    assert (message["role"], message["tool_call_id"]) == ("tool", "c1")
    answer = json.loads(message["content"])
    return answer, answer["status"] == "error"


def responses(tools: Toolbox, name: str, arguments: Any, wrap: Any) -> tuple[dict[str, Any], bool]:
    item = {"type": "function_call", "call_id": "c1", "name": name, "arguments": arguments}
    output = tools.answer_openai_responses(wrap(item))
    assert (output["type"], output["call_id"]) == ("function_call_output", "c1")
    answer = json.loads(output["output"])
    return answer, answer["status"] == "error"


def anthropic(tools: Toolbox, name: str, arguments: Any, wrap: Any) -> tuple[dict[str, Any], bool]:
    given = json.loads(arguments) if arguments.startswith('{"') else arguments
    block = {"type": "tool_use", "id": "c1", "name": name, "input": given}
    result = tools.answer_anthropic(wrap(block))
    assert (result["type"], result["tool_use_id"]) == ("tool_result", "c1")
    return json.loads(result["content"]), result["is_error"]


def langchain(tools: Toolbox, name: str, arguments: Any, wrap: Any) -> tuple[dict[str, Any], bool]:
    [tool] = [t for t in tools.langchain() if t["name"] == name] or [tools.langchain()[0]]
    content, artifact = tool["func"](**json.loads(arguments))
    assert json.loads(content) == artifact
    return artifact, artifact["status"] == "error"


FORMS = [openai, responses, anthropic, langchain]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrap", [dict, as_object], ids=["mapping", "object"])
def test_a_call_in_any_form_writes_the_same_row(app: AgentApp, form: Any, wrap: Any):
    tools = Toolbox(app)
    answer, refused = form(tools, "perturb_cells", TEXT, wrap)
    assert not refused
    row = app.ledger.experiment(answer["experiment_id"])
    direct = tools.call("perturb_cells", KNOCK_OUT)
    assert row.request == app.ledger.experiment(direct["experiment_id"]).request
    assert row.tool == "perturb_cells"


@pytest.mark.parametrize("form", FORMS)
def test_a_refused_call_is_an_answer_in_any_form(app: AgentApp, form: Any):
    answer, refused = form(Toolbox(app), "perturb_cells", '{"n_cells": "many"}', dict)
    assert refused
    assert "n_cells" in answer["summary"]


@pytest.mark.parametrize("form", [openai, responses, anthropic])
@pytest.mark.parametrize("arguments", ["{", "[]", "", "null", "3"])
def test_arguments_that_are_no_object_raise_nothing(app: AgentApp, form: Any, arguments: str):
    answer, _ = form(Toolbox(app), "perturb_cells", arguments, dict)
    assert answer["status"] == "error"


def test_each_form_declares_every_tool_with_its_schema(app: AgentApp):
    tools = Toolbox(app)
    names = list(TOOL_NAMES)
    assert [t["function"]["name"] for t in tools.openai()] == names
    assert [t["name"] for t in tools.openai_responses()] == names
    assert [t["name"] for t in tools.anthropic()] == names
    assert [t["name"] for t in tools.langchain()] == list(tools.functions()) == names
    for spec, chat, claude in zip(tools.specs, tools.openai(), tools.anthropic(), strict=True):
        assert chat["function"]["parameters"] == claude["input_schema"] == spec.input_schema
    json.dumps([tools.openai(), tools.openai_responses(), tools.anthropic()])


def test_only_the_tools_that_are_offered_can_be_called(app: AgentApp):
    tools = Toolbox(app, tools="core")
    assert [t["name"] for t in tools.anthropic()] == list(CORE)
    answer = tools.call("replay_experiment", {"id": "exp_1"})
    assert "not offered" in answer["summary"]
    with pytest.raises(NotFoundError):
        Toolbox(app, tools=["perturb_cell"])


def test_functions_take_named_arguments(app: AgentApp):
    answer = Toolbox(app).functions()["find_genes"](names=["STAT1"])
    assert answer["status"] == "succeeded"


def test_an_agent_in_this_process_is_asked_before_it_spends_more(app: AgentApp):
    many = {**KNOCK_OUT, "n_cells": 100_000, "wait_s": 0}
    answer = Toolbox(app).call("perturb_cells", many)
    assert answer["error"] == "CostError"
    assert "max_seconds" in answer["summary"]
