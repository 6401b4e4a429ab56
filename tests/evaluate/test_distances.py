import numpy as np
import pytest

from lingshu_model.evaluate.metrics.distances import energy_distance, ilisi, mmd2
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.evaluate.metrics.matrices import csr, expression_levels, moments


def _points(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 5))


def test_mmd_is_the_sum_over_pairs_of_five_gaussians():
    a, b, scale = _points(7, 1), _points(9, 2, 1.0), 3.0

    def brute(x: np.ndarray, y: np.ndarray) -> float:
        widths = [scale * 2.0 ** (s - 3) for s in (1, 2, 3, 4, 5)]
        pairs = [((p - q) @ (p - q)) for p in x for q in y]
        return sum(np.exp(-d / w) for d in pairs for w in widths) / len(pairs)

    expected = brute(a, a) + brute(b, b) - 2 * brute(a, b)
    assert mmd2(a, b, scale) == pytest.approx(expected)


def test_energy_distance_of_two_points_is_twice_their_distance():
    assert energy_distance(np.array([[0.0, 0]]), np.array([[3.0, 4]])) == pytest.approx(10)


def test_energy_distance_of_normals_approaches_its_integral():
    # In one dimension it is twice the integral of the squared difference of the two CDFs.
    a, b = (np.random.default_rng(i).normal(i, 1, (3000, 1)) for i in (0, 1))
    grid = np.linspace(-6, 7, 4001)
    cdf = [np.searchsorted(np.sort(x[:, 0]), grid) / 3000 for x in (a, b)]
    integral = 2 * ((cdf[0] - cdf[1]) ** 2).sum() * (grid[1] - grid[0])
    assert energy_distance(a, b) == pytest.approx(integral, rel=1e-3)


@pytest.mark.parametrize("n", [8, 60, 250])
def test_mixed_sets_have_an_ilisi_near_one_and_sets_apart_of_zero(n: int):
    assert ilisi(_points(n, 1), _points(n, 2)) > 0.65
    assert ilisi(_points(n, 1), _points(n, 2, 50.0)) < 0.02


def test_ilisi_of_half_overlapping_sets_lies_between():
    a, b = _points(200, 1), np.concatenate([_points(100, 2), _points(100, 3, 50.0)])
    result = ilisi(a, b)
    # Where both are, there is one of b among two of a: 1 / (4/9 + 1/9) = 1.8 sets.
    assert result == pytest.approx(300 / 400 * 0.8, abs=0.05)


def test_ilisi_weighs_a_neighbourhood_to_its_perplexity():
    a, b = _points(40, 1), _points(40, 2, 0.5)
    points, labels = np.concatenate([a, b]), np.repeat([0, 1], 40)
    result = []
    for i, point in enumerate(points):
        squared = ((points - point) ** 2).sum(axis=1)
        order = [j for j in np.argsort(squared) if j != i][:30]
        low, high = 1e-9, 1e9
        for _ in range(200):
            beta = np.sqrt(low * high)
            weights = np.exp(-(squared[order] - squared[order].min()) * beta)
            weights /= weights.sum()
            entropy = -sum(w * np.log(w) for w in weights if w > 0)
            low, high = (beta, high) if entropy > np.log(10) else (low, beta)
        shares = [weights[labels[order] == s].sum() for s in (0, 1)]
        result.append(1 / sum(s * s for s in shares))
    assert ilisi(a, b, perplexity=10) == pytest.approx(np.mean(result) - 1, abs=1e-6)


def test_equal_points_do_not_divide_by_zero():
    same = np.zeros((20, 3))
    assert ilisi(same, same) == pytest.approx(1, abs=0.2)


def test_a_frame_is_the_principal_axes_of_the_training_cells():
    counts = np.random.default_rng(0).poisson(np.linspace(0.1, 9, 12), (80, 12))
    frame = Frame.fit([counts[:30], csr(counts[30:])])
    values = expression_levels(counts).toarray()
    centred = values - values.mean(axis=0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    k = frame.axes.shape[1]
    assert 2 <= k <= 11
    np.testing.assert_allclose(np.abs((axes[:k] @ frame.axes).diagonal()), 1, atol=1e-8)
    scores = frame.scores(csr(values))
    np.testing.assert_allclose(scores.var(axis=0), size[:k] ** 2 / 80, rtol=1e-8)
    squared = ((scores[:, None] - scores[None]) ** 2).sum(axis=-1).mean()
    assert frame.squared_distance == pytest.approx(squared)


def test_axes_that_are_the_noise_of_the_cells_they_were_fitted_on_are_left_out():
    generator = np.random.default_rng(0)
    types = np.exp(generator.normal(0, 1, (4, 300)))[np.arange(200) % 4]
    types = types[generator.permutation(200)]
    frame = Frame.fit([generator.poisson(types)])
    assert frame.axes.shape[1] == 3


def test_the_most_variable_genes_are_chosen_and_constant_ones_never():
    counts = np.random.default_rng(0).poisson(4, (50, 6))
    counts[:, 2] = 0
    frame = Frame.fit([counts])
    assert frame.variable.tolist() == [0, 1, 3, 4, 5]


def test_moments_are_those_of_the_dense_values():
    counts = np.random.default_rng(0).poisson(0.3, (40, 9))
    counts[3] = 0
    values = expression_levels(csr(counts))
    mean, variance = moments(values)
    np.testing.assert_allclose(mean, values.toarray().mean(axis=0))
    np.testing.assert_allclose(variance, values.toarray().var(axis=0), atol=1e-12)
