"""Training cells of several assays with known effects, and checkpoints made of them."""

from pathlib import Path

import numpy as np
from scipy import sparse

from lingshu_model.contracts import Intervention
from lingshu_model.finishing.choice import choose
from lingshu_model.finishing.finish import Finish, Finished
from lingshu_model.network import tokens
from lingshu_model.train.data.cells import Condition, TrainingCells
from lingshu_model.train.spec import TrainingSpec

GENES = 120
PANEL = tuple(f"G{i}" for i in range(GENES))
KINDS = ("plain", "50 UMI", "reads", "ambient")


def counts_of(kind: str, rng: np.random.Generator, share: np.ndarray, cells: int) -> np.ndarray:
    """Counts [cells, genes] of one assay around the shares of `share` [genes]."""
    depth = {"50 UMI": 50.0, "reads": 1200.0, "ambient": 150.0}.get(kind, 800.0)
    umi = depth * rng.lognormal(0.0, 0.4, (cells, 1))
    observed = rng.poisson(umi * share * rng.gamma(2.0, 0.5, (cells, GENES)))
    if kind == "reads":
        return observed * rng.poisson(5.0, observed.shape)
    if kind == "ambient":
        stray = (rng.random(observed.shape) < 0.003) * rng.geometric(0.03, observed.shape)
        return observed + stray
    return observed


def training_cells(
    kind: str = "plain",
    *,
    seed: int = 0,
    cells: int = 150,
    controls: int = 300,
    contexts: tuple[str, ...] = ("a",),
    targets: tuple[str, ...] = ("G3", "G5"),
    absent: tuple[tuple[str, str], ...] = (),
) -> TrainingCells:
    """Cells in which each target moves an eighth of the genes, alike in all contexts.

    `absent` are pairs of context and target without cells.
    """
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0.0, 1.2, GENES)
    share /= share.sum()
    folds = {t: np.where(rng.random(GENES) < 0.12, np.exp(rng.normal(0, 1.1, GENES)), 1.0)
             for t in targets}  # fmt: skip
    labels: list[Condition] = []
    blocks: list[np.ndarray] = []
    for context in contexts:
        where = (("line", context),)
        separate = share * np.exp(rng.normal(0, 0.2, GENES))
        separate /= separate.sum()
        for target in ("", *targets):
            if (context, target) in absent:
                continue
            done = (Intervention(kind="knockout", target=target),) if target else ()
            p = separate * folds.get(target, 1.0)
            labels.append(Condition(where, done))
            blocks.append(counts_of(kind, rng, p / p.sum(), cells if target else controls))
    order = sorted(
        range(len(labels)), key=lambda i: (labels[i].interventions != (), repr(labels[i]))
    )
    condition = np.concatenate([np.full(len(blocks[i]), k) for k, i in enumerate(order)])
    counts = np.concatenate([blocks[i] for i in order])
    matrix = sparse.csr_matrix(tokens.encode(counts).astype(np.uint16))
    n = len(condition)
    return TrainingCells(
        PANEL, matrix, np.arange(n), np.zeros(n, np.int64), np.ones((1, GENES), bool), condition,
        tuple(labels[i] for i in order),
    )  # fmt: skip


def spec(**changes: object) -> TrainingSpec:
    """A specification for cells that are given as they are."""
    fields: dict[str, object] = {
        "name": "made",
        "sources": [{"file": "made.h5ad", "context": {"line": "a"}}],
        "recipe": "effects",
        "shams": 2,
        "sampler": {"steps": 2, "tile": 32},
    }
    return TrainingSpec.model_validate(fields | changes)


def finished(cells: TrainingCells, folder: Path, **changes: object) -> Finished:
    """The checkpoint that `--recipe effects` makes of cells."""
    nothing = cells.take(np.zeros(0, np.int64))
    return Finish(spec(**changes), cells, nothing, None).run(folder, choose, rotate=False)
