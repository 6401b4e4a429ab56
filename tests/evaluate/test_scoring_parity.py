"""Equality with the tools that define the metrics: with values they made, and with themselves.

`make parity` installs the tools into an environment of their own and runs this there too.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.scoring.made import CONTROL, Screen, made_screen
from lingshu_model.evaluate.scoring import Judgement, Reference, predicted_side, vcc2025, vcc2026

GOLDEN = Path(__file__).parent / "golden" / "scoring.json"
EXACT, CLOSE = 1e-12, 1e-6
"""p and what is made of ranks; and what the tools compute in single precision."""


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text("utf-8"))


@pytest.fixture(scope="module")
def screen(golden) -> Screen:
    made = dict(golden["screen"])
    return made_screen(made.pop("seed"), **made)


@pytest.fixture(scope="module")
def reference(screen: Screen) -> Reference:
    return Reference.of(screen.real, screen.genes, CONTROL)


@pytest.fixture(scope="module")
def judgement(reference: Reference, screen: Screen) -> Judgement:
    return reference.score(screen.predicted)


def _same(mine: Mapping[str, float], theirs: Mapping[str, Any], tolerance: float) -> None:
    """A tool's undefined value is an undefined or an absent one of ours."""
    for name in set(mine) | set(theirs):
        ours, reference = mine.get(name, math.nan), theirs.get(name)
        wanted = math.nan if reference is None else reference
        assert ours == pytest.approx(wanted, abs=tolerance, rel=0, nan_ok=True), name


def test_the_made_screen_is_the_one_the_tools_saw(golden, screen: Screen):
    totals = {name: int(cells.sum()) for name, cells in screen.real.items()}
    assert totals == golden["n_counts"]


def test_u_is_that_of_pdex_and_p_equal_to_the_last_digits(golden, reference, screen: Screen):
    real, predicted = reference.side, predicted_side(screen.predicted, reference.side)
    ours = {
        "cell_eval": [vcc2025.profile(side) for side in (real, predicted)],
        "cell_eval2": [vcc2026.profile(side, real.control).tests for side in (real, predicted)],
    }
    for tool, sides in golden["ranked"].items():
        for mine, theirs in zip(ours[tool], sides, strict=True):
            u, p = np.array(theirs["u"]), np.array(theirs["p"])
            assert len(np.unique(u)) > 50
            np.testing.assert_array_equal(mine.u[:, : u.shape[1]], u)
            np.testing.assert_allclose(mine.p[:, : p.shape[1]], p, rtol=EXACT)


@pytest.mark.parametrize("metric", vcc2025.HIGHER)
def test_a_metric_of_2025_is_that_of_cell_eval(golden, judgement: Judgement, metric: str):
    _same(judgement.vcc2025.by_metric[metric], golden["cell_eval"]["values"][metric], CLOSE)
    means = golden["cell_eval"]["means"]
    _same({metric: judgement.vcc2025.aggregate[metric]}, {metric: means[metric]}, CLOSE)


@pytest.mark.parametrize(
    "metric", [m for m in vcc2026.MEMBERS if m != vcc2026.ERROR] + [vcc2026.NUMERATOR]
)
def test_a_metric_of_2026_is_that_of_cell_eval2(golden, judgement: Judgement, metric: str):
    theirs = golden["cell_eval2"]["values"][metric]
    _same(judgement.vcc2026.by_metric[metric], theirs, EXACT)


def test_the_aggregates_of_2026_and_both_ends_of_their_scale_are_those_of_cell_eval2(
    golden, judgement: Judgement, reference: Reference
):
    wanted = {m: golden["cell_eval2"]["means"][m] for m in vcc2026.MEMBERS}
    mine = {m: judgement.vcc2026.aggregate[m] for m in vcc2026.MEMBERS}
    _same(mine, wanted, EXACT)
    _same(_members(reference.scale.baseline), _members(golden["ends"]["baseline"]), EXACT)
    _same(reference.scale.replicate, golden["ends"]["replicate"], EXACT)


def _members(values: Mapping[str, float]) -> dict[str, float]:
    """The baseline's own components have no counterpart among the six."""
    return {m: values[m] for m in vcc2026.MEMBERS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [1, 2])
def test_other_screens_score_as_the_installed_tools_say(seed: int):
    for name in ("cell_eval", "cell_eval2", "pdex"):
        pytest.importorskip(name, reason="the tools are not installed: `make parity` does it")
    from benchmarks.scoring import tools

    screen = made_screen(seed, genes=300, perturbations=6, cells=40, controls=120, depth=1500)
    found = Reference.of(screen.real, screen.genes, CONTROL).score(screen.predicted)
    values, _ = tools.run_cell_eval(screen)
    for metric in vcc2025.HIGHER:
        theirs = {n: None if np.isnan(v) else v for n, v in values[metric].items()}
        _same(found.vcc2025.by_metric[metric], theirs, CLOSE)
    values, means = tools.run_cell_eval2(screen)
    for metric, mine in found.vcc2026.by_metric.items():
        _same(mine, {n: None if np.isnan(v) else v for n, v in values[metric].items()}, EXACT)
    _same(_members(found.vcc2026.aggregate), _members(means), EXACT)
