"""Made cells whose truth is known: Poisson counts, a log fold change per perturbation."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.changes import log1p_cp10k
from lingshu_model.evaluate.observed import CONTROL, Observed

GENES = [f"G{i}" for i in range(40)]
SIZES = {CONTROL: 1.0, "strong": 0.6, "middling": 0.3, "weak": 0.1, "nothing": 0.0}


class Truth:
    """Rates and log fold changes to draw cells from."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.rates = generator.lognormal(1.0, 0.8, len(GENES))
        self.folds = {
            name: np.zeros(len(GENES)) if name == CONTROL else size * generator.normal(size=40)
            for name, size in SIZES.items()
        }

    def cells(
        self, name: str, n: int, seed: int, *, scale: float = 1.0, depth: float = 1.0
    ) -> NDArray[np.int32]:
        """Return n cells of a condition, its effect scaled, its counts deepened."""
        generator = np.random.default_rng(seed)
        library = depth * generator.lognormal(0.0, 0.25, (n, 1))
        rates = library * self.rates * np.exp(scale * self.folds[name])
        return generator.poisson(rates).astype(np.int32)

    def arms(self, n: int, seed: int, **how: float) -> dict[str, NDArray[np.int32]]:
        """Return n cells of every condition."""
        return {name: self.cells(name, n, 100 * seed + i, **how) for i, name in enumerate(SIZES)}

    def observed(self, n_train: int = 300, n_test: int = 200) -> Observed:
        """Return training and held-out cells drawn from the truth."""
        return Observed(GENES, self.arms(n_train, 1), self.arms(n_test, 2))

    def change(self, name: str) -> NDArray[np.float64]:
        """Return the true change, from very many cells."""
        many = {k: log1p_cp10k(self.cells(k, 20_000, 77)).mean(axis=0) for k in (name, CONTROL)}
        return many[name] - many[CONTROL]


def nowhere(arms: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
    """Return arms of a model that ignores what is done: the control's cells, reshuffled."""
    control = arms[CONTROL]
    return {
        name: control if name == CONTROL else np.roll(control, i + 1, axis=0)
        for i, name in enumerate(arms)
    }
