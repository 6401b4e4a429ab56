"""The data sets, their labels, and which of their cells are held out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray

HELD_OUT = 0.2
"""Share of an atlas's cells that is held out, drawn cell by cell: the held-out composition varies
as that of another sample of the same size does."""
SPLIT = 41
"""Purpose of the split's stream; the seed is 0."""


@dataclass(frozen=True)
class Atlas:
    """A file on which a checkpoint is trained by one command.

    Attributes:
        file: below the folder of the data.
        types: obs column of cell types.
        donors: obs column of donors or animals.
        context: obs columns that are context fields.
        options: further words of the command.
        where: obs column to the labels that are kept; empty = all cells.
    """

    file: str
    types: str
    donors: str
    context: tuple[str, ...]
    options: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict[str, str])


ATLASES = {
    "cellxgene220": Atlas("cells/cellxgene220.h5ad", "cell_type", "donor_id", ("cell_type",)),
    "pig-airway": Atlas(
        "suite/pig_cftr_ko_airway.h5ad",
        "cell_type",
        "animal",
        ("cell_type", "animal"),
        # Knock-out and wild-type animals are populations of their own here.
        ("--perturbation", "none"),
    ),
    "kong2023-gut": Atlas("cells/kong2023_gut.h5ad", "Celltype", "donor_id", ("Celltype",)),
}
PBMC = ("zheng2017", "pbmc3k", "pbmc4k", "kang2018")
"""Data sets of the shipped checkpoint `pbmc`."""


def split_rows(n: int) -> NDArray[np.bool_]:
    """Return which of `n` cells are held out, bool [cells]."""
    generator = np.random.Generator(np.random.Philox(key=[0, SPLIT]))
    held = np.zeros(n, bool)
    held[generator.permutation(n)[: round(HELD_OUT * n)]] = True
    return held


def written_split(atlas: Atlas, data: Path, folder: Path) -> tuple[Path, Path]:
    """Return the files of training and of held-out cells, written at the first call."""
    parts = folder / "train.h5ad", folder / "test.h5ad"
    if not all(part.exists() for part in parts):
        folder.mkdir(parents=True, exist_ok=True)
        cells = anndata.read_h5ad(data / atlas.file)
        held = split_rows(cells.n_obs)
        for part, rows in zip(parts, (~held, held), strict=True):
            cells[rows].write_h5ad(part, compression="gzip")
    return parts
