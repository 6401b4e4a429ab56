"""What a caller sends is repeated in an error for at most 200 characters, however long it is."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call, error_result, find_tool
from lingshu_tools.calls.registry import TOOL_NAMES, registry
from lingshu_tools.cli import main
from lingshu_tools.errors import LONGEST_ECHO, InputError, LingshuError, bounded, quoted
from lingshu_tools.lab import Lab

N = 100_000
LONG = "Q" * N
SPACED = "Q " * (N // 2)
LONGEST_ERROR = 4600


def values() -> dict[str, Any]:
    """Long values of every JSON type."""
    return {
        "text": LONG,
        "spaced text": SPACED,
        "lines": "Q\n" * (N // 2),
        "list": [LONG],
        "many": ["QQQQQQQQ"] * (N // 8),
        "object": {LONG: LONG},
        "object of many words": {SPACED: SPACED},
        "objects": [{"kind": "knockout", "target": LONG}, {LONG: 1}],
        "number": 10**300,
    }


def echoed(text: str) -> int:
    """Return how many of the characters that were sent a text repeats in one piece."""
    pieces = "".join(c if c in "Q \n',\"[]{}:" or c == "\\" else "|" for c in text).split("|")
    return max(piece.count("Q") for piece in pieces)


def good(tool: str) -> dict[str, Any]:
    """The arguments that a tool must have."""
    given = {
        "id": "exp_aaaaaaaaaaaaaaaa",
        "interventions": [{"kind": "knockout", "target": "STAT1"}],
        "objective": {"lower": ["PSMB9"]},
        "candidates": ["STAT1"],
        "names": ["STAT1"],
        "dry_run": True,
    }
    schema = registry()[tool].input_schema
    needed = {*schema.get("required", ()), "dry_run"} | (
        {"names"} if tool == "find_genes" else set()
    )
    return {
        name: value for name, value in given.items() if name in needed & {*schema["properties"]}
    }


def calls(tool: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield calls of a tool with one long name or value each, and what is long."""
    yield "a name", good(tool) | {LONG: 1}
    yield "a name of many words", good(tool) | {SPACED: 1}
    yield "many names", good(tool) | {f"{LONG[:300]}{i}": 1 for i in range(200)}
    for field, spec in registry()[tool].input_schema["properties"].items():
        for what, value in values().items():
            yield f"{field}: {what}", good(tool) | {field: value}
        if "object" in json.dumps(spec):
            yield f"{field}: a field", good(tool) | {field: {LONG: 1}}
            yield f"{field}: fields", good(tool) | {field: [{LONG: 1}] * 50}


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_no_error_repeats_more_than_a_line_of_a_call(app: App, tool: str):
    started, refused = time.monotonic(), 0
    for what, arguments in calls(tool):
        try:
            call(app, tool, arguments)
        except LingshuError as error:
            refused += 1
            text = error_result(error).summary
            assert echoed(text) <= LONGEST_ECHO, (what, text[:1000])
            assert len(text) <= LONGEST_ERROR, what
    assert refused > len(registry()[tool].input_schema["properties"])
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("name", [LONG, SPACED, LONG.lower()])
def test_no_unknown_name_is_repeated_whole(app: App, name: str):
    for ask in (
        lambda: find_tool(name),
        lambda: call(app, name, {}),
        lambda: app.ledger.experiment(name),
        lambda: app.ledger.screen(name),
        lambda: app.ledger.get_object(name),
        lambda: app.ledger.find(before=name),
        lambda: app.ledger.find(status=name),  # type: ignore[arg-type]
        lambda: getattr(Lab(app=app), name),
    ):
        with pytest.raises((LingshuError, AttributeError)) as error:
            ask()
        assert len(str(error.value)) < LONGEST_ERROR
        assert str(error.value).lower().count("q") < LONGEST_ECHO + 20


@pytest.mark.parametrize(
    "line",
    [
        [LONG],
        ["ledger", LONG],
        ["call", LONG],
        ["call", "list_experiments", LONG],
        ["call", "list_experiments", f'["{LONG}"]'],
        ["ledger", "show", LONG],
        ["ledger", "list", "--limit", LONG],
        ["ledger", "list", f"--{LONG}"],
        ["ledger", "verify", "--anchor", LONG],
        ["ledger", "tag", "exp_aaaaaaaaaaaaaaaa", LONG],
        ["ledger", "import", LONG[:3000]],
        ["replay", "--sample", LONG],
        ["replay", LONG],
        ["models", LONG],
    ],
    ids=lambda line: " ".join(word[:20] for word in line),
)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_repeats_a_long_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, line: list[str], as_json: bool
):
    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    shown = CliRunner().invoke(main, ["--json", *line] if as_json else line)
    assert shown.exit_code != 0
    assert shown.output
    assert shown.output.count("Q") <= 2 * LONGEST_ECHO, shown.output[:1000]


def test_a_short_value_is_shown_whole_and_a_long_message_keeps_its_end():
    assert quoted({"a": "b"}) == "{'a': 'b'}"
    assert quoted(LONG) == f"'{LONG[:199]}… (100002 characters)"
    assert bounded("a b c") == "a b c"
    assert bounded(f"begin {LONG} end") == f"begin {LONG[:LONGEST_ECHO]}… end"
    cut = bounded(f"begin {SPACED} end")
    assert (cut[:5], cut[-3:]) == ("begin", "end")
    assert len(cut) < LONGEST_ERROR
    assert "more characters" in cut


@pytest.mark.parametrize("tag", ["a\n", "a\nb", "a\u2028b", "x" * 61, "", " a", "a\tb", "é", LONG])
def test_what_is_no_tag_is_refused_by_every_tool_that_takes_one(app: App, tag: str):
    plan = {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1"]}
    for tool, arguments in {
        "sample_cells": {},
        "perturb_cells": {"interventions": [{"kind": "knockout", "target": "STAT1"}]},
        "run_screen": plan,
        "score_cells": {"cells": "mine.h5ad"},
        "complete_cells": {"cells": "mine.h5ad"},
    }.items():
        assert "tags" in registry()[tool].input_schema["properties"]
        with pytest.raises(InputError, match=r"tags\[0\]"):
            call(app, tool, arguments | {"tags": [tag], "wait_s": 0})
    assert app.ledger.find().items == ()


def test_every_tool_that_takes_tags_is_tried_above():
    taking = [name for name in TOOL_NAMES if "tags" in registry()[name].input_schema["properties"]]
    tried = {"sample_cells", "perturb_cells", "run_screen", "score_cells", "complete_cells"}
    assert {*taking} == tried
