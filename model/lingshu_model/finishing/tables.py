"""Effects and control cells in the form of a checkpoint: entries of `config.json`, and tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts.effects import (
    CONTEXTS,
    GENES,
    ROWS,
    StoredEffects,
    pack_lfsr,
    pack_sd,
)
from lingshu_model.contracts.posterior import Floats
from lingshu_model.contracts.responders import RESPONDERS
from lingshu_model.finishing.estimate import Fitted
from lingshu_model.finishing.moving import Solved
from lingshu_model.sampling.pool import Pool
from lingshu_model.train.checkpoint import Tables
from lingshu_model.train.data.cells import TrainingCells, controls

POOL_CELLS = (2048, 1024, 512, 384, 256, 192, 128, 96, 64)
"""Cells of a context in a pool: the first number with which the pool is small enough."""


def effects_entry(fitted: Fitted, solved: Solved | None = None) -> dict[str, Any]:
    """Return the entry `effects` of `config.json`.

    Args:
        fitted: the effects.
        solved: their movers; None = library sizes are those of the training cells.
    """
    libraries = [row.library for row in fitted.rows] if solved is None else solved.library
    dispersions = [0.0] * len(fitted.rows) if solved is None else solved.dispersion
    commons = [1.0] * len(fitted.contexts) if solved is None else solved.common
    responders = [None] * len(fitted.rows) if solved is None else solved.responders
    rows = [
        {
            "context": dict(row.condition.context),
            "interventions": [
                i.model_dump(mode="json", exclude_none=True) for i in row.condition.interventions
            ],
            "n_cells": list(row.cells),
            "replicates": row.replicates,
            "source": row.source,
            "note": row.note,
            "library": round(float(library), 4),
            "dispersion": float(f"{dispersion:.4g}"),
            **({"responders": strengths.entry()} if strengths else {}),
        }
        for row, library, dispersion, strengths in zip(
            fitted.rows, libraries, dispersions, responders, strict=True
        )
    ]
    contexts: list[dict[str, Any]] = []
    for number, (home, common) in enumerate(zip(fitted.contexts, commons, strict=True)):
        entry: dict[str, Any] = {"context": dict(home.context), "common": float(f"{common:.6g}")}
        unseen = fitted.unseen.get(number)
        if unseen is not None:
            entry["unseen"] = {
                "kinds": list(unseen.kinds),
                "own": unseen.parts.own,
                "note": unseen.note,
            }
        contexts.append(entry)
    s = fitted.saturation
    return {
        "units": "log1p_cp10k",
        "saturation": {"strength": s.strength, "doubles": s.doubles},
        "contexts": contexts,
        "rows": rows,
    }


def stored_effects(fitted: Fitted, panel: Sequence[str], controls: Floats) -> StoredEffects:
    """Return effects in the class that reads them from a checkpoint.

    Args:
        fitted: the effects.
        panel: gene symbols.
        controls: mean level of control cells, [contexts, genes]; NaN where not measured.
    """
    # Through the stored types: what is judged is what a reader of the checkpoint gets.
    rows, genes = posterior_tables(fitted), unseen_tables(fitted)
    return StoredEffects(effects_entry(fitted), panel, controls, rows, genes)


def effect_tables(fitted: Fitted, solved: Solved) -> dict[str, Tables]:
    """Return the tensors of the effects by the prefix of their files."""
    rows = {**posterior_tables(fitted), "log_fold": solved.log_fold}
    genes = {**unseen_tables(fitted), "log_largest": solved.log_largest}
    contexts = {"log_rate": solved.log_rate, "log_size": solved.log_size}
    tables: dict[str, Tables] = {ROWS: rows, CONTEXTS: contexts, GENES: genes}
    if len(solved.states):
        tables[RESPONDERS] = {"log_fold": solved.states}
    return tables


def posterior_tables(fitted: Fitted) -> dict[str, NDArray[Any]]:
    """Return posterior mean, sd and lfsr of every row, [rows, genes] each."""
    posteriors = [row.posterior for row in fitted.rows]
    return {
        "mean": _stacked([p.mean for p in posteriors], fitted).astype(np.float16),
        "sd": pack_sd(_stacked([p.sd for p in posteriors], fitted)),
        "lfsr": pack_lfsr(_stacked([p.lfsr for p in posteriors], fitted)),
    }


def unseen_tables(fitted: Fitted) -> dict[str, NDArray[Any]]:
    """Return the tensors of the prediction of unseen targets, by context."""
    genes: dict[str, NDArray[Any]] = {}
    for number, unseen in fitted.unseen.items():
        p = unseen.parts
        named = {
            "share_mean": p.share_mean,
            "slope": p.slope,
            "features": unseen.features,
            "base": p.base,
            "per_square": p.per_square,
            "least": p.least,
            "floor": p.floor,
        }
        # Variances of rare genes are below the smallest float16.
        exact = ("base", "per_square", "least")
        genes |= {
            f"unseen-{number}/{name}": values.astype(np.float32 if name in exact else np.float16)
            for name, values in named.items()
        }
    return genes


def _stacked(values: list[NDArray[np.float64]], fitted: Fitted) -> NDArray[np.float64]:
    return np.stack(values) if values else np.zeros((0, fitted.measured.shape[1]))


def control_pool(cells: TrainingCells, fitted: Fitted, seed: int, most_counts: int) -> Pool:
    """Return random control cells of every context, with at most `most_counts` counts if possible.

    The same number of cells for every context, or all where it has fewer.
    """
    home = controls(cells)
    rows = [cells.rows(home[c.context]) for c in fitted.contexts]
    generator = np.random.Generator(np.random.Philox(key=[seed, 7]))
    shuffled = [generator.permutation(r) for r in rows]
    # Counts that are stored for each cell, [cells]: genes above 0, not UMI.
    size = np.diff(cells.tokens.indptr)[cells.index]
    most = next(
        (n for n in POOL_CELLS if sum(int(size[r[:n]].sum()) for r in shuffled) <= most_counts),
        POOL_CELLS[-1],
    )
    chosen = [np.sort(r[:most]) for r in shuffled]
    # Cells of context i are rows first[i] to first[i + 1] - 1 of the pool.
    first = np.cumsum([0, *(len(r) for r in chosen)]).astype(np.int64)
    parts = [cells.take(r).umi(np.int32) for r in chosen]
    return Pool(sparse.csr_matrix(sparse.vstack(parts, "csr")), first)
