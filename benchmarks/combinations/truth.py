"""What the cells of a simulated data set were drawn from, and what may be learned from.

A change is on the scale ln(1 + counts per 10,000 of the panel), of a condition's mean cell: shares
of counts, known without sampling noise.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts.levels import CP10K

Floats = NDArray[np.float64]
Targets = frozenset[str]
CONTROL = "control"
JOIN = "+"


def change(share: Floats, control: Floats) -> Floats:
    """Return the change of shares of counts against control's."""
    return np.log1p(CP10K * share) - np.log1p(CP10K * control)


@dataclass(frozen=True)
class Truth:
    """Shares of counts of every condition, control first.

    Attributes:
        genes: the panel.
        conditions: targets of every row.
        trained: whether a row's cells are for training, [conditions].
        share: [conditions, genes], each row sums to 1.
        noise: variance of `share` as a measurement of nature, 0 where it is none.
    """

    genes: tuple[str, ...]
    conditions: tuple[Targets, ...]
    trained: NDArray[np.bool_]
    share: Floats
    noise: Floats

    def changes(self) -> dict[Targets, Floats]:
        """Return the true change of every perturbed condition."""
        return {
            condition: change(share, self.share[0])
            for condition, share in zip(self.conditions[1:], self.share[1:], strict=True)
        }

    def change_noise(self) -> dict[Targets, Floats]:
        """Return the variance of every change that comes from the condition itself."""
        slope = CP10K / (1 + CP10K * self.share)
        return dict(zip(self.conditions[1:], (slope**2 * self.noise)[1:], strict=True))

    def of(self, size: int, *, trained: bool) -> list[Targets]:
        """Return the conditions of `size` interventions that are, or are not, trained on."""
        pairs = zip(self.conditions, self.trained, strict=True)
        return [c for c, t in pairs if len(c) == size and bool(t) == trained]

    def write(self, path: Path) -> None:
        """Write an npz without pickles."""
        np.savez_compressed(
            path,
            genes=np.array(self.genes),
            conditions=np.array([label(c) for c in self.conditions]),
            trained=self.trained,
            share=self.share,
            noise=self.noise,
        )

    @classmethod
    def read(cls, path: Path) -> "Truth":
        """Return what `write` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(
                tuple(str(g) for g in file["genes"]),
                tuple(targets(str(c)) for c in file["conditions"]),
                file["trained"],
                file["share"],
                file["noise"],
            )


def label(condition: Targets) -> str:
    """Return `A+B`, or `control`."""
    return JOIN.join(sorted(condition)) or CONTROL


def targets(text: str) -> Targets:
    """Return the targets of a label."""
    return frozenset() if text == CONTROL else frozenset(text.split(JOIN))


def write_cells(
    path: Path, truth: Truth, counts: Sequence[NDArray[np.int32]], about: Mapping[str, Any]
) -> None:
    """Write the cells of every condition, in the truth's order, as raw counts."""
    sizes = [len(c) for c in counts]
    split = np.where(truth.trained, "train", "test")
    adata = anndata.AnnData(
        X=sparse.csr_matrix(np.concatenate(counts)),
        obs=pandas.DataFrame(
            {
                "perturbation": np.repeat([label(c) for c in truth.conditions], sizes),
                "split": np.repeat(split, sizes),
            },
            index=[f"cell-{i}" for i in range(sum(sizes))],
        ),
        var=pandas.DataFrame(index=list(truth.genes)),
        uns={"about": json.dumps(dict(about))},
    )
    adata.write_h5ad(path, compression="gzip")


def write_spec(path: Path, h5ad: Path, kind: str, context: Mapping[str, str]) -> None:
    """Write the specification of a training: on the cells of split `train`."""
    rule = {"column": "perturbation", "control": CONTROL, "kind": kind, "separator": JOIN}
    spec = {
        "name": path.stem,
        "sources": [
            {
                "file": h5ad.name,
                "where": {"split": ["train"]},
                "context": dict(context),
                "perturbation": rule,
            }
        ],
        "network": "lingshu-1m-s13-reach",
        "epochs": 6,
        "batch": 64,
        "micro_batch": 64,
        "lr": 2e-3,
        "final_lr": 1e-4,
        "warmup_steps": 100,
        "shams": 8,
        "validation": 0.05,
        "seed": 0,
        "sampler": {"schedule": "cosine", "steps": 4, "guidance": 0.0, "tile": 64},
    }
    path.write_text(json.dumps(spec, indent=1) + "\n", "utf-8")
