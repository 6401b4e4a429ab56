"""The paper's recipe: a network with condition tokens and guidance, and nothing else.

arXiv 2603.25240, 4.1 to 4.5 and supp. 7.2. All 281 tokens of every gene; one prefix token for each
context field and one for the perturbation; control cells at most a tenth of all; no effects in
closed form, no gene features, no null labels, no data-dependent initialisation. Perturbations are
learned by their tokens and sharpened by guidance when cells are sampled. The paper's prior
injection is `clamp` of a request.
"""

from pathlib import Path

import numpy as np

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_model.train import checkpoint as build
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.run import Learned
from lingshu_model.train.spec import TrainingSpec

CONTROL_SHARE = 0.1
"""Largest share of control cells in all training cells, where there are perturbed cells."""
CAP = 7
"""Random stream of the control cells that are kept; others are listed in `train.loop`."""


def capped(cells: TrainingCells, seed: int) -> TrainingCells:
    """Return `cells` with control cells chosen at random, at most a tenth of all.

    Contexts keep the proportions of their control cells, and each keeps at least one.
    """
    control = np.array([not c.interventions for c in cells.conditions], bool)[cells.condition]
    n_perturbed = int((~control).sum())
    # A tenth of all cells is a ninth of the perturbed ones.
    most = n_perturbed * CONTROL_SHARE / (1 - CONTROL_SHARE)
    share = min(1.0, most / max(1, int(control.sum())))
    if n_perturbed == 0 or share == 1.0:
        return cells
    generator = np.random.Generator(np.random.Philox(key=[seed, CAP]))
    kept = [np.flatnonzero(~control)]
    for number in np.unique(cells.condition[control]).tolist():
        rows = generator.permutation(cells.rows(number))
        kept.append(rows[: max(1, round(share * len(rows)))])
    return cells.take(np.sort(np.concatenate(kept)))


def finish(
    spec: TrainingSpec,
    cells: TrainingCells,
    learned: Learned,
    hgnc: Path | None,
    folder: Path,
) -> tuple[Checkpoint, Path]:
    """Return the checkpoint of a trained network and its folder, in `folder`/checkpoint.

    Args:
        spec: of the training.
        cells: that the network was trained on.
        learned: the network.
        hgnc: HGNC's complete set; None = symbols alone.
        folder: of the training run.
    """
    config = {**build.config_json(spec, cells), **learned.vocabulary, "recipe": spec.recipe}
    target = folder / "checkpoint"
    path = build.write(target, spec, config, cells, learned.network, learned.weights, hgnc)
    return Catalogue([target]).load(spec.name), path
