"""What is shipped: a checkpoint that is what its pins say, and a record that it can make again."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint, Intervention, digest_file
from lingshu_model.contracts.catalogue import NO_REPLICATES
from lingshu_model.network.weights import load_network
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.sampler import sample_arm
from lingshu_tools.app import App
from lingshu_tools.archive import export_ledger, import_ledger
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.ledger import Experiment, Ledger

CHECKPOINTS = Path(__file__).parents[1] / "model/lingshu_model/checkpoints"
RECORD = Path(__file__).parents[1] / "experiments.db"
LARGEST_BYTES = 12_000_000
REPLAY_S = 900  # 19 s on two idle cores


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Catalogue().load("thp1-crispr")


@pytest.fixture
def record() -> Ledger:
    return Ledger.open_read_only(RECORD)


@contextmanager
def opened(home: Path) -> Generator[App]:
    """An application of a home, with an engine of its own that ends with it."""
    app = App(home)
    try:
        yield app
    finally:
        if app.engine.places.folder.exists():  # an engine that is still starting is waited for
            app.engine.ensure()
            app.engine.shutdown()
        app.close()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with opened(tmp_path / "home") as app:
        yield app


def first(record: Ledger, tool: str) -> Experiment:
    """The record's first finished experiment of a tool."""
    return record.find(tool=tool, status="succeeded", limit=500).items[-1].experiment


def verdict_of(app: App, replay_id: str) -> Any:
    """The verdict of a replay, asked for as an agent does: again until it is done."""
    end = time.monotonic() + REPLAY_S
    while (result := call(app, "get_experiment", {"id": replay_id, "wait_s": 45})).replay is None:
        assert time.monotonic() < end, (result.summary, result.caveats)
    return result.replay


def test_the_checkpoint_is_small_and_its_weights_are_the_pinned_ones(checkpoint: Checkpoint):
    network, _ = load_network(checkpoint)
    assert network.genes == len(checkpoint.panel) == 299
    assert sum(path.stat().st_size for path in checkpoint.path.iterdir()) < LARGEST_BYTES


def test_every_file_of_a_shipped_checkpoint_is_the_pinned_one():
    pins = sorted(CHECKPOINTS.glob("*.digests.json"))
    assert pins
    for pinned in pins:
        folder = pinned.with_name(pinned.name.removesuffix(".digests.json"))
        result = {p.name: digest_file(p) for p in folder.iterdir()}
        assert result == json.loads(pinned.read_text("utf-8"))["files"], "see catalogue.pin"


def test_the_semi_synthetic_checkpoint_is_small_and_says_what_it_is():
    drawn = Catalogue().load("k562-crispra-semisynthetic")
    assert sum(path.stat().st_size for path in drawn.path.iterdir()) < 5_000_000
    assert len(drawn.panel) == 2_000
    assert len(drawn.targets["crispra"]) == 105  # 104 singles, and ZBTB10 in doubles alone
    assert all("semi-synthetic" in each["cells"] for each in drawn.contexts)
    drawn_cells, no_replicates = drawn.caveats
    assert "semi-synthetic" in drawn_cells
    assert no_replicates == NO_REPLICATES
    assert "Semi-synthetic" in (drawn.path / "card.md").read_text("utf-8")[:60]


def test_a_checkpoint_whose_data_name_no_replicates_says_so():
    assert Catalogue().load("thp1-crispr").caveats == []
    assert Catalogue().load("pbmc").caveats == [NO_REPLICATES]


def test_half_of_its_doubles_are_held_out_and_can_be_planned_from_their_singles(app: App):
    drawn = Catalogue().load("k562-crispra-semisynthetic")
    (context,) = drawn.contexts
    effects = drawn.effects
    assert effects is not None
    trained = effects.measured_combinations(context)
    assert len(trained) == 67
    # A double of Norman 2019 that seed 0 holds out, and one that it trains on.
    tiers = {
        pair: drawn.support(context, [Intervention(kind="crispra", target=t) for t in pair]).tier
        for pair in (("AHR", "KLF1"), ("CEBPB", "OSR2"))
    }
    assert list(tiers.values()) == ["combination_of_seen", "seen"]
    plan = call(
        app,
        "plan_screen",
        {
            "checkpoint": drawn.name,
            "objective": {"raise": drawn.panel[:3]},
            "candidates": [{"pairs_of": "all_seen"}],
        },
    )
    assert plan.n_candidates == 104 * 103 // 2 or plan.n_candidates == 105 * 104 // 2
    assert drawn.caveats[0] in plan.caveats


def test_the_checkpoint_brings_held_out_evidence_beside_every_baseline(checkpoint: Checkpoint):
    assert checkpoint.evidence["checkpoint_digest"]
    text = str(checkpoint.evidence)
    for predictor in ("control_mean", "mean_shift", "resampled_training_cells"):
        assert predictor in text


@pytest.mark.slow
def test_cells_are_the_same_however_they_are_asked_for(checkpoint: Checkpoint):
    sampler = load_sampler(checkpoint, threads=1)
    arm = ArmRequest(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        context=checkpoint.config["contexts"][0]["context"],
        interventions=(Intervention(kind="knockout", target="STAT1"),),
        seed=3,
        n_cells=300,
        steps=checkpoint.config["sampler"]["steps"],
        guidance=checkpoint.config["sampler"]["guidance"],
    )
    whole = sample_arm(sampler, arm, workers=2).counts
    backwards = [sampler.sample_tile(arm, i) for i in reversed(range(300 // sampler.tile))]
    assert np.array_equal(
        np.concatenate(backwards[::-1]), whole[: 300 // sampler.tile * sampler.tile]
    )
    for n in (1, 7, 64):
        assert np.array_equal(
            sample_arm(sampler, arm.model_copy(update={"n_cells": n})).counts, whole[:n]
        )
    part = arm.model_copy(update={"first_cell": 16, "n_cells": 16})
    assert np.array_equal(sample_arm(sampler, part).counts, whole[16:32])


def test_every_row_of_the_record_is_what_its_hash_says(record: Ledger):
    report = record.verify()
    assert report.ok, report.problems
    assert report.rows > 100


def test_experiments_of_the_record_are_made_again_from_their_rows(app: App, record: Ledger):
    for original in (first(record, tool) for tool in ("sample_cells", "perturb_cells")):
        replay = call(app, "replay_experiment", {"id": original.id, "wait_s": 0})
        result = verdict_of(app, replay.experiment_id)
        if any(n.startswith("profile") for n in result.differs.get("environment", {})):
            assert result.verdict in ("same_kind", "equivalent")  # and what differs is named
        else:
            assert result.verdict == "exact"


@pytest.mark.slow
def test_an_experiment_that_travelled_in_an_archive_replays_exactly(app: App, tmp_path: Path):
    request: dict[str, Any] = {"checkpoint": "thp1-crispr", "n_cells": 8, "seed": 5, "wait_s": 0}
    request["interventions"] = [{"kind": "knockout", "target": "STAT1"}]
    begun = call(app, "perturb_cells", request).experiment_id
    end = time.monotonic() + REPLAY_S
    while (
        finished := call(app, "get_experiment", {"id": begun, "wait_s": 45})
    ).status != "succeeded":
        assert time.monotonic() < end, finished.summary
    archive = export_ledger(app.ledger, tmp_path / "a.zip").path
    with opened(import_ledger(archive, tmp_path / "new").home) as elsewhere:
        report = elsewhere.ledger.verify(anchors=[app.ledger.head()])
        assert report.problems == ()
        assert report.objects
        replay = call(elsewhere, "replay_experiment", {"id": begun, "wait_s": 0})
        result = verdict_of(elsewhere, replay.experiment_id)
        assert (result.verdict, result.differs) == ("exact", {})
        # It was computed there, not looked up: the new home has an engine, and its own attempt.
        assert elsewhere.engine.info()
        assert call(elsewhere, "get_experiment", {"id": begun}).genes == finished.genes
        assert elsewhere.ledger.verify().ok


def test_in_the_recorded_screen_the_interferon_receptor_pathway_lowers_psmb9_most(record: Ledger):
    (screen,) = record.find_screens()
    change: dict[str, float] = {}
    for child in record.children(screen.id):
        outcome = record.outcome(child.id)
        assert outcome
        kept = {row["gene"]: row["value"] for row in outcome.result["kept"]}
        change[child.request["interventions"][0]["target"]] = kept.get("PSMB9", 0.0)
    assert len(change) == 25
    assert set(sorted(change, key=lambda t: change[t])[:4]) == {"STAT1", "JAK2", "IFNGR1", "IFNGR2"}
