"""Must-show 5: advice on the number of real cells against thinned real cells.

    python -m benchmarks.planning.power --data DATA --out benchmarks/results

Advice is that of `thp1-crispr`, trained on replicates 1 and 2: cells of either arm that show a
change at p < .001 with 80 % power. Seen is replicate 3: n cells of either arm are drawn from it,
with Welch's test of the gene, many times; the number seen is the least n at which 80 % of the draws
pass. The ten strongest knock-outs by their stored effects, each by its strongest gene, the target
left out; and the ten strongest changes of all, of whatever knock-out. `v` are the variances
between cells that the advice takes; `v_halves` is that of control cells, from differences between
random halves of them.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_model.contracts.levels import CP10K
from lingshu_tools.analysis.power import LEVEL, arm_variances
from lingshu_tools.experiments.needed_cells import CountModel

Floats = NDArray[np.float64]
FILE = "cells/papalexi2021_thp1_crisprko.h5ad"
DRAWS, POWER, STRONGEST = 600, 0.8, 10
MOST = 1500
"""Cells of an arm up to which the real number is looked for."""


@dataclass(frozen=True)
class Real:
    """log1p_cp10k of one replicate, [cells, genes], and the label of each cell."""

    levels: Floats
    labels: NDArray[np.str_]

    @classmethod
    def read(cls, path: Path, replicate: str, panel: list[str]) -> Real:
        adata = anndata.read_h5ad(path)
        adata = adata[(adata.obs["bio_rep"] == replicate).to_numpy()]
        counts = np.asarray(adata[:, panel].X.todense(), np.float64)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return cls(np.log1p(CP10K * share), adata.obs["perturbation"].to_numpy(str))

    def of(self, label: str) -> Floats:
        return self.levels[self.labels == label]

    def seen(self, label: str, gene: int, rng: np.random.Generator) -> int:
        """Return the least number of cells at which 80 % of the draws pass; `MOST` if none does."""
        arms = self.of(label)[:, gene], self.of("non-targeting")[:, gene]

        def passes(n: int) -> float:
            a, b = (arm[rng.integers(0, len(arm), (DRAWS, n))] for arm in arms)
            with np.errstate(invalid="ignore", divide="ignore"):
                p = stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue
            return float((np.nan_to_num(p, nan=1.0) < LEVEL).mean())

        if passes(MOST) < POWER:
            return MOST
        low, high = 2, MOST
        while high - low > max(1, low // 50):
            middle = round((low * high) ** 0.5) if high > 2 * low else (low + high) // 2
            low, high = (low, middle) if passes(middle) >= POWER else (middle, high)
        return high

    def halves(self, gene: int, rng: np.random.Generator) -> float:
        """Return the variance between cells by differences of halves of the control cells."""
        cells = self.of("non-targeting")[:, gene]
        gaps = []
        for _ in range(200):
            order = rng.permutation(len(cells))
            a, b = np.array_split(cells[order], 2)
            gaps.append((a.mean() - b.mean()) ** 2)
        return float(np.mean(gaps)) * len(cells) / 4


def advised(checkpoint: Checkpoint) -> list[tuple[str, int, float, float]]:
    """Return knock-out, gene, change and sd of a new experiment for every gene not the target's."""
    context, effects = checkpoint.contexts[0], checkpoint.effects
    assert effects is not None
    model = ErrorModel.from_evidence(checkpoint.evidence, "seen")
    rows = []
    for target in checkpoint.targets["knockout"]:
        posterior = effects.effect(context, [Intervention(kind="knockout", target=target)])
        posterior = model.widened(posterior.posterior, checkpoint.gene_variance)
        for gene, symbol in enumerate(checkpoint.panel):
            if symbol != target:
                rows.append((target, gene, posterior.mean[gene], posterior.sd[gene]))
    return sorted(rows, key=lambda row: -abs(row[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--replicate", default="rep_3")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    checkpoint = Catalogue().load("thp1-crispr")
    real = Real.read(arguments.data / FILE, arguments.replicate, checkpoint.panel)
    every = advised(checkpoint)
    counts = CountModel.of(checkpoint, checkpoint.contexts[0])
    assert counts is not None
    first: dict[str, tuple[str, int, float, float]] = {}
    for row in every:
        first.setdefault(row[0], row)
    chosen = [("knock-outs", r) for r in list(first.values())[:STRONGEST]]
    chosen += [("changes", r) for r in every[:STRONGEST]]
    rng = np.random.default_rng(0)
    rows = []
    for by, (target, gene, change, sd) in chosen:
        advice = counts.cells_for(gene, change, sd)
        control, perturbed = arm_variances(
            counts.rates[gene], counts.sizes[gene], counts.depths, change
        )
        seen = real.seen(target, gene, rng)
        gap = real.of(target)[:, gene].mean() - real.of("non-targeting")[:, gene].mean()
        n = advice[0] if advice else 0
        rows.append({
            "strongest": by, "knock_out": target, "gene": checkpoint.panel[gene],
            "predicted_change": round(float(change), 3), "seen_change": round(float(gap), 3),
            "v_control": round(control, 2), "v_perturbed": round(perturbed, 2),
            "v_halves": round(real.halves(gene, rng), 2),
            "advised_cells": n, "advised_with_doubt": advice[1] if advice else 0,
            "seen_cells": seen, "ratio": round(n / seen, 2),
            "within_1.5": 1 / 1.5 <= n / seen <= 1.5,
        })  # fmt: skip
        print(rows[-1], flush=True)
    for by in ("knock-outs", "changes"):
        mine = [r for r in rows if r["strongest"] == by]
        print(f"{by}: {sum(r['within_1.5'] for r in mine)} of {len(mine)} within a factor of 1.5")
    if arguments.out:
        with (arguments.out / "planning-power.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
