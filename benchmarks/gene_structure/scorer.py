"""Run in the environment of `benchmarks/vcc/requirements.txt`: score cells with cell-eval2.

    python scorer.py FOLDER …

A folder holds `real.h5ad` and a file per arm, with the same labels or fewer. Writes
`FOLDER/scores.csv`: version, arm, label, metric and value. An arm that is there is not scored
again.
"""

import csv
import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import anndata
import cell_eval2

COLUMN, CONTROL, GENE, REAL = "target", "non-targeting", "gene", "real"
METRICS = ["cell_cov_ccc", "cell_cov_corr", "cell_cov_eig_ratio"]
HEADER = ["version", "arm", "label", "metric", "value"]


def main(folder: Path) -> None:
    """Score the arms that are not scored yet."""
    out = folder / "scores.csv"
    known: set[str] = set()
    if out.is_file():
        with out.open(newline="") as file:
            known = {row["arm"] for row in csv.DictReader(file)}
    else:
        out.write_text(",".join(HEADER) + "\n", "utf-8")
    real = anndata.read_h5ad(folder / f"{REAL}.h5ad")
    for path in sorted(folder.glob("*.h5ad")):
        if path.stem not in (REAL, *known):
            rows = score(anndata.read_h5ad(path), real)
            with out.open("a", newline="") as file:
                lines = [[version("cell-eval2"), path.stem, *row] for row in rows]
                csv.writer(file, lineterminator="\n").writerows(lines)


def score(arm: anndata.AnnData, real: anndata.AnnData) -> list[tuple[str, str, float]]:
    """Return label, metric and value; a metric that is undefined for a label has no row."""
    # The package wants the same labels on both sides; not every arm has every condition.
    labels = {*arm.obs[COLUMN].astype(str)}
    real = real[real.obs[COLUMN].astype(str).isin([*labels])].copy()
    targets = dict(zip(real.obs[COLUMN].astype(str), real.obs[GENE].astype(str), strict=True))
    del targets[CONTROL]
    config = cell_eval2.EvalConfig(
        metrics=METRICS,
        pert_col=COLUMN,
        control=CONTROL,
        device="cpu",
        # None: the label has no target gene to leave out.
        target_gene_map={label: gene or None for label, gene in targets.items()},
    )
    return [*cell_eval2.compute_metrics(arm, real, config=config).iter_rows()]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for each in sys.argv[1:]:
        main(Path(each))
