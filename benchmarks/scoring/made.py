"""Made cells of a perturbation screen, the same on every machine and with every numpy.

Counts are geometric, by inverse CDF from the raw bits of a Philox stream: numpy promises the same
raw bits for ever, but not the same draws of its distributions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

CONTROL = "non-targeting"
CELLS_AT_A_TIME = 100
Floats = NDArray[np.float64]
Arms = dict[str, sparse.csr_matrix]


@dataclass(frozen=True)
class Screen:
    """Real and predicted counts by condition, the control among them, float32 CSR."""

    genes: list[str]
    real: Arms
    predicted: Arms


class _Uniform:
    def __init__(self, seed: int) -> None:
        self.bits = np.random.Philox(key=seed)

    def draw(self, *shape: int) -> Floats:
        raw = self.bits.random_raw(int(np.prod(shape)))
        return ((raw >> np.uint64(11)) + 0.5).reshape(shape) * 2.0**-53


def made_screen(
    seed: int, *, genes: int, perturbations: int, cells: int, controls: int, depth: float
) -> Screen:
    """Return a screen whose predictions have the right direction and two thirds of the size.

    Args:
        seed: of everything.
        genes: number of genes.
        perturbations: number of perturbations, each of a gene of its own.
        cells: mean number of cells per perturbation; they have half to three halves of it.
        controls: control cells on either side.
        depth: mean counts per cell.
    """
    uniform = _Uniform(seed)
    names = [f"GENE{i}" for i in range(genes)]
    levels = np.exp(2.0 * _normal(uniform.draw(genes)))
    levels /= levels.sum()
    none = np.zeros(genes)
    real: Arms = {CONTROL: _cells(uniform, controls, levels, none, depth)}
    predicted: Arms = {CONTROL: _cells(uniform, controls, levels, none, depth)}
    strongest = np.argsort(-levels)
    for i in range(perturbations):
        own = int(strongest[2 * i + 1])
        fold = np.where(uniform.draw(genes) < 0.15, 1.6 * _normal(uniform.draw(genes)), 0.0)
        fold[own] = -2.0
        sizes = (cells * (0.5 + uniform.draw(2))).astype(int)
        real[names[own]] = _cells(uniform, int(sizes[0]), levels, fold, depth)
        guess = 0.66 * fold + 0.2 * _normal(uniform.draw(genes)) * (fold != 0)
        predicted[names[own]] = _cells(uniform, int(sizes[1]), levels, guess, depth)
    return Screen(names, real, predicted)


def _normal(u: Floats) -> Floats:
    """Return a logistic variate scaled to about unit variance: no special functions needed."""
    return np.log(u / (1 - u)) * 0.55


def _cells(uniform: _Uniform, n: int, levels: Floats, fold: Floats, depth: float):
    means = levels * np.exp(fold)
    means = depth * means / means.sum()
    return sparse.vstack(list(_blocks(uniform, n, means)), format="csr")


def _blocks(uniform: _Uniform, n: int, means: Floats) -> Iterator[sparse.csr_matrix]:
    for start in range(0, n, CELLS_AT_A_TIME):
        rows = min(CELLS_AT_A_TIME, n - start)
        rates = np.exp(0.5 * _normal(uniform.draw(rows, 1))) * means
        zero = np.log1p(1 / rates)
        counts = np.floor(-np.log(uniform.draw(rows, len(means))) / zero)
        yield sparse.csr_matrix(counts.astype(np.float32))
