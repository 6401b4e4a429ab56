"""The choice of delivery: moved cells of the network, or moved control cells of training.

Each candidate is a provisional checkpoint with effects of the training cells alone. It samples
cells of up to `MOST` perturbed conditions, those with the most validation cells, and control cells
of their contexts, and the energy distance between sampled and validation cells is computed along
principal axes of the training cells. The network is chosen unless control cells of training are
nearer by more than a standard error over conditions, since a network gives cells beyond the stored
ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lingshu_model.contracts import Checkpoint
from lingshu_model.evaluate.metrics.distances import energy_distance
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.evaluate.metrics.matrices import expression_levels
from lingshu_model.finishing.estimate import Fitted
from lingshu_model.finishing.finish import Finish, request, sampled
from lingshu_model.sampling.delivery import MOVED, TRAINING_CELLS
from lingshu_model.sampling.load import load_sampler
from lingshu_model.train.data.cells import Condition, TrainingCells

MOST = 12
"""Largest number of conditions that are compared."""
FEWEST = 8
"""Smallest number of validation cells of a condition that is compared."""
LARGEST = 200
"""Largest number of its validation cells that are used."""
FRAME_CELLS = 4000
"""Training cells that the axes are computed from, about."""
SEED = (1 << 62) + 17
"""Seed of the first condition's cells; others follow. No other module uses these seeds."""


def choose(finish: Finish, place: Path) -> tuple[str, dict[str, Any]]:
    """Return the delivery and the figures it was chosen by, as JSON.

    Args:
        finish: the training run.
        place: folder for the candidates.
    """
    judged = _judged(finish.held_out)
    if not judged:
        reason = f"no condition has {FEWEST} validation cells to compare by"
        return MOVED, {"reason": reason}
    # Effects of training cells alone: validation cells have to be new to both candidates.
    fitted = finish.effects(finish.train)
    known = {row.condition for row in fitted.rows} | {*fitted.contexts}
    judged = {c: rows for c, rows in judged.items() if c in known}
    if not any(condition.interventions for condition in judged):
        reason = f"no condition with {FEWEST} validation cells has an effect of training cells"
        return MOVED, {"reason": reason}
    checkpoints = finish.candidate(place, _only(fitted, judged), (MOVED, TRAINING_CELLS))
    frame = _frame(finish.train)
    distances = {
        name: _distances(checkpoint, finish.held_out, judged, frame)
        for name, checkpoint in checkpoints.items()
    }
    # Positive where control cells of training are nearer, [conditions].
    gain = np.array(distances[MOVED]) - np.array(distances[TRAINING_CELLS])
    # One condition has no standard error; the network is kept then.
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("inf")
    delivery = TRAINING_CELLS if gain.mean() > error else MOVED
    means = {name: round(float(np.mean(d)), 4) for name, d in distances.items()}
    return delivery, {
        "metric": "energy distance to validation cells, mean over conditions",
        "conditions": len(gain),
        **means,
        "standard_error_of_difference": round(error, 4) if np.isfinite(error) else None,
    }


def _judged(held_out: TrainingCells) -> dict[Condition, np.ndarray]:
    """Return validation cells of the perturbed conditions with the most, and of their controls."""
    rows = {c: held_out.rows(i) for i, c in enumerate(held_out.conditions)}
    # The energy distance of fewer cells is mostly sampling noise.
    enough = [c for c, r in rows.items() if len(r) >= FEWEST]
    chosen = sorted((c for c in enough if c.interventions), key=lambda c: (-len(rows[c]), repr(c)))[
        :MOST
    ]
    contexts = {c.context for c in chosen}
    chosen += [c for c in enough if not c.interventions and c.context in contexts]
    return {c: rows[c][:LARGEST] for c in chosen}


def _only(fitted: Fitted, judged: Mapping[Condition, object]) -> Fitted:
    rows = tuple(row for row in fitted.rows if row.condition in judged)
    return replace(fitted, rows=rows, unseen={})


def _frame(train: TrainingCells) -> Frame:
    # Every so many cells: cells are in the order of their files, conditions side by side.
    step = max(1, len(train) // FRAME_CELLS)
    return Frame.fit([train.take(np.arange(0, len(train), step)).umi(np.int32)])


def _distances(
    checkpoint: Checkpoint,
    held_out: TrainingCells,
    judged: Mapping[Condition, np.ndarray],
    frame: Frame,
) -> list[float]:
    sampler = load_sampler(checkpoint, threads=1)
    distances: list[float] = []
    for number, (condition, rows) in enumerate(judged.items()):
        # Another seed for each condition: the noise that control cells of one seed share would not
        # average out over conditions.
        context, seed = dict(condition.context), SEED + number
        arm = request(checkpoint, context, condition.interventions, len(rows), seed)
        real = held_out.take(rows).umi(np.int32)
        cells = sampled(sampler, arm).astype(np.int32)
        distances.append(
            energy_distance(*(frame.scores(expression_levels(c)) for c in (cells, real)))
        )
    return distances
