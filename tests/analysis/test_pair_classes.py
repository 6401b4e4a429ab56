"""Classes of pairs: known ones are seen, noise is unclear, and parallel parts are no synergy."""

from pathlib import Path

import numpy as np
import pytest

from lingshu_model.contracts.posterior import Posterior
from lingshu_tools.analysis.pairs.pair_classes import pair_class

GENES = 300
NORMAN = Path(__file__).parents[3] / "shared/data/effects/norman2019_k562_crispra.npz"


def measured(truth: np.ndarray, sd: float, seed: int) -> Posterior:
    rng = np.random.Generator(np.random.Philox(seed))
    return Posterior.normal(truth + rng.normal(0, sd, truth.shape), np.full(truth.shape, sd))


def parts(similarity: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.Philox(seed + 100))
    common, first, second = rng.normal(0, 0.3, (3, GENES))
    rest = np.sqrt(1 - similarity)
    return (np.sqrt(similarity) * common + rest * x for x in (first, second))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "similarity", "coefficients"),
    [
        ("additive", 0.0, (1.0, 1.0)),
        ("additive", 0.3, (0.8, 0.9)),
        ("synergistic", 0.0, (1.7, 1.6)),
        ("synergistic", 0.3, (2.4, 0.8)),
        ("suppressive", 0.0, (0.3, 0.3)),
        ("suppressive", 0.0, (0.0, 0.0)),
        ("epistatic", 0.0, (1.0, 0.05)),
        ("epistatic", 0.2, (0.1, 1.1)),
        ("redundant", 0.95, (0.5, 0.5)),
        ("additive", 0.95, (1.0, 1.0)),
        ("parallel", 0.95, (1.8, 1.8)),
        ("suppressive", 0.95, (0.1, 0.1)),
    ],
)
def test_a_known_pair_has_its_class(name: str, similarity: float, coefficients, seed: int):
    a, b = parts(similarity, seed)
    truth = coefficients[0] * a + coefficients[1] * b
    result = pair_class(*(measured(x, 0.05, 3 * seed + i) for i, x in enumerate((a, b, truth))))
    assert result.name == name, result
    assert result.probability > 0.9
    true = (2 * sum(coefficients) / 2,) if similarity > 0.9 else coefficients
    for (value, low, high), known in zip(result.coefficients, true, strict=True):
        assert low <= value <= high
        assert value == pytest.approx(known, abs=0.15)


def test_what_neither_part_does_is_neomorphic():
    a, b = parts(0.0, 1)
    new = np.random.Generator(np.random.Philox(9)).normal(0, 0.5, GENES)
    pair = 0.3 * a + 0.3 * b + new
    assert (
        pair_class(*(measured(x, 0.05, i) for i, x in enumerate((a, b, pair)))).name == "neomorphic"
    )


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_no_class(seed: int):
    nothing = np.zeros(GENES)
    noise = [measured(nothing, 0.1, 3 * seed + i) for i in range(3)]
    weak = [Posterior.normal(0.5 * p.mean, p.sd) for p in noise]
    assert pair_class(*weak).name == "unclear"


@pytest.mark.parametrize("strength", [1.5, 2.0, 4.0])
def test_parallel_parts_are_never_called_synergistic(strength: float):
    a, b = parts(0.95, 2)
    pair = strength * (a + b)
    result = pair_class(*(measured(x, 0.05, i) for i, x in enumerate((a, b, pair))))
    assert result.name == "parallel"


def test_intervals_of_coefficients_hold_the_truth():
    inside = total = 0
    for seed in range(200):
        a, b = parts(0.2, seed)
        # Parts are known well, so that the fit is not biased by their noise.
        posteriors = [measured(a, 0.01, 3 * seed), measured(b, 0.01, 3 * seed + 1),
                      measured(0.9 * a + 0.6 * b, 0.15, 3 * seed + 2)]  # fmt: skip
        for (_, low, high), known in zip(
            pair_class(*posteriors).coefficients, (0.9, 0.6), strict=True
        ):
            inside, total = inside + (low <= known <= high), total + 1
    assert 0.92 <= inside / total <= 0.98


@pytest.mark.skipif(not NORMAN.exists(), reason=f"{NORMAN.name} is not here")
def test_dusp9_suppresses_mapk1_as_norman_published():
    data = np.load(NORMAN)
    place = [str(x) for x in data["doub_labels"]].index("DUSP9+MAPK1")
    kept = ~np.isin(data["genes_hvg"].astype(str), ("DUSP9", "MAPK1"))
    first, second = data["comp_idx"][place]
    changes = [data["lfc_s"][first], data["lfc_s"][second], data["lfc_d"][place]]
    posteriors = [Posterior.normal(c[kept], np.full(kept.sum(), 0.1)) for c in changes]
    assert pair_class(*posteriors).name in ("suppressive", "neomorphic")
    assert np.hypot(*(c[0] for c in pair_class(*posteriors).coefficients)) / 2**0.5 < 0.6
