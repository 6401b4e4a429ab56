"""Make the shipped checkpoint `k562-crispra-semisynthetic`.

    python -m benchmarks.combinations.k562_checkpoint --data DATA --out runs

The cells are semi-synthetic: the mean of every condition is that of Norman 2019 (K562, CRISPRa; 104
singles, 130 doubles, 2,000 genes), the scatter of a gene between cells is its negative binomial
size in a published K562 baseline, and genes are independent given a cell's depth. A condition has
as many cells as its published UMI are worth at `REAL_DEPTH` UMI a cell. 63 of the 126 doubles whose
two singles are known are held out: their truth, like that of all conditions, is in the `.truth.npz`
file, which `benchmarks.planning` reads. `lingshu train` with the recipe `effects` does the rest: a
network would have nothing to learn from genes that are independent.
"""

import shutil
from pathlib import Path

import click
import numpy as np

from benchmarks.combinations.make_k562 import Measured, draw, nb_sizes
from benchmarks.combinations.norman import Floats, read
from benchmarks.combinations.truth import Truth, write_cells
from lingshu_model.train.command import train

NAME = "k562-crispra-semisynthetic"
PRESET = Path("model/presets") / f"{NAME}.json"
REAL_DEPTH = 12_000.0
"""Mean UMI of a cell over all genes, of which the panel has 3 to 5 %."""
CELLS, CONTROLS = (30, 300), 3_000
"""Fewest and most cells of a perturbed condition; control cells."""


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--seed", default=0, help="Of the cells and of which doubles are held out.")
@click.option("--cells-only", is_flag=True, help="Draw cells and truth, and train nothing.")
def main(data: Path, out: Path, seed: int, *, cells_only: bool) -> None:
    """Draw the cells and train the checkpoint; OUT/NAME/checkpoint/NAME is the result."""
    folder = out / "cells"
    (folder / "priors").mkdir(parents=True, exist_ok=True)
    truth = semi_synthetic(data, folder, seed)
    doubles = [truth.of(2, trained=t) for t in (True, False)]
    click.echo(f"{len(doubles[0])} doubles to train on, {len(doubles[1])} held out")
    if cells_only:
        return
    hgnc = "priors/hgnc_complete_set.txt.gz"
    shutil.copyfile(data / hgnc, folder / hgnc)
    train(PRESET, folder, out, threads=1, epochs=None, expected=None)


def semi_synthetic(data: Path, folder: Path, seed: int) -> Truth:
    """Write the cells and the truth to `folder`, and return the truth."""
    real, sizes, truth = published_truth(data, seed)
    rng = np.random.default_rng([seed, 1])
    # Nobody reads cells of held-out doubles: their truth is known without them.
    n_cells = np.where(truth.trained, numbers(real), 0).tolist()
    counts = [draw(rng, m, sizes, n, REAL_DEPTH) for m, n in zip(real.cpm, n_cells, strict=True)]
    about = {
        "what": "semi-synthetic K562 CRISPRa: negative binomial cells around published means",
        "means": "Norman 2019, GEO GSE133344, pooled UMI counts",
        "sizes": "Katsevich-Lab/perturbplan, K562 baseline",
        "seed": seed,
        "depth": REAL_DEPTH,
    }
    write_cells(folder / f"{NAME}.h5ad", truth, counts, about)
    truth.write(folder / f"{NAME}.truth.npz")
    return truth


def published_truth(data: Path, seed: int) -> tuple[Measured, Floats, Truth]:
    """Return what was published, the genes' sizes, and the truth with what `seed` holds out."""
    published = read(data / "effects" / "norman2019_k562_crispra.npz")
    sizes = nb_sizes(data, published.genes)
    panel = np.arange(len(published.genes))
    real = Measured.of(published, panel, sizes, REAL_DEPTH, every_double=True)
    return real, sizes, real.truth(seed)


def numbers(real: Measured) -> list[int]:
    """Return how many cells each condition has, control first."""
    worth: Floats = np.clip(np.rint(real.umi / REAL_DEPTH), *CELLS)
    return [CONTROLS, *worth[1:].astype(int).tolist()]


if __name__ == "__main__":
    main()
