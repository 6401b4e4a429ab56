"""What every tool owes every caller: the envelope, the schema, no NaN, units, a short answer."""

import json
import math
from typing import Any

import jsonschema
import pytest

from lingshu_model.contracts import Checkpoint
from lingshu_model.contracts.catalogue import pin
from lingshu_testing import OF_FILES, TARGETS, tool_calls
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.registry import TOOL_NAMES, registry

KNOCK_OUT = [{"kind": "knockout", "target": "STAT1"}]
ENVELOPE = (
    "status", "summary", "units", "support", "evidence", "caveats", "experiment_id", "screen_id",
    "ledger_head", "next_step", "truncated",
)  # fmt: skip
IN_CHILDREN = (
    "propose_batch",
    "record_measurements",
    "plot_experiment",
    "export_experiment",
    *OF_FILES,
)
CORE = tuple(n for n in TOOL_NAMES if n not in IN_CHILDREN)


def run(app: App, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return a result as a client gets it, after checking it as a client would."""
    result = json.loads(call(app, tool, arguments).model_dump_json())
    jsonschema.validate(result, registry()[tool].output_schema)
    assert all(name in result for name in ENVELOPE)
    assert all(math.isfinite(x) for x in numbers(result))
    assert result["summary"]
    return result


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for inner in value.values() for x in numbers(inner)]
    if isinstance(value, list):
        return [x for inner in value for x in numbers(inner)]
    return [value] if isinstance(value, float) else []


def perturb(app: App, **more: Any) -> dict[str, Any]:
    return run(
        app, "perturb_cells", **{"interventions": KNOCK_OUT, "n_cells": 16, "wait_s": 30} | more
    )


def calls(app: App) -> dict[str, dict[str, Any]]:
    """A good call of every tool that needs no child process."""
    ids = [perturb(app, seed=seed)["experiment_id"] for seed in (0, 1)]
    every = tool_calls(ids[0], wait_s=30, second_id=ids[1])
    return {name: every[name] for name in CORE}


def test_every_tool_answers_in_the_envelope_within_its_schema(app: App):
    for tool, arguments in calls(app).items():
        result = run(app, tool, **arguments)
        assert result["status"] in ("succeeded", "planned"), (tool, result["summary"])
        text = registry()[tool].text(call(app, tool, arguments))
        assert result["summary"][:40] in text
        assert len(text) < 4000


def test_every_tool_of_the_registry_has_a_good_call():
    assert tuple(registry()) == TOOL_NAMES == tuple(tool_calls("exp_x"))


@pytest.mark.parametrize("name", TOOL_NAMES)
def test_a_tool_is_described_for_a_model(name: str):
    spec = registry()[name]
    assert len(spec.description.split()) <= 120
    schema = spec.input_schema
    # `detail` has two values that name themselves.
    undescribed = [
        name
        for name, field in schema.get("properties", {}).items()
        if "description" not in field and name != "detail"
    ]
    assert not undescribed
    assert "pydantic" not in json.dumps(schema)


def test_a_perturbation_shows_the_asked_genes_with_intervals_and_its_own_gene(app: App):
    result = perturb(app, genes=["psmb9", "PD-L1"])
    assert [g["gene"] for g in result["genes"]] == ["PSMB9", "CD274"]
    gene = result["genes"][0]
    low, high = gene["mc_interval"]
    assert low <= gene["log2_fold_change"] <= high
    assert gene["prediction_error"] > 0
    assert 0 <= gene["sham_q"] <= 1
    assert result["target_check"][0]["gene"] == "STAT1"
    assert result["target_check"][0]["change"] < 0
    assert result["magnitude"]["sham_p"] >= 1 / 17
    assert result["support"]["tier"] == "seen"


def test_one_cell_has_no_interval_and_says_so(app: App):
    result = perturb(app, n_cells=1)
    assert result["genes"][0]["mc_interval"] is None
    assert any("one pair of cells" in c for c in result["caveats"])


def test_what_is_left_out_is_said_and_can_be_had(app: App):
    first = perturb(app, top=3)
    assert first["truncated"]["shown"] == 3
    page = run(
        app, "get_experiment", id=first["experiment_id"], detail="effects", offset=3, limit=4
    )
    strongest = [g["gene"] for g in perturb(app, top=7)["genes"]]
    assert [g["gene"] for g in first["genes"]] + [g["gene"] for g in page["genes"]] == strongest


def test_a_dry_run_costs_nothing_and_writes_nothing(app: App):
    before = str(app.ledger.head())
    result = perturb(app, dry_run=True)
    assert result["status"] == "planned"
    assert result["experiment_id"] is None
    assert result["cost"]["n_cells"] == 32
    assert result["cost"]["seconds"] == pytest.approx(0.32)
    assert "measured on" in result["cost"]["basis"]
    assert str(app.ledger.head()) == before


def test_sampled_cells_are_compared_with_the_training_cells(app: App):
    result = run(app, "sample_cells", n_cells=16, wait_s=30)
    assert len(result["quality"]["library_quantiles"]) == 5
    assert len(result["quality"]["training_library_quantiles"]) == 5
    assert -1 <= result["quality"]["pearson_of_means"] <= 1
    assert result["genes"][0]["training_mean"] is not None


def test_the_model_is_described_without_its_shams_among_the_targets(app: App):
    model = run(app, "describe_model", limit=60)["checkpoints"][0]
    assert [k["kind"] for k in model["kinds"]] == ["knockout"]
    assert model["kinds"][0]["targets"] == list(TARGETS)
    assert model["n_shams"] == 16
    assert model["tiers_without_evidence"] == ["seen_elsewhere", "combination_of_seen", "unseen"]


def test_genes_are_found_by_any_of_their_names(app: App):
    names = ["cd274", "PD-L1", "PDCD1LG1", "ENSG00000000006.3", "STATT1"]
    genes = run(app, "find_genes", names=names)["genes"]
    assert [g["gene"] for g in genes] == ["CD274"] * 4 + [None]
    assert genes[4]["nearest"][0] == "STAT1"
    result = run(app, "find_genes", query="ifngr")["genes"]
    assert [g["gene"] for g in result] == ["IFNGR1", "IFNGR2"]
    assert result[0]["perturbed_by"] == ["knockout"]


def test_a_result_says_where_every_number_came_from(app: App):
    finished = perturb(app)["experiment_id"]
    provenance = run(app, "get_experiment", id=finished, detail="provenance")["provenance"]
    assert provenance["request"]["checkpoint_digest"].startswith("sha256:")
    assert provenance["request"]["steps"] == 8
    assert set(provenance["artifacts"]) == {"control", "perturbed", "effects"}
    assert provenance["environment"]["profile"] == {"device": "fake"}


def test_the_ledger_is_listed_in_pages_and_by_perturbation(app: App):
    ids = [perturb(app)["experiment_id"] for _ in range(3)]
    first = run(app, "list_experiments", limit=2, perturbation="STAT1 knockout")
    second = run(app, "list_experiments", limit=2, before=first["next_before"])
    listed = [e["experiment_id"] for e in first["experiments"] + second["experiments"]]
    assert listed == ids[::-1]
    assert run(app, "list_experiments", perturbation="JAK2 knockout")["experiments"] == []


def test_the_order_of_interventions_never_matters(app: App):
    pair = [*KNOCK_OUT, {"kind": "knockout", "target": "JAK2"}]
    results = [perturb(app, interventions=p) for p in (pair, pair[::-1])]
    assert results[0]["genes"] == results[1]["genes"]
    assert results[0]["perturbation"] == "JAK2 knockout + STAT1 knockout"
    assert results[0]["support"]["tier"] == "combination_of_seen"
    assert "No combination condition was held out" in results[0]["summary"]


@pytest.mark.parametrize(
    ("kind", "directed"), [("knockout", True), ("crispra", True), ("cytokine", False)]
)
def test_only_kinds_that_act_on_a_gene_have_an_expected_direction(
    checkpoint: Checkpoint, open_app, engine, kind: str, directed: bool
):
    config = checkpoint.path / "config.json"
    config.write_text(config.read_text("utf-8").replace('"knockout"', f'"{kind}"'), "utf-8")
    pin(checkpoint.path)
    given = [{"kind": kind, "target": target} for target in TARGETS]
    results = [perturb(open_app(engine), interventions=[item], n_cells=64) for item in given]
    notes = [result["target_check"][0]["note"] for result in results]
    moved = [note for note in notes if "RNA goes" in note]
    assert moved
    assert all(("expect" in note) == directed for note in moved)
