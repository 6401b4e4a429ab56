"""Answers are small: what a result takes of a model's context, with the shipped checkpoints.

A token is taken for four characters of the JSON that a client gets.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_testing import FakeEngine, calls_in
from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROW_TOKENS, ROWS, is_detailed, structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.registry import registry
from lingshu_tools.tools.example_calls import perturbation_call, screen_call

CONCISE = 600
DETAILED = 4_000
ALWAYS = ("status", "summary", "ledger_head", "next_step")


def client_gets(app: App, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a result as MCP and the command line give it; it is one of the tool's model."""
    result = call(app, tool, arguments)
    value = structured(result, tool, arguments, detailed=is_detailed(arguments))
    registry()[tool].result.model_validate(value)
    return value


def tokens(value: Any) -> float:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) / 4


def example(text: str | None) -> dict[str, Any]:
    ((_, arguments),) = calls_in(text or "")
    return arguments


class Home:
    """A home with a shipped checkpoint, a finished experiment, a screen and their ids."""

    def __init__(self, place: Path, name: str) -> None:
        self.checkpoint: Checkpoint = Catalogue().load(name)
        self.app = App(place, door="mcp", engine=FakeEngine(self.checkpoint.panel))
        self.named = {"checkpoint": name}
        self.perturb = example(perturbation_call(self.checkpoint)) | {"n_cells": 16, "wait_s": 45}
        screen = example(screen_call(self.checkpoint, "plan_screen"))
        self.plan = screen | {"n_cells": 16, "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]}}
        self.experiment = self.finished("perturb_cells", self.perturb)["experiment_id"]
        self.screen = self.finished("run_screen", self.plan)["screen_id"]
        children = [child.id for child in self.app.ledger.children(self.screen)][:10]
        seeds = [self.perturb | {"seed": seed} for seed in range(0 if children[1:] else 2)]
        more = [self.finished("perturb_cells", given)["experiment_id"] for given in seeds]
        self.compared = more or children

    def finished(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        begun = call(self.app, tool, arguments)
        ids = [c.id for c in self.app.ledger.children(begun.screen_id)] if begun.screen_id else []
        assert self.app.runner.wait(ids or [begun.experiment_id], 300)
        return client_gets(self.app, tool, arguments)

    @property
    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """Calls of every tool in its concise form."""
        experiment, screen = {"id": self.experiment}, {"id": self.screen}
        return [
            ("describe_model", {}),
            ("describe_model", self.named),
            ("find_genes", self.named | {"names": ["STAT1"]}),
            ("find_genes", self.named | {"names": self.checkpoint.panel[:ROWS]}),
            ("find_genes", self.named | {"names": ["NOGENE", "STAT11"]}),
            ("find_genes", self.named | {"query": "A"}),
            ("sample_cells", self.named | {"context": self.perturb["context"], "n_cells": 16}),
            ("perturb_cells", self.perturb),
            ("perturb_cells", self.perturb | {"dry_run": True}),
            ("perturb_cells", self.perturb | {"enrichment": "hallmark"}),
            ("perturb_cells", self.perturb | {"normalise": "unresponsive"}),
            ("get_experiment", {"id": self.experiment, "normalise": "unresponsive"}),
            ("get_experiment", {"id": self.experiment, "enrichment": "hallmark", "wait_s": 45}),
            ("plan_screen", self.plan),
            ("run_screen", self.plan),
            ("run_screen", self.plan | {"dry_run": True}),
            ("get_experiment", experiment),
            ("get_experiment", screen),
            ("list_experiments", {}),
            *(("compare_experiments", {"ids": self.compared[:n]}) for n in (2, 3, 4, 10)),
            ("compare_experiments", {"ids": self.compared[:10], "show": "shared"}),
            ("compare_experiments", {"ids": self.compared[:2], "show": "opposite"}),
            ("export_experiment", experiment | {"format": "script"}),
            ("replay_experiment", experiment | {"wait_s": 0}),
            ("replay_experiment", screen | {"wait_s": 0}),
            ("cancel_experiment", experiment),
        ]

    @property
    def detailed_calls(self) -> list[tuple[str, dict[str, Any]]]:
        """The largest calls of every tool that has a detailed form."""
        detailed, experiment = {"detail": "detailed"}, {"id": self.experiment}
        names = {"names": self.checkpoint.panel[:200], "limit": 200}
        return [
            ("describe_model", {"detail": "detailed"}),
            ("describe_model", self.named | detailed),
            ("describe_model", self.named | detailed | {"limit": 200}),
            ("find_genes", self.named | names),
            ("find_genes", self.named | names | detailed),
            ("find_genes", self.named | {"query": "A", "limit": 200} | detailed),
            ("perturb_cells", self.perturb | {"top": 200}),
            ("perturb_cells", self.perturb | {"top": 200} | detailed),
            ("plan_screen", self.plan | detailed),
            ("run_screen", self.plan | {"top": 2000} | detailed),
            ("get_experiment", experiment | {"detail": "effects", "limit": 200}),
            ("get_experiment", experiment | {"genes": self.checkpoint.panel[:100]}),
            ("get_experiment", experiment | {"detail": "provenance"}),
            (
                "get_experiment",
                experiment | {"detail": "effects", "enrichment": "reactome", "wait_s": 45},
            ),
            ("get_experiment", {"id": self.screen, "detail": "effects", "limit": 200}),
            ("list_experiments", {"limit": 100} | detailed),
            *(("compare_experiments", {"ids": self.compared[:n]} | detailed) for n in (2, 4, 10)),
        ]


@pytest.fixture(
    scope="module", params=["thp1-crispr", pytest.param("pbmc", marks=pytest.mark.slow)]
)
def home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    opened = Home(tmp_path_factory.mktemp("budgets"), request.param)
    yield opened
    opened.app.close()


def test_a_concise_result_fits_its_budget_and_has_what_an_answer_needs(home: Home):
    for tool, arguments in home.calls:
        value = client_gets(home.app, tool, arguments)
        what = f"{tool} {json.dumps(arguments)[:100]}: {tokens(value):.0f} tokens"
        assert tokens(value) <= CONCISE, what
        assert [name for name in ALWAYS if name not in value] in ([], ["next_step"]), what
        assert len(str(value["summary"])) > 10
        assert (
            value["status"] in ("queued", "running") or "progress" not in value or value["progress"]
        )
        rows = [v for v in value.values() if isinstance(v, list)]
        assert all(len(row) <= ROWS for row in rows), what


def test_the_caveat_of_a_checkpoint_fits_into_its_answers(tmp_path: Path):
    checkpoint = Catalogue().load("k562-crispra-semisynthetic")
    app = App(tmp_path / "home", door="mcp", engine=FakeEngine(checkpoint.panel))
    named = {"checkpoint": checkpoint.name}
    perturb = example(perturbation_call(checkpoint)) | {"n_cells": 16, "wait_s": 45}
    plan = example(screen_call(checkpoint, "plan_screen"))
    detailed = {"detail": "detailed"}
    for tool, arguments in (
        ("describe_model", {}), ("describe_model", named), ("describe_model", named | detailed),
        ("find_genes", named | {"query": "A"}), ("perturb_cells", perturb), ("plan_screen", plan),
        ("run_screen", plan | {"wait_s": 12}),
    ):  # fmt: skip
        value = client_gets(app, tool, arguments)
        assert tokens(value) <= (DETAILED if is_detailed(arguments) else CONCISE), (tool, arguments)
        assert checkpoint.caveats[0] in value["caveats"], (tool, arguments)
    app.close()


@pytest.mark.parametrize("tool", ["perturb_cells", "run_screen", "get_experiment"])
def test_a_concise_result_has_evidence_and_an_id(home: Home, tool: str):
    arguments = next(given for name, given in home.calls if name == tool)
    value = client_gets(home.app, tool, arguments)
    assert value.get("held_out") or value["evidence"]["model"]["value"]
    assert value.get("experiment_id") or value["screen_id"]


def test_a_detailed_result_is_whole_and_paged(home: Home):
    for tool, arguments in home.detailed_calls:
        value = client_gets(home.app, tool, arguments)
        what = f"{tool} {json.dumps(arguments)[:100]}: {tokens(value):.0f} tokens"
        assert tokens(value) <= DETAILED, what


def test_all_genes_come_in_pages_each_once(home: Home):
    arguments: dict[str, Any] = {"id": home.experiment, "detail": "effects", "limit": 200}
    genes: list[str] = []
    for _ in range(6):
        value = client_gets(home.app, "get_experiment", arguments)
        genes += [row["gene"] for row in value["genes"]]
        text = value["truncated"]["how_to_get_more"]
        ((_, more),) = calls_in(text)
        arguments |= more
        assert arguments["offset"] == len(genes)
    assert len(set(genes)) == len(genes) >= 100


def test_names_that_do_not_fit_come_with_the_next_call(home: Home):
    arguments = home.named | {"query": "A", "limit": 200, "detail": "detailed"}
    first = client_gets(home.app, "find_genes", arguments)
    ((_, more),) = calls_in(first["truncated"]["how_to_get_more"])
    second = client_gets(home.app, "find_genes", more)
    shown = [{row["gene"] for row in page["genes"]} for page in (first, second)]
    assert not shown[0] & shown[1]
    assert all(shown)


def test_the_pages_of_the_ledger_join(home: Home):
    ids: list[str] = []
    arguments: dict[str, Any] = {"limit": 100, "detail": "detailed"}
    while True:
        page = client_gets(home.app, "list_experiments", arguments)
        ids += [row["experiment_id"] for row in page["experiments"]]
        if not page.get("next_before"):
            break
        arguments |= {"before": page["next_before"]}
    everything = [item.experiment.id for item in home.app.ledger.find(limit=200).items]
    assert ids == everything


def test_a_caller_in_python_gets_every_row(home: Home):
    app = App(home.app.home, door="python", engine=home.app.engine)
    arguments = {"id": home.experiment, "detail": "effects", "limit": 200}
    assert len(call(app, "get_experiment", arguments).genes) == 200
    assert ROW_TOKENS < DETAILED


def test_concise_and_detailed_differ_in_what_is_left_out_only(home: Home):
    result = call(home.app, "perturb_cells", home.perturb)
    concise, detailed = (
        structured(result, "perturb_cells", home.perturb, detailed=detailed)
        for detailed in (False, True)
    )
    assert concise.keys() < detailed.keys()
    assert "units" not in concise
    assert detailed["units"]
    for name in ("status", "summary", "experiment_id", "perturbation", "next_step"):
        assert concise[name] == detailed[name]
    for row, whole in zip(concise["genes"], detailed["genes"], strict=True):
        assert row.keys() < whole.keys()
        assert row["change"] == pytest.approx(whole["change"], rel=0.01)
