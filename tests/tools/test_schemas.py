"""Published schemas: what every client library converts, and what it then sends is accepted."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from lingshu_testing import TARGETS, calls_in, tool_calls
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call, find_tool, parse
from lingshu_tools.calls.mending import INJECTED
from lingshu_tools.calls.registry import CORE, TOOL_NAMES, registry
from lingshu_tools.calls.schemas import INPUT_KEYS, published_input, strict_input
from lingshu_tools.errors import InputError

TYPES = {"object", "array", "string", "integer", "number", "boolean"}
STAT1 = {"kind": "knockout", "target": "STAT1"}
LIST = [{"field": "cell_line", "value": "THP-1"}]


def nodes(schema: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema in a schema, with where it is."""
    yield place, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{place}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{place}[]")


def published() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in TOOL_NAMES:
        yield from nodes(registry()[name].input_schema, name)


def sent(schema: dict[str, Any]) -> Any:
    """Return what a client in strict mode fills in for an argument that it wants to leave out."""
    empty = {"string": "", "array": [], "object": {}}
    return schema.get("default", empty.get(schema["type"]))


@pytest.mark.parametrize(("place", "schema"), list(published()))
def test_every_published_schema_keeps_to_what_all_client_libraries_convert(
    place: str, schema: dict[str, Any]
):
    assert schema.keys() <= set(INPUT_KEYS), place
    assert schema["type"] in TYPES, place
    assert ("properties" in schema) == (schema["type"] == "object"), place
    assert ("items" in schema) == (schema["type"] == "array"), place
    assert set(schema.get("required", ())) <= schema.get("properties", {}).keys(), place
    assert all(isinstance(value, str) for value in schema.get("enum", ())), place
    if "default" in schema:
        jsonschema.validate(schema["default"], schema)
    for limit in ("minimum", "maximum"):
        assert abs(schema.get(limit, 0)) <= 2**53, place


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_a_published_schema_is_a_schema_of_the_tools_good_calls(tool: str):
    spec = registry()[tool]
    schema = spec.input_schema
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tool_calls("exp_x", wait_s=1)[tool], schema)
    names = [f.alias or name for name, f in spec.arguments.model_fields.items()]
    assert sorted(schema["properties"]) == sorted(names)
    # Models fill in arguments in the order in which they are listed.
    required = schema.get("required", [])
    assert list(schema["properties"])[: len(required)] == required


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_the_strict_form_requires_every_argument_and_takes_null_for_none(tool: str):
    spec = registry()[tool]
    strict = strict_input(spec.input_schema)
    for place, schema in nodes(strict, tool):
        assert "default" not in schema, place
        if "object" in schema["type"]:
            assert schema["additionalProperties"] is False, place
            assert schema["required"] == list(schema["properties"]), place
    good = tool_calls("exp_x", wait_s=1)[tool]
    filled = dict.fromkeys(strict["properties"]) | {
        name: dict.fromkeys(strict["properties"][name]["properties"]) | value
        if name == "objective"
        else value
        for name, value in good.items()
    }
    if "values" in good:
        filled["values"] = [{"replicate": None, **v} for v in good["values"]]
    if "interventions" in good:
        filled["interventions"] = [{**i, "dose": None} for i in good["interventions"]]
    jsonschema.validate(filled, strict)
    assert parse(spec, filled) == parse(spec, good)


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_a_client_that_fills_in_every_argument_asks_for_the_same(tool: str):
    spec, good = registry()[tool], tool_calls("exp_x", wait_s=1)[tool]
    fields = spec.input_schema["properties"]
    filled = {n: sent(schema) for n, schema in fields.items() if n not in good} | good
    assert parse(spec, filled) == parse(spec, good)


UNION = {"anyOf": [{"type": "string"}, {"type": "array"}]}
FREE = {"type": "object", "additionalProperties": True}


@pytest.mark.parametrize(
    ("field", "said"),
    [(UNION, "a has 2 types"), (FREE, "a is an object of any fields"), ({}, "a has no type")],
)
def test_what_cannot_be_published_is_noticed(field: dict[str, Any], said: str):
    with pytest.raises(TypeError, match=said):
        published_input({"type": "object", "properties": {"a": field}})


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_lists_and_objects_sent_as_json_text_are_unpacked(tool: str):
    spec, good = registry()[tool], tool_calls("exp_x", wait_s=1)[tool]
    texts = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in good.items()}
    assert parse(spec, texts) == parse(spec, good)


def test_json_text_is_unpacked_inside_objects_and_is_left_where_text_is_meant():
    plan = find_tool("plan_screen")
    given = {"objective": {"lower": '["PSMB9"]'}, "candidates": '["STAT1"]'}
    assert parse(plan, given).objective.down == ["PSMB9"]
    text = parse(find_tool("list_experiments"), {"text": '["STAT1"]'}).text
    assert text == '["STAT1"]'
    for wrong in ("STAT1", '["STAT1"', "[" * 5000):
        with pytest.raises(InputError, match="candidates"):
            parse(plan, {"objective": {"lower": ["PSMB9"]}, "candidates": wrong})


@pytest.mark.parametrize("tool", TOOL_NAMES)
@pytest.mark.parametrize("key", INJECTED)
def test_what_a_known_client_adds_is_left_out_and_nothing_else_is(tool: str, key: str):
    spec, good = registry()[tool], tool_calls("exp_x", wait_s=1)[tool]
    if key not in spec.input_schema["properties"]:
        assert parse(spec, good | {key: "x"}) == parse(spec, good)
    for other in (key.upper(), f"{key}_", f"_{key}", "ncells"):
        with pytest.raises(InputError, match=f"{other} is not an argument"):
            parse(spec, good | {other: "x"})


def test_what_a_client_adds_is_refused_inside_an_argument():
    with pytest.raises(InputError, match=r"interventions\[0\].sessionId is not an argument"):
        parse(find_tool("perturb_cells"), {"interventions": [{**STAT1, "sessionId": "x"}]})


CONTEXTS = [
    LIST,
    {"cell_line": "THP-1"},
    "cell_line=THP-1",
    json.dumps(LIST),
    '{"cell_line": "THP-1"}',
]


@pytest.mark.parametrize("given", CONTEXTS)
def test_every_form_of_a_context_is_the_same_context(app: App, given: Any):
    spec = find_tool("perturb_cells")
    arguments = parse(spec, {"interventions": [STAT1], "context": given})
    assert arguments.context == {"cell_line": "THP-1"}
    assert arguments.model_dump(mode="json")["context"] == LIST
    result = call(app, "sample_cells", {"context": given, "n_cells": 4, "dry_run": True})
    assert result.context["cell_line"] == "THP-1"
    ((_, arguments),) = calls_in(result.next_step)
    jsonschema.validate(arguments, registry()["sample_cells"].input_schema)


def test_a_context_is_read_from_the_line_in_which_it_is_listed():
    spec = find_tool("sample_cells")
    line = "cell_type=CD4 T cell, naive, donor=1015"
    assert parse(spec, {"context": line}).context == {
        "cell_type": "CD4 T cell, naive",
        "donor": "1015",
    }
    many = [{"field": "donor", "value": "1015"}, {"field": "cell_type", "value": "CD4"}]
    assert parse(spec, {"context": many}).context == {"donor": "1015", "cell_type": "CD4"}


NO_CONTEXTS = [
    "THP-1",
    "cell_line=",
    "=THP-1",
    [["cell_line", "THP-1"]],
    [{"field": "cell_line"}],
    [{"cell_line": "THP-1"}],
    [{"field": 1, "value": "x"}],
    [{**LIST[0], "more": "x"}],
    LIST * 2,
]


@pytest.mark.parametrize("given", NO_CONTEXTS)
def test_what_is_no_context_is_refused_with_the_forms_that_are(given: Any):
    with pytest.raises(InputError) as refusal:
        parse(find_tool("sample_cells"), {"context": given})
    assert '[{"field": "cell_line", "value": "THP-1"}]' in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("STAT1", "STAT1 knockout"),
        ("stat1 knockout", "STAT1 knockout"),
        ("JAK2 + STAT1", "JAK2 knockout + STAT1 knockout"),
        ("STAT1+JAK2", "JAK2 knockout + STAT1 knockout"),
        ("STAT1 knockout + JAK2", "JAK2 knockout + STAT1 knockout"),
        ([STAT1, {"kind": "knockout", "target": "JAK2"}], "JAK2 knockout + STAT1 knockout"),
    ],
)
def test_a_candidate_is_written_as_it_is_listed(app: App, text: Any, label: str):
    plan = {"objective": {"lower": ["PSMB9"]}, "candidates": [text], "n_cells": 16}
    assert call(app, "plan_screen", plan).candidates == [label]
    printed = parse(find_tool("plan_screen"), plan).model_dump(mode="json")["candidates"]
    assert call(app, "plan_screen", plan | {"candidates": printed}).candidates == [label]


@pytest.mark.parametrize("every", ["all_seen", ["all_seen"]])
def test_every_trained_perturbation_can_be_asked_for(app: App, every: Any):
    plan = {"objective": {"lower": ["PSMB9"]}, "candidates": every, "n_cells": 16}
    result = call(app, "plan_screen", plan)
    assert result.n_candidates == len(TARGETS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("STAT2", "'STAT2'"),
        ("STAT1 drug", "trained as STAT1 knockout"),
        ("STAT1 + STAT2", "'STAT2'"),
        ("STAT1 + STAT1", "'STAT1' twice"),
        ("", "''"),
        ("+", "''"),
        ("STAT1 knockout 3", "dose"),
        ("Q" * 100, "QQQ"),
    ],
)
def test_a_candidate_that_cannot_be_is_refused_in_words(app: App, text: str, said: str):
    plan = {"objective": {"lower": ["PSMB9"]}, "candidates": [text], "n_cells": 16}
    with pytest.raises(InputError, match=said):
        call(app, "plan_screen", plan)


@pytest.mark.parametrize("name", TOOL_NAMES)
def test_a_description_says_when_and_when_not_units_cost_and_limits(name: str):
    text = registry()[name].description
    places = [
        text.find(part) for part in (". Use it ", " Not for ", "Units: ", "Cost: ", "Limits: ")
    ]
    assert -1 not in places
    assert places == sorted(places)
    others = "|".join(tool for tool in TOOL_NAMES if tool != name)
    # Another tool is named where this one is wrong; itself it does not name.
    assert not re.search(rf"\b{name}\b", text)
    assert re.search(rf"\b({others})\b", text) or name == "list_experiments"


def test_the_core_tools_name_no_tool_that_is_not_listed_with_them():
    others = set(TOOL_NAMES) - set(CORE)
    for name in CORE:
        spec = registry()[name]
        text = f"{spec.description} {json.dumps(spec.input_schema)}"
        assert not [other for other in others if other in text], name
