"""Synthetic cells of one context whose truth is known: Poisson counts, one log fold per gene."""

from collections.abc import Mapping
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from fakes import write_folder
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import ArmRequest, Cells, Intervention
from lingshu_model.evaluate.metrics.matrices import csr, expression_levels
from lingshu_model.evaluate.study import CONTROL, Split, Study, build_study
from lingshu_model.train.data.cells import Condition
from lingshu_model.train.spec import TrainingSpec

GENES = [f"G{i}" for i in range(40)]
SIZES = {CONTROL: 1.0, "strong": 0.6, "middling": 0.3, "weak": 0.1, "nothing": 0.0}
CONTEXT = {"cell_line": "THP-1"}
TRAINING = TrainingSpec.model_validate(
    {
        "name": "synthetic",
        "sources": [
            {
                "file": "cells.h5ad",
                "where": {"bio_rep": ["rep_1"]},
                "context": CONTEXT,
                "perturbation": {
                    "column": "perturbation",
                    "control": "non-targeting",
                    "kind": "knockout",
                },
            }
        ],
        "network": "lingshu-tiny",
        "epochs": 1,
        "validation": 0.2,
    }
)


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

    def study(self, n_train: int = 300, n_test: int = 200) -> Study:
        """Return training and held-out cells drawn from the truth."""
        return study(self.arms(n_train, 1), self.arms(n_test, 2))

    def change(self, name: str) -> NDArray[np.float64]:
        """Return the true change, from very many cells."""
        many = [self.cells(k, 20_000, 77) for k in (name, CONTROL)]
        perturbed, control = (expression_levels(cells).toarray().mean(axis=0) for cells in many)
        return perturbed - control


def condition(name: str) -> Condition:
    """Return the condition of a name."""
    parts = [] if name == CONTROL else name.split("+")
    finished = tuple(Intervention(kind="knockout", target=part) for part in parts)
    return Condition(tuple(CONTEXT.items()), finished)


def study(train: Mapping[str, NDArray[np.int32]], test: Mapping[str, NDArray[np.int32]]) -> Study:
    """Return the study of these cells, by condition."""
    sides = [{(0, condition(n)): csr(c) for n, c in side.items()} for side in (train, test)]
    measured = np.ones((1, len(GENES)), bool)
    return build_study(Split(GENES, ["cells"], measured, *sides, held_out=None, fold="test"))


def without_effect(arms: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
    """Return arms of a model that ignores perturbations: the control's cells, reshuffled."""
    control = arms[CONTROL]
    return {
        name: control if name == CONTROL else np.roll(control, i + 1, axis=0)
        for i, name in enumerate(arms)
    }


def sampled(request: ArmRequest) -> Cells:
    """Return the cells that a model which draws from the truth gives for a request."""
    target = request.interventions[0].target if request.interventions else CONTROL
    name = CONTROL if target.startswith("sham") else target
    seed = request.seed * 1000 + sum(map(ord, target))
    return Cells(Truth().cells(name, request.n_cells, seed), np.ones(len(GENES), bool))


def write_checkpoint(folder: Path) -> Path:
    """Write the folder of a checkpoint that was trained as TRAINING says, without weights."""
    targets = [("knockout", name) for name in SIZES if name != CONTROL]
    targets += [("sham", f"sham-{i:02}") for i in range(3)]
    seen = [{"context": CONTEXT, "interventions": [], "n_cells": 300}]
    for kind, target in targets:
        intervention = {"kind": kind, "target": target}
        seen.append({"context": CONTEXT, "interventions": [intervention], "n_cells": 300})
    return write_folder(folder, GENES, [CONTEXT], seen, TRAINING)


def write_data(folder: Path) -> Path:
    """Write the cells of two replicates, genes in reverse, and return the folder."""
    blocks, rows = [], []
    for replicate, n, seed in (("rep_1", 150, 1), ("rep_3", 120, 2)):
        for name, counts in Truth().arms(n, seed).items():
            label = "non-targeting" if name == CONTROL else name
            blocks.append(counts)
            rows += [(label, replicate)] * len(counts)
    obs = pd.DataFrame(rows, columns=["perturbation", "bio_rep"])
    obs.index = [f"cell{i}" for i in range(len(obs))]
    counts = np.concatenate(blocks)[:, ::-1].astype(np.float32)
    data = anndata.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=GENES[::-1]))
    data.write_h5ad(folder / "cells.h5ad")
    return folder
