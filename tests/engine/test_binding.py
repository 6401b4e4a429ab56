"""Every answer of the engine is bound to its request: what belongs to another is never used."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crossing import CrossingProxy

from lingshu_model.contracts import ArmRequest, Catalogue, Cells, decode_cells
from lingshu_model.contracts.messages import CALL_HEADER
from lingshu_model.system.endpoints import read_endpoint
from lingshu_testing import make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.errors import ForeignAnswerError
from lingshu_tools.experiments.designs import design_of

SEEDS = (1, 2)


@pytest.fixture
def cross(lab: Any) -> Iterator[Callable[..., CrossingProxy]]:
    """Host an engine and return what puts a crossing proxy in front of it."""
    proxies: list[CrossingProxy] = []

    def start(crosses: Callable[[str], bool], *, whole: bool) -> CrossingProxy:
        proxy = CrossingProxy(read_endpoint(lab.client().places).path, crosses, whole=whole)
        proxies.append(proxy)
        return proxy

    yield start
    for proxy in proxies:
        proxy.close()


def cells_of(engine: Engine, arm: ArmRequest) -> Cells:
    view = engine.wait(engine.submit(arm).job_id, 20)
    assert view.state == "succeeded"
    return engine.cells(view.job_id)


def both(work: Callable[[int], object]) -> dict[int, object]:
    """Return what `work` returns or raises for each seed, done at the same time."""
    found: dict[int, object] = {}

    def run(seed: int) -> None:
        try:
            found[seed] = work(seed)
        except Exception as error:  # noqa: BLE001
            found[seed] = error

    threads = [threading.Thread(target=run, args=(seed,)) for seed in SEEDS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def kind_of(path: str) -> str:
    return "submit" if path == "/v1/jobs" else "cells" if path.endswith("/cells") else "wait"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["submit", "wait", "cells"])
def test_answers_that_cross_once_are_asked_for_again(lab: Any, cross, kind: str, whole: bool):
    lab.host()
    engine = lab.client()
    arms = {seed: lab.arm("STAT1", seed=seed) for seed in SEEDS}
    expected = {seed: cells_of(engine, arm).counts for seed, arm in arms.items()}
    left = [kind] * len(SEEDS)

    def crosses(path: str) -> bool:
        return bool(kind_of(path) in left and (left.remove(kind_of(path)) or True))

    proxy = cross(crosses, whole=whole)
    found = both(lambda seed: cells_of(engine, arms[seed]))
    assert [kind_of(path) for path in proxy.crossed] == [kind] * 2
    for seed in SEEDS:
        assert np.array_equal(found[seed].counts, expected[seed])
        assert found[seed].origin.request == arms[seed].digest


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["submit", "wait", "cells"])
def test_answers_that_always_cross_are_refused(lab: Any, cross, kind: str, whole: bool):
    lab.host()
    engine = lab.client()
    proxy = cross(lambda path: kind_of(path) == kind, whole=whole)
    found = both(lambda seed: cells_of(engine, lab.arm(seed=seed)))
    assert {type(error) for error in found.values()} == {ForeignAnswerError}, found
    assert len(proxy.crossed) >= 2 * 2


@pytest.mark.parametrize("whole", [True, False])
def test_cells_of_another_experiment_are_never_sealed(tmp_path: Path, cross, lab: Any, whole: bool):
    root = make_checkpoint(tmp_path / "made").path.parent
    lab.catalogue = Catalogue([root])
    lab.host()
    app = App(lab.home, engine=lab.client(), catalogue=lab.catalogue)
    crossing = threading.Event()
    crossing.set()
    proxy = cross(lambda path: crossing.is_set() and kind_of(path) == "cells", whole=whole)

    def ask(seed: int) -> str:
        asked = {"n_cells": 16, "seed": seed, "wait_s": 20}
        return str(call(app, "sample_cells", asked).experiment_id)

    try:
        names = both(ask)
        assert len(proxy.crossed) >= 2 * 2
        for name in names.values():
            assert app.ledger.outcome(name) is None
        crossing.clear()
        for seed, name in names.items():
            result = call(app, "get_experiment", {"id": name, "wait_s": 20})
            assert result.status == "succeeded", result.summary
            stored = decode_cells(
                app.ledger.object_file(app.ledger.outcome(name).artifacts["cells"])
            )
            (arm,) = design_of(app, app.ledger.experiment(name)).arms.values()
            assert (arm.seed, arm.digest) == (seed, stored.origin.request)
            assert np.array_equal(stored.counts, cells_of(app.engine, arm).counts)
    finally:
        app.close()


def test_an_answer_that_names_no_call_is_refused(lab: Any, monkeypatch: pytest.MonkeyPatch):
    lab.host()
    engine = lab.client()
    monkeypatch.setattr("lingshu_model.engine.http.routes.CALL_HEADER", f"{CALL_HEADER}-not")
    with pytest.raises(ForeignAnswerError, match="3 answers belonged to other requests"):
        engine.submit(lab.arm())
    with pytest.raises(ForeignAnswerError):
        engine.info()
    monkeypatch.undo()
    monkeypatch.setenv("FAKE_GATE", str(lab.gate))
    assert engine.info() is not None


def test_a_result_on_disk_under_the_wrong_key_is_computed_again(lab: Any):
    lab.host()
    engine = lab.client()
    arms = [lab.arm("STAT1", seed=seed) for seed in SEEDS]
    expected = [cells_of(engine, arm).counts for arm in arms]
    files = sorted(engine.places.results.glob("*.cells"))
    contents = [file.read_bytes() for file in files]
    for file, other in zip(files, reversed(contents), strict=True):
        file.write_bytes(other)
    before = len(lab.tiles())
    found = [cells_of(lab.client(), arm).counts for arm in arms]
    for now, then in zip(found, expected, strict=True):
        assert np.array_equal(now, then)
    assert len(lab.tiles()) == 2 * before
