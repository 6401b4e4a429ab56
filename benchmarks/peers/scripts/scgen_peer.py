"""scGen (pertpy): a VAE of log1p_cp10k and one latent shift for the stimulation.

Trained on the training cells of the data set that holds the perturbation, over the genes which that
set measures and 3 of its cells have. The shift is taken between stimulated and control training
cells of the cell types that have both; scGen balances the types by resampling. It is added to the
latents of the control training cells of the wanted type: no held-out cell is encoded. scGen decodes
one cell per cell, so wanted cells beyond those are drawn with replacement, and gives means, not
counts: its cells are log1p_cp10k. Genes left out are 0.

Only conditions of data sets with a perturbation are made. A control's cells are control training
cells encoded and decoded without a shift, as scGen decodes the others, from the latents' means: a
change between decoded and real cells would hold the decoder's smoothing. pertpy draws the cells of
the shift without a seed, so a second run differs a little.
"""

import anndata
import jax
import numpy as np
import pandas as pd
import pertpy
import scvi
from common import CONTROL, Wanted, Work, begin, log1p_cp10k, templates

FEWEST = 3


def main() -> None:
    work = begin(epochs=100, patience=25, batch=32, hidden=800, latent=100)
    scvi.settings.seed = work.seed
    whole = work.cells()
    wanted = [each for each in work.wanted() if each.perturbation != CONTROL]
    for dataset in sorted({each.dataset for each in wanted}):
        mine = [each for each in work.wanted() if each.dataset == dataset]
        predict_dataset(whole[whole.obs["dataset"] == dataset].copy(), mine, work)
    work.finish(["scgen"], "pertpy", "scvi-tools", "jax", "numpy", "anndata")


def predict_dataset(cells: anndata.AnnData, wanted: list[Wanted], work: Work) -> None:
    """Train on one data set and leave its conditions' cells."""
    trained = cells[~cells.obs["validation"].to_numpy(bool)]
    kept = np.bincount(trained.X.indices, minlength=cells.n_vars) >= FEWEST
    ready = prepare(trained, kept)
    with work.clock("training_seconds"):
        model = train(ready, work)
    work.notes |= {"genes_modelled": int(kept.sum()), "training_cells": ready.n_obs}
    # pertpy compiles anew, the weights as constants, for every set of cells that it encodes.
    with work.clock("sampling_seconds"), jax.disable_jit():
        n = sum(predict(model, ready, each, kept, work) for each in wanted)
    work.notes["cells_per_second"] = n / work.notes["sampling_seconds"]


def prepare(trained: anndata.AnnData, kept: np.ndarray) -> anndata.AnnData:
    """Return dense log1p_cp10k over the kept genes; totals are of all measured genes."""
    values = log1p_cp10k(trained.X)[:, kept].toarray()
    columns = ["cell_type", "perturbation", "dataset", "validation"]
    return anndata.AnnData(
        values, trained.obs[columns].copy(), pd.DataFrame(index=trained.var_names[kept])
    )


def train(ready: anndata.AnnData, work: Work) -> pertpy.tl.Scgen:
    """Return the trained model; a tenth of the training cells stops it early."""
    options = work.options
    pertpy.tl.Scgen.setup_anndata(ready, batch_key="perturbation", labels_key="cell_type")
    model = pertpy.tl.Scgen(ready, n_hidden=options.hidden, n_latent=options.latent)
    model.train(
        max_epochs=options.epochs,
        batch_size=options.batch,
        early_stopping=True,
        early_stopping_patience=options.patience,
        enable_progress_bar=False,
    )
    work.notes["epochs"] = model.trainer.current_epoch
    return model


def predict(
    model: pertpy.tl.Scgen, ready: anndata.AnnData, wanted: Wanted, kept: np.ndarray, work: Work
) -> int:
    """Leave the cells of one condition; return how many."""
    control = ready[templates(ready.obs, wanted, control=True)].copy()
    if wanted.perturbation == CONTROL:
        latent = model.get_latent_representation(control)
        decoded = np.asarray(model.module.as_bound().generative(latent)["px"])
    else:
        shifted, _ = model.predict(
            ctrl_key=CONTROL,
            stim_key=wanted.perturbation,
            adata_to_predict=control,
            restrict_arithmetic_to={"cell_type": shared(ready.obs, wanted.perturbation)},
        )
        decoded = np.asarray(shifted.X)
    generator = work.generator(wanted)
    values = np.zeros((wanted.n_cells, len(kept)), np.float32)
    values[:, kept] = np.maximum(decoded, 0)[generator.choice(len(decoded), wanted.n_cells)]
    work.leave("scgen", wanted.condition, values)
    return wanted.n_cells


def shared(obs: pd.DataFrame, perturbation: str) -> list[str]:
    """Return the cell types with training cells both under control and under the perturbation."""
    types = [
        set(obs["cell_type"][obs["perturbation"] == name].astype(str))
        for name in (CONTROL, perturbation)
    ]
    return sorted(types[0] & types[1])


if __name__ == "__main__":
    main()
