"""Every answer of the engine is bound to its request: what belongs to another is never used."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crossing import CrossingProxy, kind_of

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
def cross(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., CrossingProxy]]:
    """Return what puts a crossing proxy in front of the engine of `lab`."""
    # An engine leaves when something else is at its socket's place, as the proxy is.
    monkeypatch.setattr("lingshu_model.engine.http.service.Service._is_found", lambda _: True)
    proxies: list[CrossingProxy] = []

    def start(*, whole: bool) -> CrossingProxy:
        proxy = CrossingProxy(read_endpoint(lab.client().places).path, whole=whole)
        proxies.append(proxy)
        return proxy

    yield start
    for proxy in proxies:
        proxy.close()


def cells_of(engine: Engine, arm: ArmRequest) -> Cells:
    view = engine.wait(engine.submit(arm).job_id, 20)
    assert view.state == "succeeded"
    return engine.cells(view.job_id)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["submit", "wait", "cells"])
def test_answers_that_cross_once_are_asked_for_again(lab: Any, cross, kind: str, whole: bool):
    lab.host()
    engine = lab.client()
    arm = lab.arm("STAT1", seed=1)
    expected = cells_of(engine, arm).counts
    proxy = cross(whole=whole)
    with proxy.recording():
        cells_of(engine, lab.arm("STAT1", seed=2))
    proxy.crosses = lambda path: kind_of(path) == kind and not proxy.crossed
    result = cells_of(engine, arm)
    assert [kind_of(path) for path in proxy.crossed] == [kind]
    assert np.array_equal(result.counts, expected)
    assert result.origin.request == arm.digest


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["submit", "wait", "cells"])
def test_answers_that_always_cross_are_refused(lab: Any, cross, kind: str, whole: bool):
    lab.host()
    engine = lab.client()
    proxy = cross(whole=whole)
    with proxy.recording():
        cells_of(engine, lab.arm(seed=2))
    proxy.crosses = lambda path: kind_of(path) == kind
    with pytest.raises(ForeignAnswerError):
        cells_of(engine, lab.arm(seed=1))
    assert len(proxy.crossed) >= 2


@pytest.mark.parametrize("whole", [True, False])
def test_cells_of_another_experiment_are_never_sealed(tmp_path: Path, cross, lab: Any, whole: bool):
    root = make_checkpoint(tmp_path / "made").path.parent
    lab.catalogue = Catalogue([root])
    lab.host()
    app = App(lab.home, engine=lab.client(), catalogue=lab.catalogue)
    proxy = cross(whole=whole)
    try:
        with proxy.recording():
            call(app, "sample_cells", {"n_cells": 16, "seed": 2, "wait_s": 20})
        proxy.crosses = lambda path: kind_of(path) == "cells"
        name = call(app, "sample_cells", {"n_cells": 16, "seed": 1, "wait_s": 20}).experiment_id
        app.runner.wait([name], 60)
        assert "used" in str(app.runner.trouble(name))
        assert len(proxy.crossed) >= 2
        assert app.ledger.outcome(name) is None
        proxy.crosses = lambda _: False
        result = call(app, "get_experiment", {"id": name, "wait_s": 20})
        assert result.status == "succeeded", result.summary
        stored = decode_cells(app.ledger.object_file(app.ledger.outcome(name).artifacts["cells"]))
        (arm,) = design_of(app, app.ledger.experiment(name)).arms.values()
        assert (arm.seed, arm.digest) == (1, stored.origin.request)
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
    result = [cells_of(lab.client(), arm).counts for arm in arms]
    for now, then in zip(result, expected, strict=True):
        assert np.array_equal(now, then)
    assert len(lab.tiles()) == 2 * before
