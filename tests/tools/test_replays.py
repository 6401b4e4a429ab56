"""A replay runs from the row alone, is computed anew, and its verdict says what it is worth."""

import shutil
import sqlite3
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from lingshu_model.contracts import Cells
from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.cli.lab_book import page
from lingshu_tools.errors import InputError

PERTURB = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 16, "wait_s": 30}


class OtherEngine(FakeEngine):
    """An engine on another machine: another profile, and cells that differ in `flips` counts."""

    def __init__(self, panel: list[str], *, device: str = "other", flips: int = 0) -> None:
        super().__init__(panel)
        self.device, self.flips = device, flips

    def cells(self, job_id: str) -> Cells:
        cells = super().cells(job_id)
        if self.flips and self._arm(job_id).interventions:
            rows = np.arange(self.flips) % len(cells)
            counts = cells.counts
            np.add.at(counts, (rows, np.arange(self.flips) % len(self.panel)), 1)
            return Cells(counts, cells.measured, cells.origin)
        return cells


def replay(app, name: str) -> Any:
    return call(app, "replay_experiment", {"id": name, "wait_s": 30})


@pytest.fixture
def done(app) -> str:
    return call(app, "perturb_cells", PERTURB).experiment_id


def test_the_same_cells_on_the_same_profile_are_exact(app, done):
    result = replay(app, done)
    assert result.verdict == "exact"
    assert result.differs == {}
    assert result.replay_of == done
    assert result.experiment_id != done
    written = app.ledger.verifications(done)
    assert [(v.verdict, v.replay_id) for v in written] == [("exact", result.experiment_id)]


def test_a_replay_is_computed_anew(open_app, held):
    held.gate.set()
    app = open_app(held)
    first = call(app, "perturb_cells", PERTURB).experiment_id
    assert held.fresh == []
    again = replay(app, first)
    assert set(held.fresh) == {again.experiment_id}


def test_the_same_cells_on_another_profile_are_of_the_same_kind(open_app, done, checkpoint):
    result = replay(open_app(OtherEngine(checkpoint.panel)), done)
    assert result.verdict == "same_kind"
    assert result.differs["environment"]["profile.device"] == ["fake", "other"]


def test_a_few_other_counts_on_another_profile_are_equivalent(open_app, done, checkpoint):
    result = replay(open_app(OtherEngine(checkpoint.panel, flips=1)), done)
    assert result.verdict == "equivalent"
    assert result.differs["artifacts"][0] == "perturbed"
    assert result.differs["counts"]["perturbed"]["largest_difference"] == 1
    assert result.differs["counts"]["perturbed"]["identical_share"] < 1
    assert "not a reproduction" in result.summary


def test_other_counts_on_the_same_profile_are_different(open_app, done, checkpoint):
    engine = OtherEngine(checkpoint.panel, device="fake", flips=1)
    app = open_app(engine)
    result = replay(app, done)
    assert result.verdict == "different"
    assert result.differs["counts"]["perturbed"]["first_difference"] == [0, 0]
    assert [v.verdict for v in app.ledger.verifications(done)] == ["different"]


def test_other_effects_on_another_profile_are_different(open_app, done, checkpoint):
    class Wrong(OtherEngine):
        def cells(self, job_id: str) -> Cells:
            cells = super().cells(job_id)
            return Cells(cells.counts[:, ::-1].copy(), cells.measured, cells.origin)

    assert replay(open_app(Wrong(checkpoint.panel)), done).verdict == "different"


def test_a_replay_that_is_not_done_is_found_again_by_its_id(open_app, done, held):
    app = open_app(held)
    first = call(app, "replay_experiment", {"id": done, "wait_s": 0})
    assert first.status in ("queued", "running")
    assert first.verdict is None
    held.gate.set()
    later = call(app, "get_experiment", {"id": first.experiment_id, "wait_s": 30})
    assert later.replay.of == done
    assert later.replay.verdict == "exact"


def test_a_sample_is_replayed_too(app):
    finished = call(app, "sample_cells", {"n_cells": 8, "wait_s": 30}).experiment_id
    assert replay(app, finished).verdict == "exact"


def test_what_has_not_finished_cannot_be_replayed(open_app, held):
    app = open_app(held)
    begun = call(app, "perturb_cells", PERTURB | {"wait_s": 0}).experiment_id
    with pytest.raises(InputError, match="has not finished"):
        replay(app, begun)


def test_another_checkpoint_of_that_name_is_no_replay(open_app, done, checkpoint, engine):
    shutil.rmtree(checkpoint.path)
    make_checkpoint(checkpoint.path.parent, contexts=[{"cell_line": "K562"}])
    with pytest.raises(InputError, match="Put the folder with that digest"):
        replay(open_app(engine), done)


@pytest.fixture
def reference(app, done, tmp_path, monkeypatch) -> str:
    """An experiment in a reference ledger whose objects are not kept."""
    place = tmp_path / "reference" / "experiments.db"
    place.parent.mkdir()
    with closing(sqlite3.connect(app.ledger.database)) as database:
        database.execute("VACUUM INTO ?", (str(place),))
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(place))
    return done


def test_the_reference_ledger_is_replayed_and_not_written(reference, open_app, engine):
    app = open_app(engine, home="another")
    head = app.reference.head()
    result = replay(app, reference)
    assert result.verdict == "exact"
    assert result.verification_written is False
    assert app.reference.head() == head
    assert app.ledger.experiment(result.experiment_id).request["replay_of"] == reference


def test_the_reference_ledger_is_shown_without_its_cells(reference, open_app, engine):
    app = open_app(engine, home="another")
    shown = call(app, "get_experiment", {"id": reference})
    assert shown.status == "succeeded"
    assert shown.genes[0].change is not None
    assert any("not stored here" in c for c in shown.caveats)


def test_without_stored_cells_the_kept_effects_decide(reference, open_app, checkpoint):
    app = open_app(OtherEngine(checkpoint.panel, flips=1), home="another")
    result = replay(app, reference)
    assert result.verdict == "equivalent"
    assert result.differs["counts"] == {"perturbed": None}
    assert result.differs["agreement"]["share_within"] >= 0.98


def test_the_page_of_a_replay_of_the_reference_ledger_has_its_verdict(reference, open_app, engine):
    app = open_app(engine, home="another")
    again = replay(app, reference).experiment_id
    assert f"exact, this one, of {reference}" in page(app, again)
