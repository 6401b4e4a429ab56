"""The cells that are compared with held-out cells, at equal numbers, as h5ad files.

    effects only       control cells of training, moved by the effect
    network only       the network's cells under its perturbation tokens
    both               the network's control cells, moved by the effect
    training cells     of the same condition; where there are any
    another half       of the held-out cells; where there are at least 100
    control cells      of training, unmoved
    independent genes  that other half, each gene permuted over its cells

Correlations of few cells are noisy, and noise in either matrix lowers every metric. So all arms of
a condition have as many cells as the held-out cells that they are compared with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.vcc.cells import COLUMN, CONTROL, REAL, as_anndata
from lingshu_model.contracts.effects import NoEffectError
from lingshu_model.evaluate.arms import ArmStore, can_sample
from lingshu_model.evaluate.metrics.matrices import Sparse, csr
from lingshu_model.evaluate.metrics.resampling import stream
from lingshu_model.evaluate.study import Contrast, Population, Study
from lingshu_model.sampling.parts import EFFECTS_ONLY, NAMES, NETWORK_ONLY, part_samplers
from lingshu_model.train.data.cells import Condition

BOTH = NAMES["moved"]
PARTS = (EFFECTS_ONLY, NETWORK_ONLY, BOTH)
TRAINING, HALF = "training cells", "another half"
UNMOVED, INDEPENDENT = "control cells", "independent genes"
ARMS = (*PARTS, TRAINING, HALF, UNMOVED, INDEPENDENT)
OPTIONAL = (TRAINING,)
"""Arms that are left out where they have too few cells; the others limit the number of all."""
GENE = "gene"
"""Column of obs: the condition's target where it is a measured gene, which metrics leave out."""
FEWEST, MOST = 50, 500
"""Cells of an arm: cell-eval2 scores no condition with fewer, and takes no more."""
DRAWS = 5
"""Random halves of the held-out cells; figures are means over them."""
SURPLUS = 4
"""Training control cells, drawn with replacement, for each distinct cell that is needed."""
SEED = 0
Arms = Mapping[str, Sparse]
"""Counts [cells, genes] of each arm."""


@dataclass(frozen=True)
class Compared:
    """A condition and the cells that are compared with its held-out cells.

    Attributes:
        name: of the condition.
        tier: what training has seen of it; `control` for unperturbed cells.
        gene: its target, if that is a measured gene; else empty.
        held_out: counts [cells, genes].
        arms: by name, of any number of cells.
    """

    name: str
    tier: str
    gene: str
    held_out: Sparse
    arms: Arms

    @property
    def halved(self) -> bool:
        """Whether the held-out cells are enough for two halves."""
        return self.held_out.shape[0] >= 2 * FEWEST

    @property
    def n_cells(self) -> int:
        """The number of cells of each arm."""
        n = self.held_out.shape[0]
        arms = (cells.shape[0] for name, cells in self.arms.items() if name not in OPTIONAL)
        return min(MOST, n // 2 if self.halved else n, *arms)

    def drawn(self, draw: int) -> tuple[Sparse, Arms]:
        """Return held-out cells, and every arm, at `n_cells`, none twice."""
        n = self.n_cells
        order = self._stream("held out", draw).permutation(self.held_out.shape[0])
        target = self.held_out[order[:n]]
        arms = {
            name: cells[self._stream(name, draw).choice(cells.shape[0], n, replace=False)]
            for name, cells in self.arms.items()
            if cells.shape[0] >= n
        }
        if self.halved:
            arms[HALF] = self.held_out[order[n : 2 * n]]
            # Not the target permuted: its rare genes would have the target's very counts, and
            # pairs of them that meet in a cell by chance the very correlation.
            arms[INDEPENDENT] = permuted(arms[HALF], self._stream(INDEPENDENT, draw))
        return target, arms

    def _stream(self, arm: str, draw: int) -> np.random.Generator:
        return stream("gene structure", self.name, arm, draw)


def permuted(cells: Sparse, generator: np.random.Generator) -> Sparse:
    """Return cells [cells, genes] whose genes are independent: each permuted over the cells."""
    return csr(generator.permuted(cells.toarray(), axis=0))


def distinct(cells: Sparse, starts: Sparse) -> Sparse:
    """Return the cells whose start, the row of `starts`, is that of no cell before them."""
    first = np.unique(starts.toarray(), axis=0, return_index=True)[1]
    return cells[np.sort(first)]


def stores_of(store: ArmStore, study: Study) -> dict[str, ArmStore]:
    """Return stores of the cells of a checkpoint's parts, what it delivers among them.

    Raises:
        ValueError: its effects are inside the network (checkpoints of the first format).
    """
    checkpoint = store.checkpoint
    if checkpoint.delivery is None:
        message = (
            f"{checkpoint.name} has its effects inside the network, no parts to compare: "
            "train it anew with this version"
        )
        raise ValueError(message)
    controls = partial(study.training_controls, genes=len(checkpoint.panel))
    parts = part_samplers(checkpoint, controls)
    stores = {name: store.of_part(name, each) for name, each in parts.items() if name in PARTS}
    return {NAMES[checkpoint.delivery]: store, **stores}


def compared(
    stores: Mapping[str, ArmStore], study: Study, population: Population, control: str
) -> Iterator[Compared]:
    """Yield the control condition, if it has halves, and its contrasts that have enough cells.

    Args:
        stores: of `stores_of`.
        study: of the population.
        population: real cells.
        control: name of the control condition.
    """
    # Without halves there is nothing to measure a network's control cells by.
    if NETWORK_ONLY in stores and population.n_test(control) >= 2 * FEWEST:
        cells = {
            NETWORK_ONLY: _sampled(stores[NETWORK_ONLY], study.conditions[control], population,
                                   population.n_test(control)),
            TRAINING: population.train[control],
        }  # fmt: skip
        yield Compared(control, "control", "", population.test[control], cells)
    for contrast in population.contrasts:
        if contrast.control != control or population.n_test(contrast.perturbed) < FEWEST:
            continue
        try:
            each = _contrast(stores, population, contrast)
        except NoEffectError:
            continue
        if each.n_cells >= FEWEST:
            yield each


def _contrast(
    stores: Mapping[str, ArmStore], population: Population, contrast: Contrast
) -> Compared:
    condition, name = contrast.condition, contrast.perturbed
    n = min(population.n_test(name), 2 * MOST)
    arms: dict[str, Sparse] = {UNMOVED: population.train[contrast.control]}
    for part, store in stores.items():
        if not can_sample(store.checkpoint, condition):
            continue
        arms[part] = (
            _moved_training(store, condition, population, n)
            if part == EFFECTS_ONLY
            else _sampled(store, condition, population, n)
        )
    if population.n_train(name):
        arms[TRAINING] = population.train[name]
    target = condition.interventions[0].target
    gene = target if target in population.genes else ""
    return Compared(name, contrast.tier, gene, population.test[name], arms)


def _sampled(store: ArmStore, condition: Condition, population: Population, n: int) -> Sparse:
    return store.counts(condition, SEED, n=n)[:, population.columns]


def _moved_training(
    store: ArmStore, condition: Condition, population: Population, n: int
) -> Sparse:
    """Return at most `n` moved control cells of training, each from another cell.

    They are drawn with replacement; a cell that stands there twice would count as two, which is
    noise that no other arm has. Cell i of both arms starts from the same control cell.
    """
    both = (condition, replace(condition, interventions=()))
    moved, starts = (_sampled(store, each, population, SURPLUS * n) for each in both)
    return distinct(moved, starts)[:n]


def write_group(conditions: list[Compared], control: Sparse, genes: list[str], out: Path) -> None:
    """Write `real.h5ad` and a file per arm: counts of every condition and draw.

    Args:
        conditions: of one control condition.
        control: held-out control cells, which say how much each gene responds.
        genes: symbols.
        out: folder.
    """
    files: dict[str, dict[str, Sparse]] = {REAL: {}}
    targets = {CONTROL: ""}
    for each in conditions:
        for draw in range(DRAWS):
            label = f"{each.name}|{draw}"
            targets[label] = each.gene
            files[REAL][label], arms = each.drawn(draw)
            for name, cells in arms.items():
                files.setdefault(name, {})[label] = cells
    out.mkdir(parents=True, exist_ok=True)
    for name, cells in files.items():
        data = as_anndata({CONTROL: control, **cells}, genes)
        data.obs[GENE] = [targets[label] for label in data.obs[COLUMN].astype(str)]
        data.write_h5ad(out / f"{name}.h5ad", compression="gzip")
