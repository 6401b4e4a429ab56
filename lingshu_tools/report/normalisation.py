"""How far CP10K misleads in an effect: the UMI that moved genes hold, and other size factors.

On a small panel the genes that move can hold much of a cell's UMI. Then all others seem to move
the other way in CP10K, and changes against genes without an effect say more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import decode_cells
from lingshu_tools.analysis import Effect, t_quantile
from lingshu_tools.analysis.certainty import SUPPORTED
from lingshu_tools.analysis.composition import (
    Unresponsive,
    changes_against,
    gene_totals,
    unresponsive_genes,
)
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.findings import seen_row
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.report.experiment_views import Shown

LARGE_SHARE, SMALL_PANEL = 0.2, 2_000
"""Share of the UMI from which a caveat is given, and the most measured genes of a small panel."""
MOST_COUNTS = 20_000_000
"""Non-zero counts that are read for other size factors: about a second."""
MOVED = (
    "called genes hold {share:.0%} of this small panel's UMI, so in CP10K others seem to move the "
    'other way: normalise="unresponsive"'
)
NEEDS_CELLS = (
    "normalise='unresponsive' needs the cells of {name}, which are not stored here; "
    'replay_experiment(id="{name}") makes them again'
)


@dataclass(frozen=True)
class Rescaled:
    """Changes against genes without an effect.

    Attributes:
        unresponsive: these genes.
        changes: ln(1 + UMI per 10,000 by their UMI), mean over pairs, by panel position.
        intervals: 95 % Monte Carlo intervals; None of one pair.
    """

    unresponsive: Unresponsive
    changes: dict[int, float]
    intervals: dict[int, list[float]]

    @property
    def sentence(self) -> str:
        """What was done, and by how much CP10K misleads here, as a caveat."""
        n, u = int(self.unresponsive.genes.sum()), self.unresponsive
        return (
            f"unresponsive_change is scaled by {n} genes without an effect ({u.share:.0%} of the "
            f"UMI), which together move by {u.shift:+.2f} in ln CP10K"
        )


def called(design: Design, effect: Effect) -> NDArray[np.bool_]:
    """Return genes whose change is supported; without a stored effect beyond Monte Carlo noise."""
    stored = stored_effect(design)
    if stored is not None:
        return effect.measured & (stored.posterior.lfsr <= SUPPORTED)
    if effect.change_se is None:
        return np.zeros(len(effect.change), np.bool_)
    limit = t_quantile(0.975, effect.n_cells - 1) * effect.change_se
    return effect.measured & (np.abs(effect.change) > limit)


def moved_share(design: Design, effect: Effect) -> float | None:
    """Return the share of the UMI of training control cells that the called genes hold.

    None where the checkpoint has no control cells of the context.
    """
    # Control cells of training, not simulated ones: the share is a property of the data.
    row = seen_row(replace(design, interventions=()))
    counts = design.checkpoint.reference.get("mean_count")
    if row is None or counts is None:
        return None
    # UMI per cell, [genes].
    mean = np.where(effect.measured, counts[row].astype(np.float64), 0.0)
    total = float(np.nansum(mean))
    return float(np.nansum(mean[called(design, effect)])) / total if total > 0 else None


def rescaled(record: Shown, genes: Sequence[int]) -> Rescaled:
    """Return the changes of genes, by panel position, against genes without an effect.

    Raises:
        InputError: the cells are not stored here or too many, or too few genes have counts.
    """
    name, artifacts = record.experiment.id, record.outcome.artifacts if record.outcome else {}
    if not record.stored("control", "perturbed"):
        raise InputError(NEEDS_CELLS.format(name=name))
    arms = [decode_cells(record.ledger.object_file(artifacts[r])) for r in ("control", "perturbed")]
    # Checked before the counts are read: a call has a time limit.
    counts = sum(int(cells.indptr[-1]) for cells in arms)
    if counts > MOST_COUNTS:
        message = (
            f"normalise='unresponsive' reads {counts:,} counts of {name}, more than "
            f"{MOST_COUNTS:,}; ask for fewer cells"
        )
        raise InputError(message)
    panel = record.design.checkpoint.panel
    targets = [panel.index(i.target) for i in record.design.interventions if i.target in panel]
    # UMI over all cells, [genes], of control and perturbed cells.
    totals = [gene_totals(cells) for cells in arms]
    unresponsive = unresponsive_genes(totals[0], totals[1], targets)
    if unresponsive is None:
        message = (
            f"normalise='unresponsive': too few genes of {name} have counts to choose genes "
            "without an effect; ask for more cells, or use normalise='cp10k'"
        )
        raise InputError(message)
    changes = changes_against(arms[0], arms[1], unresponsive, genes)
    mean, n = changes.mean(0), len(changes)
    intervals: dict[int, list[float]] = {}
    if n > 1:
        # Paired by stream, as other Monte Carlo intervals.
        half = t_quantile(0.975, n - 1) * changes.std(0, ddof=1) / np.sqrt(n)
        spans = np.stack([mean - half, mean + half], 1).tolist()
        intervals = dict(zip(genes, spans, strict=True))
    return Rescaled(unresponsive, dict(zip(genes, mean.tolist(), strict=True)), intervals)
