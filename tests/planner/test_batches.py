"""Proposed plates: good together, over several directions, placed, drawn, and repeatable."""

import csv
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lingshu_mcp.offers.resources import plot
from lingshu_model.contracts import Checkpoint
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, NotFoundError
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.planner import plan_of
from lingshu_tools.planner.batch import UNCLEAR, Pool, choose, pool_of
from lingshu_tools.planner.plate import CONTROL, SHAPES, n_controls, plate_map
from lingshu_tools.planner.proposals import proposal_pool

SCREEN = {"checkpoint": "thp1-crispr", "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]}}
LISTS = ("all_seen", [{"pairs_of": "all_seen"}], ["all_seen", {"pairs_of": "all_seen"}])


def planned(app: App, candidates: object = "all_seen") -> str:
    return call(app, "plan_screen", {**SCREEN, "candidates": candidates}).screen_id


def proposed(app: App, screen_id: str, **more):
    arguments = {"screen_id": screen_id, "wait_s": 45, **more}
    result = call(app, "propose_batch", arguments)
    while result.csv is None:
        result = call(app, "propose_batch", arguments)
    return result


def pool(app: App, candidates: object = "all_seen", seed: int = 1) -> Pool:
    plan = plan_of(app, app.ledger.screen(planned(app, candidates)).plan)
    result = proposal_pool(plan, seed)
    assert result is not None
    return result


@pytest.mark.parametrize("candidates", LISTS)
def test_no_pathway_fills_a_plate_of_eight(app: App, candidates: object):
    candidates_pool = pool(app, candidates)
    batch = choose(candidates_pool, 8)
    directions = Counter(candidates_pool.directions[p.place] for p in batch.picks)
    assert len(batch.picks) == 8
    assert batch.n_directions == len([d for d in directions if d != UNCLEAR]) >= 3
    # The four genes of the interferon-gamma receptor's pathway are one direction.
    jak_stat = {"STAT1", "JAK2", "IFNGR1", "IFNGR2"}
    named = [c for c in candidates_pool.candidates if {i.target for i in c} <= jak_stat]
    places = [candidates_pool.candidates.index(c) for c in named]
    assert len({candidates_pool.directions[p] for p in places}) == 1
    picked = {p.place for p in batch.picks}
    # A third of the plate; more only where no other direction has a candidate left.
    assert 1 <= len(picked & set(places)) <= (4 if candidates == "all_seen" else 3)


def test_directions_are_told_apart_by_effects_on_other_genes_and_not_by_names(
    app: App, thp1: Checkpoint
):
    candidates_pool = pool(app, LISTS[2])
    plan = plan_of(app, app.ledger.screen(planned(app, LISTS[2])).plan)
    targets = {i.target for c in candidates_pool.candidates for i in c}
    others = np.array([g not in targets for g in thp1.panel])
    by_direction = defaultdict(list)
    for candidate, direction in zip(
        candidates_pool.candidates, candidates_pool.directions, strict=True
    ):
        if direction != UNCLEAR:
            from dataclasses import replace

            effect = stored_effect(replace(plan.control, interventions=candidate))
            assert effect is not None
            mean = effect.posterior.mean[others]
            by_direction[direction].append(mean / np.linalg.norm(mean))
    leaders = np.stack([vectors[0] for vectors in by_direction.values()])
    cosines = leaders @ leaders.T - np.eye(len(leaders))
    assert cosines.max() < 0.8
    assert all(min(v @ vectors[0] for v in vectors) >= 0.8 for vectors in by_direction.values())


def test_with_one_direction_asked_for_the_best_fill_the_plate(app: App):
    candidates_pool = pool(app, LISTS[2])
    free = choose(candidates_pool, 8, n_directions=1)
    spread = choose(candidates_pool, 8)
    assert free.expected_hits > spread.expected_hits
    assert free.n_directions == 1


def test_a_batch_is_better_than_the_best_one_by_one_of_its_size():
    # Three pairs share a part; a fourth candidate is a little worse alone, and independent.
    rng = np.random.Generator(np.random.Philox(2))
    shared, free = rng.normal(1.0, 0.5, 4000), rng.normal(0.95, 0.5, 4000)
    draws = np.stack([shared, shared + 1e-3, shared + 2e-3, free], axis=1)
    pool = Pool(((), (), (), ()), (), draws.mean(0), draws, ("a", "b", "c", "d"))  # type: ignore[arg-type]
    batch = choose(pool, 2, n_directions=1)
    assert {p.place for p in batch.picks} == {2, 3}
    assert batch.picks[1].expected_best > draws[:, 2].mean() + 0.2


def test_combinations_move_with_their_parts(app: App):
    candidates_pool = pool(app, LISTS[2])
    by_name = {tuple(i.target for i in c): n for n, c in enumerate(candidates_pool.candidates)}
    pair = next(c for c in by_name if len(c) == 2 and "STAT1" in c and (c[0] in ("CD86", "ATF2")))
    draws = candidates_pool.draws
    together = np.corrcoef(draws[:, by_name["STAT1",]], draws[:, by_name[pair]])[0, 1]
    apart = np.corrcoef(draws[:, by_name["STAT1",]], draws[:, by_name["JAK2",]])[0, 1]
    assert together > 0.15 > abs(apart)
    for place, score in enumerate(candidates_pool.scores):
        low, high = score.interval
        assert draws[:, place].mean() == pytest.approx(score.mean, abs=0.1 * (high - low) + 0.01)
        assert np.percentile(draws[:, place], 97.5) == pytest.approx(
            high, abs=0.2 * (high - low) + 0.02
        )


@pytest.mark.parametrize("size", [96, 384])
@pytest.mark.parametrize(("n", "replicates"), [(1, 1), (8, 3), (28, 3), (100, 2), (300, 4)])
def test_a_plate_map_has_every_well_once_and_controls_spread(size: int, n: int, replicates: int):
    labels = [f"G{i} knockout" for i in range(n)]
    wells = plate_map(labels, replicates, size, seed=7)
    rows, columns = SHAPES[size]
    places = Counter((w.plate, w.row, w.column) for w in wells)
    assert max(places.values()) == 1
    assert all(0 <= w.row < rows and 0 <= w.column < columns for w in wells)
    perturbed = Counter(w.label for w in wells if w.label != CONTROL)
    assert perturbed == dict.fromkeys(labels, replicates)
    replicate_of = Counter((w.label, w.replicate) for w in wells)
    assert max(replicate_of.values()) == 1 or size * 1 < n * replicates
    for plate in {w.plate for w in wells}:
        mine = [w for w in wells if w.plate == plate]
        controls = sorted(w.column for w in mine if w.label == CONTROL)
        assert len(controls) == n_controls(len(mine) - len(controls)) >= 4
        used = sorted({w.column for w in mine})
        if len(used) > 4:
            assert controls[0] <= used[len(used) // 2] <= controls[-1]
            assert max(b - a for a, b in pairwise(controls)) <= max(len(used) // 2, 3)
        edge = [w for w in mine if w.row in (0, rows - 1) or w.column in (0, columns - 1)]
        assert not edge or len(mine) > (rows - 2) * (columns - 2)
    assert plate_map(labels, replicates, size, seed=7) == wells
    assert n < 8 or plate_map(labels, replicates, size, seed=8) != wells


def test_the_files_of_a_plate_map_are_resources_under_the_uri_of_the_answer(app: App):
    result = proposed(app, planned(app, LISTS[2]))
    assert result.uri == f"plots://{Path(result.png).name}"
    assert plot(app, Path(result.png).name) == Path(result.png).read_bytes()
    for file in map(Path, (result.svg, result.csv)):
        assert plot(app, file.name) == file.read_text("utf-8")
    # An experiment has several pictures: their names say which.
    with pytest.raises(NotFoundError):
        plot(app, Path(result.png).name.replace("mea_", "exp_"))


def test_a_proposal_is_drawn_written_and_recorded_once(app: App):
    screen_id = planned(app, LISTS[2])
    result = proposed(app, screen_id)
    rows = list(csv.DictReader(Path(result.csv).read_text("utf-8").splitlines()))
    perturbed = Counter(row["perturbation"] for row in rows if row["perturbation"] != "control")
    assert perturbed == dict.fromkeys([p.perturbation for p in result.picks], 3)
    assert {row["guide"] for row in rows if row["perturbation"] != "control"} == {"1", "2"}
    with Image.open(result.png) as picture:
        assert picture.size[0] > 300
    drawn = Path(result.svg).read_text("utf-8")
    assert all(p.perturbation.split()[0] in drawn for p in result.picks)
    head = str(app.ledger.head())
    again = proposed(app, screen_id)
    assert (again.picks, again.proposal_id) == (result.picks, result.proposal_id)
    assert str(app.ledger.head()) == head
    (recorded,) = app.ledger.measurements(screen_id)
    assert recorded.payload["kind"] == "proposal"
    assert len(recorded.payload["wells"]) == len(rows)
    assert app.ledger.verify().ok


def test_equal_homes_propose_the_same_wells(app: App, thp1: Checkpoint):
    other = App(app.home.parent / "other", engine=FakeEngine(thp1.panel))
    payloads = []
    for home in (app, other):
        screen_id = planned(home, LISTS[2])
        call(home, "propose_batch", {"screen_id": screen_id, "wait_s": 0})
        payloads.append(home.ledger.measurements(screen_id)[0].payload)
    other.close()
    assert payloads[0] == payloads[1]


def test_a_screen_with_fewer_candidates_than_wells_says_so(app: App):
    result = call(
        app,
        "propose_batch",
        {"screen_id": planned(app, ["STAT1", "JAK2"]), "n_wells": 8, "wait_s": 0},
    )
    assert len(result.picks) == 2
    assert any("2 candidates" in c for c in result.caveats)
    assert any("Only 1 effect direction" in c for c in result.caveats)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_wells": 0}, ["n_wells"]),
        ({"plate": "48"}, ["plate", "384"]),
        ({"screen_id": "scr_none"}, ["scr_none"]),
    ],
)
def test_a_wrong_proposal_is_refused(app: App, arguments: dict, words: list):
    with pytest.raises(InputError) as caught:
        call(app, "propose_batch", {"screen_id": planned(app), **arguments})
    assert all(word in str(caught.value) for word in words)


def test_nothing_without_a_score_is_in_a_pool(app: App):
    plan = plan_of(app, app.ledger.screen(planned(app)).plan)
    from lingshu_tools.analysis import Objective

    stat1 = [c for c in plan.candidates if c[0].target == "STAT1"]
    assert pool_of(plan.control, Objective((), ("STAT1",)), stat1, 0) is None
