"""The benchmark of what simulation adds: what a gain is."""

import numpy as np

from benchmarks.planning.simulation import Round, gains, moving_genes

GENES, HIDDEN, MEASURED = 30, 24, 40


def made_round(rng: np.random.Generator, *, known: bool) -> Round:
    real, measured = (rng.normal(size=(n, GENES)) for n in (HIDDEN, MEASURED))
    predicted = real if known else rng.normal(size=real.shape)
    features = [rng.normal(size=(n, 4)) for n in (MEASURED, HIDDEN)]
    return Round(
        [frozenset([f"G{i}"]) for i in range(HIDDEN)], predicted, predicted, real, measured,
        features[0], features[1], measured if known else rng.normal(size=measured.shape),
    )  # fmt: skip


def mean_gains(*, known: bool) -> dict[str, float]:
    rounds = [made_round(np.random.default_rng([i, known]), known=known) for i in range(5)]
    every = [gains(r, np.random.default_rng(i), range(GENES)) for i, r in enumerate(rounds)]
    return {name: float(np.mean([g[name] for g in every])) for name in every[0]}


def test_a_choice_that_knows_the_truth_has_a_gain_of_one_and_chance_has_none():
    known = mean_gains(known=True)
    assert known["closed form"] == known["simulated cells"] == 1.0
    assert known["surrogate, features and predicted effect"] > 0.9
    assert abs(known["random"]) < 0.15
    assert abs(known["surrogate, features of genes"]) < 0.25


def test_predictions_of_something_else_have_no_gain():
    assert max(map(abs, mean_gains(known=False).values())) < 0.25


def test_genes_of_objectives_are_those_that_move_and_no_targets():
    changes = np.zeros((3, 6))
    changes[:, [0, 1, 2]] = 1.0
    genes = ["T", "A", "B", "C", "D", "E"]
    assert moving_genes(changes, genes, ["T"]).tolist() == [1, 2]
