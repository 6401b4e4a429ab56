"""After a measurement: picks of two tools on one state, units of thresholds, missing files."""

import json
from pathlib import Path

import pytest

from lingshu_model.contracts import Checkpoint
from lingshu_testing import calls_in
from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.needed_cells import shown_cells

SCREEN = {"checkpoint": "thp1-crispr", "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]}}
# Values that follow no prediction, so that the surrogate and the model differ.
VALUES = {"IRF1": 2.1, "SPI1": 1.8, "BRD4": 1.7, "SMAD4": 0.2, "MYC": 0.1, "CAV1": 0.0,
          "STAT1": -0.2, "JAK2": -0.4, "IFNGR1": -0.1, "IFNGR2": 0.1}  # fmt: skip


def planned(app: App, candidates: object = "all_seen") -> str:
    return call(app, "plan_screen", {**SCREEN, "candidates": candidates}).screen_id


def record(app: App, screen_id: str, values: dict[str, float], **more):
    rows = [{"perturbation": name, "value": value} for name, value in values.items()]
    given = {"screen_id": screen_id, "values": rows, "units": "log2_fold_change", **more}
    return call(app, "record_measurements", given)


def proposed(app: App, screen_id: str, **more):
    return call(app, "propose_batch", {"screen_id": screen_id, "wait_s": 0, **more})


def names(rows) -> set[str]:
    return {row.perturbation for row in rows}


@pytest.mark.parametrize(
    ("candidates", "n"), [("all_seen", 3), ("all_seen", 12), ([{"pairs_of": "all_seen"}], 8)]
)
def test_the_next_step_of_a_recording_puts_the_same_picks_on_a_plate(
    app: App, candidates: object, n: int
):
    screen_id = planned(app, candidates)
    values = VALUES if candidates == "all_seen" else {"STAT1 + JAK2": 0.1, "IRF1 + SPI1": 2.0}
    recorded = record(app, screen_id, values, n_next=n)
    ((tool, given), *_) = calls_in(recorded.next_step)
    assert tool == "propose_batch"
    plate = call(app, tool, {**given, "wait_s": 0})
    assert names(plate.picks) == names(recorded.next_batch)
    assert len(plate.picks) == n


def test_a_plate_of_another_size_is_what_a_recording_of_that_size_gives(app: App):
    screen_id = planned(app)
    record(app, screen_id, dict(list(VALUES.items())[:4]))
    record(app, screen_id, VALUES, n_next=5)
    plate = proposed(app, screen_id, aim="learned", n_wells=9)
    # The same values again are recorded once, and give the batch of the size that is asked for.
    again = record(app, screen_id, VALUES, n_next=9)
    assert names(plate.picks) == names(again.next_batch)


def test_genes_that_were_to_be_tried_early_are_on_the_plate_too(app: App):
    folder = app.home / "gene_sets"
    folder.mkdir(parents=True)
    (folder / "known.gmt").write_text("ESSENTIAL\ts\tETV7\tATF2\n", "utf-8")
    screen_id = planned(app)
    recorded = record(app, screen_id, {"STAT1": 1.0}, known_set="ESSENTIAL", n_next=8)
    plate = proposed(app, screen_id, aim="learned", n_wells=8)
    assert names(plate.picks) == names(recorded.next_batch) >= {"ETV7 knockout"}


def test_a_proposal_that_uses_no_values_says_so_and_how_to_get_the_other(app: App):
    screen_id = planned(app)
    before = proposed(app, screen_id)
    assert not any("Chosen by predictions alone" in c for c in before.caveats)
    recorded = record(app, screen_id, VALUES)
    after = proposed(app, screen_id)
    assert names(after.picks) != names(recorded.next_batch)
    (said,) = (c for c in after.caveats if "Chosen by predictions alone" in c)
    ((tool, given),) = calls_in(said)
    assert names(call(app, tool, {**given, "wait_s": 0}).picks) == names(recorded.next_batch)
    learned = proposed(app, screen_id, aim="learned")
    assert "as record_measurements chose (" in learned.summary
    assert not any("Chosen by predictions alone" in c for c in learned.caveats)


def test_a_learned_plate_needs_values_and_takes_no_directions(app: App):
    screen_id = planned(app)
    with pytest.raises(InputError, match="has none: record_measurements"):
        proposed(app, screen_id, aim="learned")
    record(app, screen_id, VALUES)
    with pytest.raises(InputError, match='directions=2 has no use beside aim="learned"'):
        proposed(app, screen_id, aim="learned", directions=2)


@pytest.mark.parametrize(
    ("aim", "given", "said"),
    [
        ("best", {"hit_at": 1.5}, "values at or above hit_at = 1.5 log2_fold_change"),
        ("learned", {"hit_at": -1.5, "better": "lower"},
         "values at or below hit_at = -1.5 log2_fold_change"),
        ("hits", {}, "values of the best 10%, in log2_fold_change"),
    ],
)  # fmt: skip
def test_thresholds_of_hits_stand_in_the_units_of_each(app: App, aim: str, given: dict, said: str):
    screen_id = planned(app)
    record(app, screen_id, {"STAT1": 1.0, "IRF1": 2.0}, **given)
    plate = proposed(app, screen_id, aim=aim)
    (caveat,) = (c for c in plate.caveats if c.startswith("Recorded hits"))
    assert said in caveat
    threshold = plate.summary.split("predicted score at least ")[1].split(")")[0]
    assert f"predicted scores of at least {threshold} log1p_cp10k" in caveat


def test_a_proposal_without_its_files_is_made_and_not_running(app: App):
    screen_id = planned(app)
    plate = proposed(app, screen_id)
    assert (plate.status, plate.csv) == ("succeeded", None)
    assert "The plate map" in plate.summary
    again = plate
    while again.csv is None:
        ((tool, given),) = calls_in(again.next_step)
        assert tool == "propose_batch"
        again = call(app, tool, {**given, "wait_s": 45})
    assert Path(again.csv).exists()
    assert (again.proposal_id, again.picks) == (plate.proposal_id, plate.picks)
    assert "The plate map" not in again.summary


def test_answers_after_a_measurement_are_short(app: App):
    screen_id = planned(app)
    record(app, screen_id, VALUES, hit_at=1.5)
    for given in ({}, {"aim": "learned"}):
        plate = proposed(app, screen_id, **given)
        value = structured(plate, "propose_batch", given, detailed=False)
        assert len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) / 4 <= 600


def test_no_number_of_cells_cannot_be_read_as_no_cells(app: App, thp1: Checkpoint):
    assert shown_cells((12, 0)) == [12, "never"]
    assert shown_cells((12, 15)) == [12, 15]
    assert shown_cells(None) is None
    picks = proposed(app, planned(app), n_wells=30, replicates=1).picks
    known = [pick.real_cells for pick in picks if pick.real_cells]
    assert any("never" in cells for cells in known)
    assert not any(0 in cells for cells in known)
    perturb = {"checkpoint": thp1.name, "interventions": [{"kind": "knockout", "target": "JAK2"}],
               "n_cells": 16, "wait_s": 45, "detail": "detailed", "top": 200}  # fmt: skip
    effect = call(app, "perturb_cells", perturb)
    known = [row.real_cells for row in effect.genes if row.real_cells]
    assert any("never" in cells for cells in known)
    assert not any(0 in cells for cells in known)
    assert '"never"' in effect.units["real_cells"]
