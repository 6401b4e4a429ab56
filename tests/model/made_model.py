"""Made cells, a tiny training spec and arm requests for the model's tests."""

import anndata
import numpy as np
import pandas as pd

from lingshu_model.contracts import ArmRequest, Checkpoint, Intervention
from lingshu_model.train.spec import TrainingSpec

CONTEXT = {"cell_line": "made"}
GENES = [f"G{i}" for i in range(30)]
SPEC = TrainingSpec.model_validate(
    {
        "name": "made",
        "sources": [
            {
                "file": "made.h5ad",
                "where": {"kept": ["yes"]},
                "context": CONTEXT,
                "perturbation": {"column": "guide", "control": "none", "kind": "knockout"},
            }
        ],
        "network": "lingshu-tiny",
        "epochs": 2,
        "batch": 16,
        "micro_batch": 8,
        "warmup_steps": 2,
        "lr": 1e-3,
        "shams": 2,
        "gene_features": 4,
        "sampler": {"steps": 4, "tile": 16},
    }
)


def made_cells(n: int = 120) -> anndata.AnnData:
    """Counts in which the knock-out of G1 takes G1 and G2 away."""
    generator = np.random.Generator(np.random.Philox(7))
    guide = np.array(["none", "G1", "G5"])[np.arange(n) % 3]
    counts = generator.poisson(np.linspace(0.2, 6, len(GENES)), (n, len(GENES)))
    counts[np.ix_(guide == "G1", [1, 2])] = 0
    obs = pd.DataFrame({"guide": guide, "kept": "yes"}, index=[f"c{i}" for i in range(n)])
    return anndata.AnnData(counts.astype(np.float32), obs, pd.DataFrame(index=GENES))


def arm(checkpoint: Checkpoint, *targets: str, **changes: object) -> ArmRequest:
    """Return a request for the knock-out of `targets` (none = control)."""
    interventions = tuple(Intervention(kind="knockout", target=t) for t in targets)
    fields: dict[str, object] = {
        "checkpoint": checkpoint.name,
        "checkpoint_digest": checkpoint.digest,
        "context": CONTEXT,
        "interventions": interventions,
        "seed": 11,
        "n_cells": 40,
        "steps": 4,
    }
    return ArmRequest.model_validate(fields | changes)
