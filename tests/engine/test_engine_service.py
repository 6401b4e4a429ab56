import errno
import socket
import stat
import threading

import httpx
import numpy as np
import pytest
from fake_sampler import FakeSampler

from lingshu_model.contracts import PROTOCOL, Cells, Intervention, Requester
from lingshu_model.contracts.messages import PROTOCOL_HEADER
from lingshu_model.engine.http.service import Remote
from lingshu_model.engine.job_queue import ClosedError, JobQueue
from lingshu_model.engine.results import Results
from lingshu_model.engine.tiles import Tiles
from lingshu_model.system.places import EnginePlaces
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.errors import EngineError, InputError


def run_arm(engine: Engine, arm):
    view = engine.wait(engine.submit(arm).job_id, 40)
    assert view.state == "succeeded", view
    assert view.done == view.total == arm.n_cells
    return engine.cells(view.job_id)


def test_equal_arms_of_two_principals_are_two_jobs_computed_once(lab):
    lab.host()
    gate, mine, yours = lab.hold(1), lab.client("me"), lab.client("you")
    jobs = [engine.submit(lab.arm("STAT1")) for engine in (mine, mine, yours)]
    assert jobs[0].job_id == jobs[1].job_id != jobs[2].job_id
    gate.unlink()
    first, second = run_arm(mine, lab.arm("STAT1")), run_arm(yours, lab.arm("STAT1"))
    assert np.array_equal(first.counts, second.counts)
    assert len(lab.tiles()) == 3  # 20 cells in tiles of 8
    assert yours.wait(jobs[2].job_id, 0).state == "succeeded"
    with pytest.raises(EngineError, match="does not know job"):
        lab.client("you").wait(jobs[0].job_id, 0)


def test_a_fresh_arm_is_computed_anew_once_for_each_name(lab):
    lab.host()
    engine, arm = lab.client(), lab.arm("STAT1")
    first = run_arm(engine, arm)
    before = len(lab.tiles())
    again = [engine.submit(arm, fresh=name).job_id for name in ("exp_a", "exp_a", "exp_b")]
    assert again[0] == again[1] != again[2]
    for job in again:
        assert engine.wait(job, 40).state == "succeeded"
        assert np.array_equal(engine.cells(job).counts, first.counts)
    assert len(lab.tiles()) == 3 * before


def test_cells_asked_for_alone_are_those_of_the_whole(lab):
    lab.host()
    engine = lab.client()
    whole = run_arm(engine, lab.arm(n_cells=30)).counts
    assert not run_arm(engine, lab.arm()).measured[1]
    for first, n in ((0, 1), (7, 2), (8, 8), (15, 15)):
        part = run_arm(engine, lab.arm(first_cell=first, n_cells=n)).counts
        assert np.array_equal(part, whole[first : first + n])


def test_a_cancelled_arm_stops_between_steps_and_can_be_asked_for_again(lab):
    lab.host()
    gate, engine = lab.hold(1), lab.client()
    job = engine.submit(lab.arm())
    assert engine.wait(job.job_id, 0.01).state in ("queued", "running")
    with pytest.raises(EngineError, match="0 of 20 cells"):
        engine.cells(job.job_id)
    assert engine.cancel(job.job_id).state == "cancelled"
    run_arm(engine, lab.arm(seed=2))  # the held tile no longer occupies the engine
    assert engine.wait(job.job_id, 0).state == "cancelled"
    gate.unlink()
    run_arm(engine, lab.arm())


def test_cancelling_one_of_two_wishes_leaves_the_other(lab):
    lab.host()
    gate, mine, yours = lab.hold(1), lab.client("me"), lab.client("you")
    first, second = mine.submit(lab.arm()), yours.submit(lab.arm())
    assert mine.cancel(first.job_id).state == "cancelled"
    assert yours.wait(second.job_id, 0).state in ("queued", "running")
    gate.unlink()
    run_arm(yours, lab.arm())


def test_a_few_cells_wait_for_one_tile_of_a_large_job_and_for_their_own(lab):
    lab.host()
    gate, mine, yours = lab.hold(1), lab.client("me"), lab.client("you")
    big, later, small = lab.arm(n_cells=4000), lab.arm(seed=2, n_cells=16), lab.arm(seed=3)
    mine.submit(big)
    while not lab.tiles():
        threading.Event().wait(0.005)
    mine.submit(later)
    yours.submit(small)
    gate.unlink()
    run_arm(mine, later)
    run_arm(yours, small)
    order = [line.split()[1] for line in lab.tiles()][:8]
    assert order[0] == big.digest
    assert order.count(big.digest) <= 3
    assert order.count(later.digest) == 2
    assert order.count(small.digest) == 3


def test_in_whatever_order_tiles_are_computed_counts_are_the_same(lab):
    lab.host(workers=3)
    gate, engine = lab.hold(7), lab.client()
    held = engine.submit(lab.arm(seed=7, n_cells=40))  # so that all others are in the queue at once
    arms = [
        lab.arm(*targets, seed=seed, n_cells=n, first_cell=first)
        for seed, first in ((1, 0), (2, 3), (3, 800))
        for targets in ((), ("STAT1",), ("JAK2",))
        for n in (1, 16, 250)
    ]
    for number, arm in enumerate(arms):
        requester = Requester(principal="ab"[number % 2], group=f"scr_{number % 5}")
        engine.submit(arm, requester=requester)
    gate.unlink()
    assert engine.wait(held.job_id, 40).state == "succeeded"
    sampler = FakeSampler(lab.catalogue.load("toy"), dtype="auto", threads=1)
    for arm in arms:
        first, end = arm.first_cell, arm.first_cell + arm.n_cells
        begin = first // 8
        tiles = [sampler.sample_tile(arm, i, bool) for i in range(begin, (end - 1) // 8 + 1)]
        alone = np.concatenate(tiles)[first - 8 * begin : end - 8 * begin]
        assert np.array_equal(run_arm(engine, arm).counts, alone)


def test_an_experiment_that_is_withdrawn_leaves_nothing_queued(lab):
    lab.host()
    gate, engine = lab.hold(1), lab.client()
    mine = Requester(experiment="exp_a", group="scr_1")
    for seed in (1, 2, 3):
        engine.submit(lab.arm(seed=seed), requester=mine)
    assert [job.experiments for job in engine.unfinished()] == [("exp_a",)] * 3
    assert lab.client("somebody else").unfinished() == []
    # Another client, which knows no job of it and never will.
    assert lab.client("somebody else").withdraw(["exp_a", "exp_unknown"]) == 3
    assert engine.unfinished() == []
    run_arm(engine, lab.arm(seed=4))  # the tile that was held is given up
    assert gate.exists()


def test_an_arm_that_another_experiment_waits_for_goes_on(lab):
    lab.host()
    gate, engine = lab.hold(1), lab.client()
    first = engine.submit(lab.arm(), requester=Requester(experiment="exp_a", group="scr_1"))
    second = engine.submit(lab.arm(), requester=Requester(experiment="exp_b", group="scr_2"))
    assert first.job_id == second.job_id
    assert engine.withdraw(["exp_a"]) == 0
    assert [job.experiments for job in engine.unfinished()] == [("exp_b",)]
    gate.unlink()
    assert engine.wait(second.job_id, 40).state == "succeeded"


def test_a_withdrawn_experiment_gets_nothing_queued_later(lab):
    lab.host()
    engine = lab.client()
    lab.hold(1)
    assert engine.withdraw(["exp_a"]) == 0
    late = engine.submit(lab.arm(), requester=Requester(experiment="exp_a"))
    assert late.state == "cancelled"
    assert engine.wait(late.job_id, 0).state == "cancelled"
    assert engine.unfinished() == []
    other = engine.submit(lab.arm(), requester=Requester(experiment="exp_b"))
    assert other.state in ("queued", "running")


def test_a_principal_of_any_script_is_kept_apart(lab):
    lab.host()
    lab.hold(1)
    engine = lab.client("Zoë 李 100%")
    job = engine.submit(lab.arm())
    assert engine.wait(job.job_id, 0).state in ("queued", "running")
    assert [job.principal for job in engine.unfinished()] == ["Zoë 李 100%"]
    assert lab.client("Zoe").unfinished() == []


def test_withdrawing_where_no_engine_runs_starts_none(lab):
    assert lab.client().withdraw(["exp_a"]) == 0
    assert lab.client().unfinished() == []
    assert lab.client().info() is None


def test_cancelling_many_tiles_is_quick_and_leaves_no_file(lab):
    lab.host()
    engine = lab.client()
    job = engine.submit(lab.arm(n_cells=16_000))
    while engine.wait(job.job_id, 0).done < 1000:
        threading.Event().wait(0.01)
    assert engine.cancel(job.job_id).state == "cancelled"
    run_arm(engine, lab.arm(seed=2))
    assert list((engine.places.results / "tiles").iterdir()) == []


def test_a_failing_arm_fails_alone_and_says_why(lab):
    lab.host()
    engine = lab.client()
    view = engine.wait(engine.submit(lab.arm(seed=13)).job_id, 40)
    assert (view.state, view.error) == ("failed", "RuntimeError: seed 13 always fails")
    run_arm(engine, lab.arm())


def test_a_damaged_result_is_not_served_but_made_again(lab):
    lab.host()
    engine = lab.client()
    before = run_arm(engine, lab.arm())
    (path,) = engine.places.results.glob("*.cells")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    job = engine.submit(lab.arm()).job_id
    with pytest.raises(EngineError):
        engine.cells(job)
    assert np.array_equal(run_arm(engine, lab.arm()).counts, before.counts)
    assert len(lab.tiles()) == 6


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"checkpoint_digest": "sha256:0"}, InputError, "'toy' is sha256:.*asks for 'sha256:0'"),
        (
            {"checkpoint": "tory", "checkpoint_digest": "sha256:0"},
            InputError,
            "no checkpoint 'tory'; there are toy",
        ),
        ({"context": {"cell_line": "THP-1"}}, InputError, "needs exactly 'cell_line', 'stimulus'"),
        (
            {"context": {"cell_line": "THP1", "stimulus": "IFN-gamma"}},
            InputError,
            "'THP1' is no cell_line of the context that toy knows; near it: 'THP-1'",
        ),
        (
            {"interventions": [Intervention(kind="knockout", target="STAT2")]},
            InputError,
            "'STAT2' is no target of knockout that toy knows; near it: 'STAT1'",
        ),
        (
            {"interventions": [Intervention(kind="drug", target="JAK2", dose=1.0)]},
            InputError,
            "'drug' is no kind of intervention that toy knows; it knows 'knockout'",
        ),
        (
            {"interventions": [Intervention(kind="knockout", target="JAK2")] * 2},
            InputError,
            "name a target twice",
        ),
        ({"clamp": {"ACTN": 3}}, InputError, "near it: 'ACTB'"),
        ({"clamp": {"ACTB": -3}}, InputError, "clamp 'ACTB' is -3: a count from 0"),
    ],
)
def test_an_arm_that_cannot_be_is_refused_with_what_can(lab, changes, error, text):
    lab.host()
    with pytest.raises(error, match=text):
        lab.client().submit(lab.arm(**changes))
    assert lab.tiles() == []


def test_requests_that_are_no_arms_are_refused(lab):
    lab.host()
    transport = httpx.HTTPTransport(uds=str(EnginePlaces(lab.home).socket))
    with httpx.Client(transport=transport, base_url="http://engine") as http:
        http.headers[PROTOCOL_HEADER] = str(PROTOCOL)
        arm = lab.arm().model_dump(mode="json") | {"n_cells": 0, "colour": "red"}
        answer = http.post("/v1/jobs", json={"arm": arm})
        assert answer.status_code == 422
        assert "arm.n_cells is 0" in answer.json()["error"]
        assert "arm.colour is 'red'" in answer.json()["error"]
        assert http.post("/v1/jobs", content=b" " * (5 << 20)).status_code == 413
        assert http.get("/v1/jobs/x", params={"wait_s": "nan"}).status_code == 422
        assert http.get("/v1/health", params={"checkpoint": "tory"}).status_code == 404


def test_only_the_owner_can_reach_the_socket(lab):
    lab.host()
    places = EnginePlaces(lab.home)
    assert stat.S_IMODE(places.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(places.results.stat().st_mode) == 0o700


def test_an_idle_engine_leaves_and_cancelling_starts_none(lab):
    thread = lab.host(idle_exit_s=0.1)
    thread.join(40)
    assert not thread.is_alive()
    assert lab.client().cancel("a job").state == "cancelled"
    assert lab.client().info() is None


def test_an_engine_with_work_is_never_idle(lab, tmp_path):
    queue = JobQueue(Results(tmp_path / "results"))
    job = queue.submit(Requester(principal="me"), lab.arm(), "profile", tile=8)
    assert not queue.close(idle_s=1e-9)
    queue.cancel(job)
    assert queue.close(idle_s=1e-9)
    with pytest.raises(ClosedError):
        queue.submit(Requester(principal="me"), lab.arm(), "profile", tile=8)


def test_tiles_of_a_killed_engine_are_not_computed_again(lab, tmp_path):
    killed = JobQueue(Results(tmp_path / "results"))
    killed.submit(Requester(principal="me"), lab.arm(), "profile", tile=8)
    task = killed.take(calls=False)
    cells = Cells(np.ones((8, 5), np.int32), np.ones(5, bool))
    killed.results.tiles.write(task.work.key, task.tile_index, cells)
    assert not killed.give(task, 1.0)
    queue = JobQueue(Results(tmp_path / "results"))
    assert queue.submit(Requester(principal="me"), lab.arm(), "profile", tile=8).view().done == 8
    assert [queue.take(calls=False).tile_index for _ in range(2)] == [1, 2]


def test_a_full_disk_fails_the_arm_with_what_to_do(lab, monkeypatch):
    lab.host()
    engine = lab.client()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Tiles, "write", full)
        view = engine.wait(engine.submit(lab.arm()).job_id, 40)
    assert view.state == "failed"
    assert view.error.endswith("is full: free some space and ask again")
    job = run_arm(engine, lab.arm())
    with monkeypatch.context() as patched:
        patched.setattr("lingshu_tools.engine_client.client.tempfile.TemporaryFile", full)
        with pytest.raises(EngineError, match="free some space and call again"):
            run_arm(engine, lab.arm())
    assert np.array_equal(run_arm(engine, lab.arm()).counts, job.counts)


def test_cells_cut_off_on_their_way_are_fetched_again(lab, monkeypatch):
    lab.host()
    engine = lab.client()
    before = run_arm(engine, lab.arm())
    whole, cuts = httpx.Response.iter_bytes, [1]

    def cut(self, *arguments):
        if cuts:
            cuts.pop()
            yield b"half"
            raise httpx.ReadError("gone")
        yield from whole(self, *arguments)

    monkeypatch.setattr(httpx.Response, "iter_bytes", cut)
    assert np.array_equal(run_arm(engine, lab.arm()).counts, before.counts)
    assert cuts == []
    assert not [path for path in engine.places.folder.iterdir() if "tmp" in path.name]


def test_the_tcp_door_wants_the_token(lab):
    listener = socket.create_server(("127.0.0.1", 0))  # the service closes it when it leaves
    lab.host(Remote(listener, "a-token-of-some-length", None, None))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    good = {"LINGSHU_ENGINE_URL": url, "LINGSHU_ENGINE_TOKEN": "a-token-of-some-length"}
    run_arm(lab.client("far", **good), lab.arm())
    with pytest.raises(EngineError, match="LINGSHU_ENGINE_TOKEN"):
        lab.client("far", **good | {"LINGSHU_ENGINE_TOKEN": "wrong"}).submit(lab.arm())


def test_an_engine_elsewhere_is_never_started_from_here(lab):
    engine = lab.client("far", LINGSHU_ENGINE_URL="http://127.0.0.1:9")
    with pytest.raises(EngineError, match="no engine answers at LINGSHU_ENGINE_URL"):
        engine.submit(lab.arm())
