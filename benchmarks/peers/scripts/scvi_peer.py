"""scVI: negative binomial VAE; data set, cell type and perturbation given to the decoder.

Two ways to make a condition's cells, from one trained model; neither encodes a held-out cell:

- `scvi`: the latents of training cells of the same condition (drawn with replacement, one draw from
  the posterior each) are decoded under that condition with the cells' own library sizes, and counts
  are drawn. A condition never trained on takes the control training cells of its data set and cell
  type, and is decoded under its own labels.
- `scvi-prior`: latents from the standard normal, decoded in the same way; library sizes as above.

The encoder sees counts and the data set, not the other labels (`encode_covariates=False`). Genes
that a data set does not measure are 0 in its cells, as scVI has no mask; its decoder is given the
data set. Genes counted in fewer than 3 training cells are left out and 0 in its cells.

Early stopping watches the validation ELBO once the KL term has its whole weight (`--warmup`):
before that the ELBO only worsens. scVI's own warm-up of 400 epochs outlasts any run here.
"""

import anndata
import numpy as np
import scvi
import torch
from common import Wanted, Work, begin, templates

COVARIATES = ("cell_type", "perturbation")
BATCH = 256
FEWEST = 3


def main() -> None:
    work = begin(
        epochs=400, warmup=20, patience=15, hidden=128, latent=30, layers=2, batch=128, lr=1e-3
    )
    scvi.settings.seed = work.seed
    adata = work.cells()
    trained = adata.X[~adata.obs["validation"].to_numpy(bool)]
    kept = np.bincount(trained.indices, minlength=adata.n_vars) >= FEWEST
    adata = adata[:, kept].copy()
    with work.clock("training_seconds"):
        model = train(adata, work)
    with work.clock("sampling_seconds"):
        n = sum(sample(model, adata, kept, wanted, work) for wanted in work.wanted())
    work.notes["cells_per_second"] = n / work.notes["sampling_seconds"]
    work.notes["genes_modelled"] = int(kept.sum())
    work.finish(["scvi", "scvi-prior"], "scvi-tools", "torch", "numpy", "anndata")


def train(adata: anndata.AnnData, work: Work) -> scvi.model.SCVI:
    """Return the trained model; it is that of the last epoch, as scVI does."""
    scvi.model.SCVI.setup_anndata(
        adata, batch_key="dataset", categorical_covariate_keys=list(COVARIATES)
    )
    options = work.options
    model = scvi.model.SCVI(
        adata,
        n_hidden=options.hidden,
        n_latent=options.latent,
        n_layers=options.layers,
        gene_likelihood="nb",
    )
    validation = adata.obs["validation"].to_numpy(bool)
    model.train(
        max_epochs=options.epochs,
        accelerator="cpu",
        batch_size=options.batch,
        early_stopping=True,
        early_stopping_patience=options.patience,
        early_stopping_warmup_epochs=options.warmup,
        early_stopping_monitor="elbo_validation",
        check_val_every_n_epoch=1,
        plan_kwargs={"lr": options.lr, "n_epochs_kl_warmup": options.warmup},
        datasplitter_kwargs={
            "external_indexing": [np.flatnonzero(~validation), np.flatnonzero(validation)]
        },
        enable_progress_bar=False,
    )
    history = model.history["elbo_validation"].to_numpy(float).ravel()
    work.notes |= {
        "training_cells": int((~validation).sum()),
        "epochs": len(history),
        "last_validation_elbo": float(history[-1]),
        "best_validation_elbo": float(history[-options.patience :].min()),
        "parameters": sum(p.numel() for p in model.module.parameters()),
    }
    return model


def sample(
    model: scvi.model.SCVI, adata: anndata.AnnData, kept: np.ndarray, wanted: Wanted, work: Work
) -> int:
    """Leave both kinds of cells of one condition; return how many were drawn."""
    generator = work.generator(wanted)
    torch.manual_seed(int(generator.integers(2**31)))
    shape = (wanted.n_cells, work.options.latent)
    prior = generator.standard_normal(shape).astype(np.float32)
    rows = generator.choice(templates(adata.obs, wanted), wanted.n_cells)
    latent = model.get_latent_representation(adata, indices=rows, give_mean=False, batch_size=BATCH)
    library = np.log(np.asarray(adata.X[rows].sum(axis=1), np.float32))
    for folder, z in (("scvi", latent), ("scvi-prior", prior)):
        counts = np.zeros((wanted.n_cells, len(kept)), np.int32)
        counts[:, kept] = draw(model, z, library, wanted)
        work.leave(folder, wanted.condition, counts)
    return 2 * wanted.n_cells


@torch.inference_mode()
def draw(
    model: scvi.model.SCVI, latent: np.ndarray, library: np.ndarray, wanted: Wanted
) -> np.ndarray:
    """Return int32 [cells, genes]: counts drawn from the decoder under a condition's labels."""
    batch, covariates = labels(model, wanted)
    parts: list[np.ndarray] = []
    for start in range(0, len(latent), BATCH):
        z, size = (torch.as_tensor(a[start : start + BATCH]) for a in (latent, library))
        decoded = model.module.generative(
            z=z,
            library=size,
            batch_index=torch.full((len(z), 1), batch),
            cat_covs=torch.tensor([covariates]).repeat(len(z), 1),
        )
        parts.append(decoded["px"].sample().numpy().astype(np.int32))
    return np.concatenate(parts)


def labels(model: scvi.model.SCVI, wanted: Wanted) -> tuple[int, list[int]]:
    """Return the codes by which the trained model knows a condition's data set and covariates."""
    batches = model.adata_manager.get_state_registry("batch").categorical_mapping
    known = model.adata_manager.get_state_registry("extra_categorical_covs").mappings
    codes = [list(known[name]).index(getattr(wanted, name)) for name in COVARIATES]
    return list(batches).index(wanted.dataset), codes


if __name__ == "__main__":
    main()
