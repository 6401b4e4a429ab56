"""The call that a refusal shows is the caller's, with what was wrong in it mended."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine, calls_in, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError

STAT1 = [{"kind": "knockout", "target": "STAT1"}]
SCREEN = {"objective": {"lower": ["PSMB9", "CD274"]}, "candidates": ["STAT1", "JAK2"], "n_cells": 9}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    root = tmp_path_factory.mktemp("mended")
    checkpoint = make_checkpoint(root / "checkpoints")
    catalogue = Catalogue([checkpoint.path.parent])
    opened = App(root / "home", engine=FakeEngine(checkpoint.panel), catalogue=catalogue)
    for seed in (0, 1):
        given = {"interventions": STAT1, "n_cells": 8, "seed": seed, "wait_s": 45}
        opened.runner.wait([call(opened, "perturb_cells", given).experiment_id], 120)
    yield opened
    opened.close()


def refused(app: App, tool: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the text of a refusal and the arguments of the call that it shows."""
    before = str(app.ledger.head())
    with pytest.raises(InputError) as refusal:
        call(app, tool, arguments)
    # Looking for a call that is valid records nothing.
    assert str(app.ledger.head()) == before
    ((name, given),) = calls_in(str(refusal.value))
    assert name == tool
    return str(refusal.value), given


def ids(app: App) -> list[str]:
    return [item.experiment.id for item in app.ledger.find(tool="perturb_cells").items]


PERTURB = {"interventions": STAT1, "n_cells": 12, "seed": 3}
# What was given, and what the call that is shown must have of it.
MENDED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("perturb_cells", PERTURB | {"genes": ["PSMB9", "BRCA2", "JAK2"]},
     PERTURB | {"genes": ["PSMB9", "JAK2"]}),
    ("perturb_cells", PERTURB | {"genes": ["BRCA2", "NOGENE"]}, PERTURB),
    ("perturb_cells", PERTURB | {"genes": ["PSMB9"], "top": 5}, PERTURB | {"genes": ["PSMB9"]}),
    ("perturb_cells", PERTURB | {"n_cells": "12"}, PERTURB),
    ("perturb_cells", PERTURB | {"wait_s": 600}, PERTURB | {"wait_s": 45.0}),
    ("perturb_cells", PERTURB | {"tag": ["a"]}, PERTURB | {"tags": ["a"]}),
    ("perturb_cells", PERTURB | {"interventions": [{**STAT1[0], "gene": "JAK2"}]}, PERTURB),
    ("perturb_cells", PERTURB | {"checkpoint": "mad"}, PERTURB | {"checkpoint": "made"}),
    ("perturb_cells", PERTURB | {"context": {"cell_line": "K562"}}, PERTURB),
    ("perturb_cells", PERTURB | {"interventions": [{"kind": "knockout", "target": "JAK22"}]},
     PERTURB | {"interventions": [{"kind": "knockout", "target": "JAK2"}]}),
    ("perturb_cells", {"n_cells": 12, "seed": 3}, {"n_cells": 12, "seed": 3}),
    ("sample_cells", {"n_cells": 12, "clamp": {"STAT1": 3, "NOGENE": 2}}, {"n_cells": 12}),
    ("run_screen", SCREEN | {"candidates": ["STAT1", "JAKK2"]},
     SCREEN | {"candidates": ["STAT1", "JAK2"]}),
    ("run_screen", SCREEN | {"candidates": ["STAT1", "BRCA2 knockout", "JAK2"]}, SCREEN),
    ("plan_screen", SCREEN | {"objective": {"lower": ["PSMB9", "BRCA2:2", "CD274"]}}, SCREEN),
    ("plan_screen", SCREEN | {"objectiv": {"raise": ["PSMB9"]}}, SCREEN),
    ("list_experiments", {"limit": 1000, "text": "knockout"}, {"limit": 100, "text": "knockout"}),
    ("find_genes", {"name": ["PSMB9"], "limit": 4}, {"names": ["PSMB9"], "limit": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "arguments", "kept"), MENDED)
def test_what_was_right_in_a_call_is_in_the_one_that_is_shown(
    home: App, tool: str, arguments: dict[str, Any], kept: dict[str, Any]
):
    _, shown = refused(home, tool, arguments)
    assert {name: shown.get(name) for name in kept} == kept
    wait = {"wait_s": 45} if tool in ("perturb_cells", "sample_cells", "run_screen") else {}
    assert call(home, tool, shown | wait).status in ("succeeded", "planned")


@pytest.mark.parametrize("tool", ["get_experiment", "compare_experiments"])
def test_names_are_refused_together_and_left_out_of_the_call_on_a_finished_experiment(
    home: App, tool: str
):
    first, second = ids(home)[:2]
    on = {"id": first} if tool == "get_experiment" else {"ids": [first, second]}
    wrong = {"genes": ["PSMB9", "BRCA2", "NOGENE", "TP53"]}
    text, shown = refused(home, tool, on | wrong)
    assert shown == on | {"genes": ["PSMB9"]}
    for name in ("'BRCA2'", "'NOGENE'", "'TP53'"):
        assert name in text
    assert "PSMB9'" not in text.split("A valid call")[0]
    assert [row.gene for row in call(home, tool, shown).genes] == ["PSMB9"]


def test_several_names_of_one_list_are_named_together(home: App):
    wrong = {"genes": ["BRCA2", "TP53", "NOGENE", "PSMB9"]}
    text, _ = refused(home, "perturb_cells", PERTURB | wrong)
    assert "3 names cannot be used. 'BRCA2', 'TP53' are genes that" in text
    assert "No gene 'NOGENE' in" in text


def test_a_call_with_an_unknown_id_is_not_mended_around_it(home: App):
    with pytest.raises(InputError) as refusal:
        call(home, "get_experiment", {"id": "exp_nothing", "detail": "all"})
    ((_, shown),) = calls_in(str(refusal.value))
    assert shown.get("id") in (None, ids(home)[0], ids(home)[1])


def test_a_file_of_the_caller_is_not_read_for_an_example(home: App, tmp_path: Path):
    given = {"cells": str(tmp_path / "mine.h5ad"), "interventions": STAT1, "n_cells": "5"}
    with pytest.raises(InputError) as refusal:
        call(home, "perturb_cells", given)
    ((_, shown),) = calls_in(str(refusal.value))
    assert "cells" not in shown


def test_a_name_that_is_wrong_in_one_argument_stays_where_it_is_right(tmp_path: Path):
    checkpoint = Catalogue().load("thp1-crispr")
    app = App(tmp_path / "home", engine=FakeEngine(checkpoint.panel))
    # A trained target that the panel does not measure.
    given = {"checkpoint": checkpoint.name, "n_cells": 16,
             "interventions": [{"kind": "knockout", "target": "IRF1"}]}  # fmt: skip
    _, shown = refused(app, "perturb_cells", given | {"genes": ["IRF1", "PSMB9"]})
    assert shown == given | {"genes": ["PSMB9"]}
    app.close()
