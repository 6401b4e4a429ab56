"""What holds for every answer from a checkpoint is said in every answer from it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_model.contracts.catalogue import MOST_CAVEAT, MOST_CAVEATS, pin
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.spec_file import SpecError
from lingshu_testing import OF_FILES, FakeEngine, make_checkpoint, tool_calls
from lingshu_tools.app import App
from lingshu_tools.calls.concise import is_detailed, structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.registry import TOOL_NAMES

SAID = "drawn: cells were drawn around published means"
CHOSEN = ("describe_model", "find_genes", "sample_cells", "perturb_cells", "plan_screen",
          "run_screen", "list_experiments")  # fmt: skip
"""Tools that are given a checkpoint's name."""


def with_caveats(checkpoint: Checkpoint, caveats: Any) -> Checkpoint:
    path = checkpoint.path / "config.json"
    config = json.loads(path.read_text()) | {"training": {"caveats": caveats}}
    path.write_text(json.dumps(config))
    pin(checkpoint.path)
    return Catalogue([checkpoint.path.parent]).load(checkpoint.name)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    make_checkpoint(tmp_path / "checkpoints")
    drawn = make_checkpoint(tmp_path / "checkpoints", name="drawn")
    with_caveats(drawn, [SAID])
    catalogue = Catalogue([tmp_path / "checkpoints"])
    app = App(tmp_path / "home", engine=FakeEngine(drawn.panel), catalogue=catalogue)
    yield app
    app.close()


def answers(app: App, name: str, tools: Sequence[str]) -> dict[str, list[str]]:
    """The caveats of a concise answer of each tool, on one checkpoint."""
    ids = [
        call(app, "perturb_cells", {"checkpoint": name, "n_cells": 8, "wait_s": 45, "seed": seed,
             "interventions": [{"kind": "knockout", "target": "STAT1"}]}).experiment_id
        for seed in (0, 1)
    ]  # fmt: skip
    screen = {"checkpoint": name, "objective": {"lower": ["PSMB9"]}, "n_cells": 8, "wait_s": 45,
              "candidates": ["STAT1", "JAK2"]}  # fmt: skip
    screen_id = call(app, "run_screen", screen).screen_id
    every = tool_calls(ids[0], wait_s=45, second_id=ids[1], screen_id=screen_id)
    every |= {tool: every[tool] | {"checkpoint": name} for tool in CHOSEN}
    result: dict[str, list[str]] = {}
    for tool in tools:
        given = every[tool]
        answer = structured(call(app, tool, given), tool, given, detailed=is_detailed(given))
        result[tool] = answer.get("caveats", [])
    return result


def test_every_tool_says_the_caveat_of_the_checkpoint_and_of_no_other(app: App):
    said = answers(app, "drawn", [t for t in TOOL_NAMES if t not in OF_FILES])
    assert {tool: SAID in caveats for tool, caveats in said.items()} == dict.fromkeys(said, True)
    assert all(caveats.count(SAID) == 1 for caveats in said.values())
    others = answers(app, "made", CHOSEN)
    assert not [tool for tool, caveats in others.items() if SAID in caveats]


def test_a_dry_run_and_an_unnamed_only_checkpoint_say_it_too(tmp_path: Path):
    drawn = with_caveats(make_checkpoint(tmp_path / "checkpoints"), [SAID])
    catalogue = Catalogue([tmp_path / "checkpoints"])
    app = App(tmp_path / "home", engine=FakeEngine(drawn.panel), catalogue=catalogue)
    given = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "dry_run": True}
    assert SAID in call(app, "perturb_cells", given).caveats
    app.close()


def test_all_checkpoints_described_together_bring_theirs(app: App):
    assert SAID in call(app, "describe_model", {}).caveats


@pytest.mark.parametrize("written", [None, "text", {"a": 1}, [1, None, ""], 7])
def test_caveats_that_are_no_list_of_sentences_are_none(tmp_path: Path, written: Any):
    assert with_caveats(make_checkpoint(tmp_path), written).caveats == []


def test_no_more_of_a_file_is_quoted_than_a_specification_may_hold(tmp_path: Path):
    checkpoint = with_caveats(make_checkpoint(tmp_path), ["x" * 10_000] * 50)
    assert [len(each) for each in checkpoint.caveats] == [MOST_CAVEAT] * MOST_CAVEATS
    source = {"file": "a.h5ad", "context": {"cell_line": "A"}}
    spec = {"name": "a", "sources": [source], "recipe": "effects"}
    assert TrainingSpec.of({**spec, "caveats": [SAID]}, "a").caveats == [SAID]
    for wrong in (["x" * 201], [""], ["a"] * 4):
        with pytest.raises(SpecError, match="caveats"):
            TrainingSpec.of({**spec, "caveats": wrong}, "a")
