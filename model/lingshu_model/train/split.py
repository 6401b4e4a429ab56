"""`python -m lingshu_model.train.split SPEC --data DIR --out DIR`: the parts as h5ad files.

For other models, to compare them on equal terms: they are trained on `train.h5ad`, tuned on
`validation.h5ad`, and sample as many cells of each condition as `wanted.json` says. Their cells are
compared with `test.h5ad` and `unseen.h5ad`.
"""

import json
from functools import partial
from pathlib import Path

import anndata
import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lingshu_model.train.data.cells import Condition, TrainingCells
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.data.sources import split as split_cells
from lingshu_model.train.spec import TrainingSpec

CONTROL = "control"


@click.command(context_settings={"show_default": True})
@click.argument("spec_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default="../shared/data")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write.")
def main(spec_file: Path, data_dir: Path, out: Path) -> None:
    """Write the parts of SPEC_FILE's cells into OUT."""
    spec = TrainingSpec.read(spec_file)
    cells = read_cells(spec, data_dir, note=partial(click.echo, err=True))
    parts = split_cells(cells, spec)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation", "test", "unseen"):
        part = cells.take(getattr(parts, name))
        as_anndata(part).write_h5ad(out / f"{name}.h5ad", compression="gzip")
        click.echo(f"{name}: {len(part)} cells")
    held = np.concatenate([parts.test, parts.unseen])
    (out / "wanted.json").write_text(json.dumps(wanted(cells, held), indent=1) + "\n", "utf-8")


def as_anndata(cells: TrainingCells) -> anndata.AnnData:
    """Return cells with their counts, condition, context fields and perturbation.

    `varm["measured"]` says which genes each source measures, `obs["source"]` which is a cell's.
    """
    labels = [cells.conditions[i] for i in cells.condition]
    obs = pd.DataFrame([{"condition": condition_name(c), **_row(c)} for c in labels])
    obs["source"] = cells.source.astype(str)
    obs.index = pd.Index([f"cell-{i}" for i in range(len(cells))])
    var = pd.DataFrame(index=pd.Index(cells.panel))
    adata = anndata.AnnData(cells.umi(), obs.astype("category"), var)
    adata.varm["measured"] = cells.measured.T.copy()
    return adata


def condition_name(condition: Condition) -> str:
    """Return a name for a condition that may be a file's: letters, digits, `.`, `_`, `+`, `-`."""
    row = _row(condition)
    context = [value for _, value in condition.context]
    words = "__".join([*context, row["perturbation"]])
    return "".join(c if c.isalnum() or c in "._+-" else "-" for c in words)


def wanted(cells: TrainingCells, held: NDArray[np.int64]) -> dict[str, dict[str, str | int]]:
    """Return by condition name its context, perturbation and how many of `held` are its cells."""
    chosen = cells.take(held)
    return {
        condition_name(c): {**_row(c), "n_cells": len(rows)}
        for i, c in enumerate(cells.conditions)
        if len(rows := chosen.rows(i))
    }


def _row(condition: Condition) -> dict[str, str]:
    targets = "+".join(i.target for i in condition.interventions)
    return {**dict(condition.context), "perturbation": targets or CONTROL}


if __name__ == "__main__":
    main()
