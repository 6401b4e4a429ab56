"""The curve of quality against operations: what its figures are of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from benchmarks import equal_precision, operations
from benchmarks.operations import METRICS, SHAPES, HeldOut
from lingshu_model.contracts import ArmRequest, Checkpoint, Intervention
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.network.config import PRESETS
from lingshu_model.train.data.cells import Condition

GENES = 12
CHECKPOINT = Checkpoint(
    "made", Path(), "sha256:" + "0" * 64, {"sampler": {"steps": 1, "guidance": 0.0}}, {}
)
CONDITION = Condition((("cell_line", "made"),), (Intervention(kind="knockout", target="G1"),))


def cells(n: int, seed: int, *, shared: bool = True) -> np.ndarray:
    """UMI of two groups of genes that rise together, or of genes that vary alike but alone."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, 2 if shared else GENES))
    groups = np.arange(GENES) % 2 if shared else np.arange(GENES)
    return rng.poisson(8 * np.exp(0.5 * states[:, groups])).astype(np.int32)


@pytest.fixture(scope="module")
def held() -> HeldOut:
    train = sparse.csr_matrix(cells(3000, 1))
    return HeldOut({}, Frame.fit([train]), sparse.csr_matrix(cells(150, 2)), train)


def test_shared_correlation_is_one_of_cells_with_the_real_correlations(held: HeldOut) -> None:
    values = [held.figures(cells(800, seed))[0] for seed in range(3, 9)]
    assert np.mean(values) == pytest.approx(1, abs=0.1)


def test_shared_correlation_is_nothing_of_cells_without_correlations(held: HeldOut) -> None:
    values = [held.figures(cells(800, seed, shared=False))[0] for seed in range(3, 9)]
    assert abs(np.mean(values)) < 0.1
    # The mean absolute difference is of noise for the most part, and hardly tells them apart.
    assert METRICS[0] == "shared_correlation"


def test_a_shape_is_trained_under_the_name_of_the_specifications_preset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, shapes = dict(PRESETS), list[Any]()

    def learn(state: Any, _held: Any, folder: Path, _accelerator: Any) -> Any:
        shapes.append((state.shape, folder.name))
        return object()

    class Read:
        training = validation = ()

        def take(self, _rows: object) -> "Read":
            return self

    monkeypatch.setattr(operations, "read_cells", lambda *_: Read())
    monkeypatch.setattr(operations, "split", lambda *_: Read)
    Read.train = Read.validation = ()
    monkeypatch.setattr(operations, "learn", learn)
    source = {"file": "x.h5ad", "context": {"cell_line": "made"}}
    spec = {"name": "made", "sources": [source], "network": "lingshu-1m-s13"}
    checkpoint = Checkpoint("made", tmp_path, "sha256:0", {"training": spec}, {})
    for name in SHAPES:
        operations.network_of(name, checkpoint, tmp_path, tmp_path, 2)
    assert [s for s, _ in shapes] == [shape.without_offsets() for shape in SHAPES.values()]
    assert len({folder for _, folder in shapes}) == len(SHAPES)
    assert before == PRESETS


class Sampler:
    """Draws control cells with unit variance and adds a change of a given spread to paired ones."""

    tile = 64

    def __init__(self, lfsr: list[float]) -> None:
        self.lfsr = np.array(lfsr)

    def effect(self, _arm: ArmRequest) -> Any:
        sampler = self

        class Effect:
            class posterior:  # noqa: N801 - the field of an effect
                lfsr = sampler.lfsr

        return Effect

    def measured(self, _arm: ArmRequest) -> np.ndarray:
        return np.ones(len(self.lfsr), bool)


def test_a_pair_costs_one_cell_and_independent_arms_two(monkeypatch: pytest.MonkeyPatch) -> None:
    def levels(_sampler: object, arm: ArmRequest) -> np.ndarray:
        rng = np.random.default_rng(arm.seed)
        control = rng.normal(size=(4000, 3))
        return control + 0.5 * rng.normal(size=control.shape) * bool(arm.interventions)

    monkeypatch.setattr(equal_precision, "_levels", levels)
    row = equal_precision._line(
        "G1", CHECKPOINT, Sampler([0.01, 0.01, 0.5]), CONDITION, 64, 0.1, 100.0, 1000.0
    )
    assert row is not None
    certain, pairs, each_arm, ratio, ours, apart, other = map(float, row[1:])
    assert certain == 2
    # Differences of pairs vary by .25, independent cells by 1.25 and 1: over .1 squared.
    assert (pairs, each_arm) == (pytest.approx(25, rel=0.1), pytest.approx(225, rel=0.1))
    assert ratio == pytest.approx(9, rel=0.15)
    assert ours == pytest.approx(pairs / 100, rel=0.05)
    assert apart == pytest.approx(2 * each_arm / 100, rel=0.05)
    assert other == pytest.approx(2 * each_arm / 1000, rel=0.05)


def test_a_condition_without_certain_genes_has_no_row() -> None:
    row = equal_precision._line("G1", CHECKPOINT, Sampler([0.5]), CONDITION, 64, 0.1, 1.0, 1.0)
    assert row is None
