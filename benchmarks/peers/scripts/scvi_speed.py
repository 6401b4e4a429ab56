"""How fast scVI trains and samples on made counts, beside a matrix product of the same process.

    python scvi_speed.py --genes 2000 --cells 2048 --out FILE

Writes one JSON object: cells per processor second of one thread, and the rate of a bf16 product.
Settings are those of `scvi_peer.py`. Training is timed as the difference between many epochs and
one, so that what is done once does not count; sampling is the decoder and the draw of counts.
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import scvi
import torch
from scipy import sparse

HIDDEN, LATENT, LAYERS, BATCH = 128, 30, 2, 128
SIZE, PRODUCTS = 2048, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", type=int, required=True)
    parser.add_argument("--cells", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    adata = counts_of(options.cells, options.genes)
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(
        adata, n_hidden=HIDDEN, n_latent=LATENT, n_layers=LAYERS, gene_likelihood="nb"
    )
    train(model, 1)
    training, sampling, rates = [], [], []
    for _ in range(options.rounds):
        rates.append(product())
        more = spent(lambda: train(model, 1 + options.epochs)) - spent(lambda: train(model, 1))
        training.append(options.cells * options.epochs / more)
        sampling.append(options.cells / spent(lambda: sample(model, options.cells)))
    numbers = {"training": training, "sampling": sampling, "product_flops": rates}
    medians = {name: statistics.median(each) for name, each in numbers.items()}
    options.out.write_text(json.dumps(medians) + "\n", "utf-8")


def counts_of(cells: int, genes: int) -> anndata.AnnData:
    """Return Poisson counts of uneven means, those of `benchmarks.speed.training`."""
    rng = np.random.Generator(np.random.Philox(0))
    means = np.exp(2.2 * rng.standard_normal(genes))
    means *= min(5_000, 8 * genes) / means.sum()
    return anndata.AnnData(sparse.csr_matrix(rng.poisson(means, (cells, genes)).astype(np.float32)))


def train(model: scvi.model.SCVI, epochs: int) -> None:
    """Train for some epochs on all cells."""
    model.train(
        max_epochs=epochs,
        accelerator="cpu",
        train_size=1.0,
        batch_size=BATCH,
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
    )


@torch.inference_mode()
def sample(model: scvi.model.SCVI, cells: int) -> None:
    """Draw counts of cells from the prior."""
    model.module.eval()
    for start in range(0, cells, 256):
        n = min(256, cells - start)
        decoded = model.module.generative(
            z=torch.randn(n, LATENT),
            library=torch.full((n, 1), 8.0),
            batch_index=torch.zeros(n, 1),
        )
        decoded["px"].sample().numpy().astype(np.int32)


def product() -> float:
    """Return the FLOP per second of products in bf16."""
    a = torch.randn(SIZE, SIZE).bfloat16()

    def products() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, a)

    products()
    return 2 * SIZE**3 * PRODUCTS / spent(products)


def spent(work) -> float:
    """Return the processor seconds that `work` takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
