"""Real and predicted cells of an evaluation as h5ad files that the challenges' tools read.

Raw counts in X, the perturbation in `obs["target"]`, control cells under one label, the same genes
in the same order in every file. Everyone predicts as many cells of a condition as are held out, as
far as the model sampled that many: rank tests of more cells call more genes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.evaluate.metrics.matrices import Sparse, is_expression
from lingshu_model.evaluate.metrics.resampling import stream
from lingshu_model.evaluate.rows import MODEL
from lingshu_model.evaluate.sources import Sources, in_population
from lingshu_model.evaluate.study import Population

COLUMN, CONTROL = "target", "non-targeting"
REAL = "real"
Arms = Mapping[str, Sparse]
"""Counts [cells, genes] by label."""


def write_files(population: Population, sources: Sources, folder: Path) -> list[Path]:
    """Write `real.h5ad` and a file per predictor and seed, and return them.

    Raises:
        ValueError: the perturbations do not share one control.
    """
    controls = {c.control for c in population.contrasts}
    if len(controls) != 1:
        message = (
            f"{population.name} has {len(controls)} controls; the challenges' metrics need the "
            "perturbations of one context"
        )
        raise ValueError(message)
    labels = {controls.pop(): CONTROL, **{c.perturbed: c.name for c in population.contrasts}}
    folder.mkdir(parents=True, exist_ok=True)
    files = {REAL: _labelled(population.test, labels)}
    files |= {
        f"{name}-seed{seed}": arms for name, seed, arms in predicted(population, sources, labels)
    }
    paths: list[Path] = []
    for name, arms in files.items():
        paths.append(folder / f"{name}.h5ad")
        as_anndata(arms, population.genes).write_h5ad(paths[-1], compression="gzip")
    return paths


def predicted(
    population: Population, sources: Sources, labels: Mapping[str, str]
) -> Iterator[tuple[str, int, Arms]]:
    """Yield name, seed and labelled cells of the sources with counts, and of simple predictors.

    `control_mean`: held-out control cells drawn again. `mean_shift`: those cells with each gene
    scaled by its mean training change over perturbations, in whole counts.
    `resampled_training_cells`: training cells drawn again. A source without control cells has the
    held-out ones, since the tools compare each side with its own control.
    """
    here = in_population(sources, population)
    real = _labelled(population.test, labels)
    train = _labelled(population.train, labels)
    for name, source in here.items():
        for seed, arms in zip(source.seeds, source.arms, strict=True):
            cells = _labelled(arms, labels)
            if len(cells) >= len(labels) - 1 and not any(map(is_expression, cells.values())):
                cells = {CONTROL: real[CONTROL], **cells}
                yield name, seed, {n: c[: real[n].shape[0]] for n, c in cells.items()}
    model = here[MODEL]
    for seed, arms in zip(model.seeds, model.arms, strict=True):
        sizes = {
            label: min(real[label].shape[0], arms[name].shape[0]) for name, label in labels.items()
        }
        generator = stream("challenge", seed)
        control = {n: _drawn(real[CONTROL], size, generator) for n, size in sizes.items()}
        control[CONTROL] = real[CONTROL]
        factor = mean_factor(train)
        moved = {
            n: c if n == CONTROL else _whole(c.toarray() * factor, generator)
            for n, c in control.items()
        }
        yield "control_mean", seed, control
        yield "mean_shift", seed, moved
        drawn = {n: _drawn(train[n], size, generator) for n, size in sizes.items()}
        yield "resampled_training_cells", seed, drawn


def mean_factor(train: Arms) -> NDArray[np.float64]:
    """Return by what each gene's share of all counts changes, mean over perturbations [genes]."""
    shares = {name: _shares(cells) for name, cells in train.items()}
    before = shares.pop(CONTROL)
    after = np.mean([*shares.values()], axis=0)
    return np.divide(after, before, out=np.zeros_like(after), where=before > 0)


def _shares(cells: Sparse) -> NDArray[np.float64]:
    total = np.asarray(cells.sum(axis=0), np.float64)
    return total / max(total.sum(), 1.0)


def _labelled(arms: Arms, labels: Mapping[str, str]) -> dict[str, Sparse]:
    return {label: arms[name] for name, label in labels.items() if name in arms}


def _drawn(cells: Sparse, n: int, generator: np.random.Generator) -> Sparse:
    return cells[generator.integers(cells.shape[0], size=n)]


def _whole(values: NDArray[np.float64], generator: np.random.Generator) -> Sparse:
    """Return whole counts with these expectations."""
    return sparse.csr_array(np.floor(values + generator.random(values.shape)).astype(np.int32))


def as_anndata(arms: Arms, genes: list[str]) -> anndata.AnnData:
    """Return cells with their labels, float32 counts as the tools read them."""
    names = np.repeat([*arms], [cells.shape[0] for cells in arms.values()])
    obs = pd.DataFrame({COLUMN: pd.Categorical(names)})
    obs.index = [f"cell{i}" for i in range(len(names))]
    counts = sparse.csr_matrix(sparse.vstack([*arms.values()]), dtype=np.float32)
    return anndata.AnnData(counts, obs, pd.DataFrame(index=genes))
