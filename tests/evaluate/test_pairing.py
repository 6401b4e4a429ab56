import numpy as np
import pytest

from benchmarks.pairing import gains


def _gains(shared: float):
    generator = np.random.default_rng(0)
    common, control, other, rest = generator.normal(size=(4, 1000, 6))
    paired = shared * common + np.sqrt(1 - shared**2) * control
    perturbed = shared * common + np.sqrt(1 - shared**2) * rest + 1
    return gains(perturbed, paired, other, [0, 1, 2, 3, 4, 5], "test")


def test_independent_cells_gain_nothing():
    for ratio in _gains(0.0):
        assert ratio.value == pytest.approx(1, abs=0.2)
        assert ratio.interval[0] < 1.15
        assert ratio.interval[1] > 0.85


def test_shared_noise_gains_what_pairing_removes():
    # Paired differences vary by 2 (1 - shared^2), independent ones by 2.
    total, _, score = _gains(0.9**0.5)
    assert total.value == pytest.approx(10, rel=0.15)
    assert score.value == pytest.approx(10, rel=0.2)
