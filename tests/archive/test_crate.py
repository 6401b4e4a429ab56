"""The RO-Crate: what RO-Crate 1.1 and Process Run Crate 0.5 require, held against the ledger."""

import json
import zipfile
from pathlib import Path

import pytest
from made_ledgers import request

from lingshu_tools.archive import export_ledger
from lingshu_tools.ledger import Ledger


def crate_of(path: Path) -> dict:
    with zipfile.ZipFile(path) as opened:
        return json.loads(opened.read("ro-crate-metadata.json"))


@pytest.fixture
def graph(archive: Path) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in crate_of(archive)["@graph"]}


def references(value: object) -> list[str]:
    result = value if isinstance(value, list) else [value]
    return [item["@id"] for item in result if isinstance(item, dict)]


def test_descriptor_and_root_say_which_specifications_they_follow(graph: dict[str, dict]):
    descriptor, root = graph["ro-crate-metadata.json"], graph["./"]
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    profile = root["conformsTo"]["@id"]
    assert profile == "https://w3id.org/ro/wfrun/process/0.5"
    assert (graph[profile]["@type"], graph[profile]["version"]) == ("CreativeWork", "0.5")
    assert root["@type"] == "Dataset"
    assert all(root[name] for name in ("name", "description", "datePublished", "license"))


def test_every_reference_leads_to_an_entity(graph: dict[str, dict]):
    outside = ("https://w3id.org/ro/crate/1.1",)
    wanted = {r for e in graph.values() for v in e.values() for r in references(v)}
    assert wanted - set(graph) - set(outside) == set()


def test_every_member_is_described_and_every_file_is_a_member(
    graph: dict[str, dict], archive: Path
):
    with zipfile.ZipFile(archive) as opened:
        members = set(opened.namelist()) - {"ro-crate-metadata.json"}
    files = {name for name, entity in graph.items() if entity["@type"] == "File"}
    assert files == members == set(references(graph["./"]["hasPart"]))


def test_each_experiment_that_ran_is_an_action_with_all_it_followed_from(
    graph: dict[str, dict], ledger: Ledger
):
    ran = [i.experiment for i in ledger.find().items if i.status in ("succeeded", "failed")]
    actions = {name: e for name, e in graph.items() if e["@type"] == "CreateAction"}
    assert set(actions) == {f"#{e.id}" for e in ran} == set(references(graph["./"]["mentions"]))
    for experiment in ran:
        action, outcome = actions[f"#{experiment.id}"], ledger.outcome(experiment.id)
        assert outcome
        instrument = graph[action["instrument"]["@id"]]
        assert instrument["@type"] == "SoftwareApplication"
        assert instrument["softwareVersion"] == experiment.checkpoint_digest
        request = graph[action["object"]["@id"]]
        assert json.loads(request["value"]) == experiment.request
        assert graph[action["agent"]["@id"]]["name"] == experiment.principal
        results = [graph[r] for r in references(action.get("result", []))]
        assert {f"sha256:{r['sha256']}" for r in results} == set(outcome.artifacts.values())
        assert action["endTime"] == outcome.created_at[:23] + "+00:00"
        assert action["startTime"] <= action["endTime"]
    finished, failed = (actions[f"#{e.id}"] for e in sorted(ran, key=lambda e: e.seq))
    assert finished["actionStatus"].endswith("/CompletedActionStatus")
    assert "error" not in finished
    ran_on = {graph[r]["name"]: graph[r]["value"] for r in references(finished["environment"])}
    assert ran_on == {"profile.device": "cpu", "profile.threads": "2"}
    assert failed["actionStatus"].endswith("/FailedActionStatus")
    assert failed["error"] == "not enough memory"


@pytest.mark.parametrize("terms", ["https://creativecommons.org/licenses/by/4.0/", "Ask us.", None])
def test_the_licence_is_the_one_given_or_said_to_be_missing(
    ledger: Ledger, tmp_path: Path, terms: str | None
):
    crate = crate_of(export_ledger(ledger, tmp_path / "a.zip", terms=terms).path)
    graph = {entity["@id"]: entity for entity in crate["@graph"]}
    licence = graph[graph["./"]["license"]["@id"]]
    assert licence["description"] == terms or "No licence was stated" in licence["description"]


def test_a_ledger_in_which_nothing_ran_is_described_too(tmp_path: Path):
    ledger = Ledger.open(tmp_path / "new")
    ledger.begin(request())
    crate = crate_of(export_ledger(ledger, tmp_path / "a.zip").path)
    assert not [e for e in crate["@graph"] if e["@type"] == "CreateAction"]
