"""STATE (arc-state) and the mean baselines it bundles, trained by its own command line.

`state tx train` on log1p_cp10k of the whole panel as `X_hvg` (`output_space=gene`). `--models` says
which: `state_sm` (34 M trainable parameters; sets of 64 cells, 4 sets a step, where the published
configuration has 128 and 16, and far fewer steps than its 400,000: a CPU's budget), `perturb_mean`
(a control cell plus the training change of its perturbation), `context_mean` (the mean perturbed
training cell). `state` are the cells of the checkpoint of the lowest validation loss, which comes
early here, `state-last` those of the last step.

A condition's cells are made from control training cells drawn with replacement, in sets of the
trained length, by the model's own `predict_step`. They are log1p_cp10k, not counts. Validation
cells are a cell type of their own to the loader, as it splits by cell type; the models do not read
it (`context_mean` reads it, and only of the training one).
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from common import CONTROL, Wanted, Work, begin, log1p_cp10k, templates

VALIDATION = "validation"
COMMAND = (
    "import torch; torch.set_float32_matmul_precision('medium'); "
    "from state.__main__ import main; main()"
)
"""`python -m state`, where a processor that multiplies bf16 does so, twice as fast."""
FOLDERS = {
    "state_sm": {"state": "best", "state-last": "final"},
    "perturb_mean": {"perturb-mean": "final"},
    "context_mean": {"context-mean": "final"},
}
"""By model: the folders of its cells, and the checkpoint that makes each."""


def main() -> None:
    work = begin(models="state_sm", steps=1000, sets=4, length=64, lr=1e-4, check_every=100)
    adata = work.cells()
    path = prepare(adata, work.options.scratch)
    for model in work.options.models.split(","):
        work.notes = {"training_cells": int((~adata.obs["validation"]).sum())}
        with work.clock("training_seconds"):
            checkpoints = train(model, path, work)
        notes = work.notes
        for folder, name in FOLDERS[model].items():
            work.notes = {**notes, "checkpoint": name}
            trained = checkpoints / f"{name}.ckpt"
            with work.clock("sampling_seconds"):
                n = sum(sample(folder, model, trained, adata, each, work) for each in work.wanted())
            work.notes["cells_per_second"] = n / work.notes["sampling_seconds"]
            work.finish([folder], "arc-state", "cell-load", "torch", "numpy", "anndata")


def prepare(adata: anndata.AnnData, scratch: Path) -> Path:
    """Write the file that the loader reads; return where."""
    values = log1p_cp10k(adata.X)
    obs = pd.DataFrame(index=adata.obs_names)
    obs["target_gene"] = adata.obs["perturbation"].astype(str)
    obs["cell_type"] = adata.obs["cell_type"].astype(str)
    obs.loc[adata.obs["validation"].to_numpy(bool), "cell_type"] = VALIDATION
    obs["gem_group"] = adata.obs["dataset"].astype(str)
    ready = anndata.AnnData(values, obs.astype("category"), adata.var[[]])
    ready.obsm["X_hvg"] = values.toarray()
    path = scratch / "cells.h5ad"
    ready.write_h5ad(path)
    return path


def train(model: str, path: Path, work: Work) -> Path:
    """Run `state tx train`; return the folder of its checkpoints."""
    options, home = work.options, path.parent / model
    split = path.with_suffix(".toml")
    split.write_text(
        f'[datasets]\ncells = "{path}"\n[training]\ncells = "train"\n'
        f'[zeroshot]\n"cells.{VALIDATION}" = "val"\n[fewshot]\n'
    )
    settings = {
        "model": model,
        "data.kwargs.toml_config_path": split,
        "data.kwargs.embed_key": "X_hvg",
        "data.kwargs.output_space": "gene",
        "data.kwargs.pert_col": "target_gene",
        "data.kwargs.cell_type_key": "cell_type",
        "data.kwargs.batch_col": "gem_group",
        "data.kwargs.control_pert": CONTROL,
        "data.kwargs.num_workers": 0,
        "data.kwargs.pin_memory": "false",
        "training.max_steps": options.steps,
        "training.val_freq": options.check_every,
        "training.ckpt_every_n_steps": options.check_every,
        "training.batch_size": options.sets,
        "training.lr": options.lr,
        "training.train_seed": work.seed,
        "model.kwargs.cell_set_len": options.length,
        "output_dir": home,
        "name": "run",
        "use_wandb": "false",
        "overwrite": "true",
    }
    command = [sys.executable, "-P", "-c", COMMAND, "tx", "train"]
    subprocess.run(
        [*command, *(f"{name}={value}" for name, value in settings.items())],
        check=True,
        env=os.environ | {"HYDRA_FULL_ERROR": "1"},
    )
    work.notes["steps"] = options.steps if model == "state_sm" else 1
    return home / "run" / "checkpoints"


def sample(
    folder: str, model: str, trained: Path, adata: anndata.AnnData, wanted: Wanted, work: Work
) -> int:
    """Leave the cells of one condition; return how many were made."""
    generator = work.generator(wanted)
    rows = generator.choice(templates(adata.obs, wanted, control=True), wanted.n_cells)
    cells = torch.from_numpy(log1p_cp10k(adata.X[rows]).toarray())
    network, codes = load(model, trained)
    parts: list[np.ndarray] = []
    with torch.inference_mode():
        for some in cells.split(work.options.length):
            predicted = network.predict_step(
                {
                    "ctrl_cell_emb": some,
                    # Read only for a control, whose prediction is the control cell itself.
                    "pert_cell_emb": some,
                    "pert_emb": codes[wanted.perturbation].float().repeat(len(some), 1),
                    "pert_name": [wanted.perturbation] * len(some),
                    "cell_type": [wanted.cell_type] * len(some),
                },
                0,
                padded=False,
            )
            parts.append(predicted["preds"].reshape(len(some), -1).numpy())
    work.leave(folder, wanted.condition, np.concatenate(parts).astype(np.float32))
    return wanted.n_cells


_LOADED: dict[Path, tuple[torch.nn.Module, dict[str, torch.Tensor]]] = {}


def load(model: str, trained: Path) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return the trained network and its codes of the perturbations."""
    if trained not in _LOADED:
        from state.tx.models.context_mean import ContextMeanPerturbationModel
        from state.tx.models.perturb_mean import PerturbMeanPerturbationModel
        from state.tx.models.state_transition import StateTransitionPerturbationModel

        kinds = {
            "state_sm": StateTransitionPerturbationModel,
            "perturb_mean": PerturbMeanPerturbationModel,
            "context_mean": ContextMeanPerturbationModel,
        }
        with torch.serialization.safe_globals(plain_parts(trained)):
            network = kinds[model].load_from_checkpoint(trained, "cpu", weights_only=True).eval()
        named = trained.parent.parent / "pert_onehot_map.pt"
        with torch.serialization.safe_globals(plain_parts(named)):
            codes = torch.load(named, weights_only=True)
        _LOADED[trained] = network, codes
    return _LOADED[trained]


def plain_parts(checkpoint: Path) -> list[Any]:
    """Return the classes in a checkpoint that loading it must allow: PyTorch's and NumPy's own.

    Raises:
        ValueError: it holds a class of another package, which loading it would run.
    """
    allowed: list[Any] = [np.dtypes.Float32DType, np.dtypes.StrDType]
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint):
        module, _, attribute = name.rpartition(".")
        if module.split(".")[0] not in ("torch", "numpy"):
            message = f"{checkpoint.name} holds {name}; only classes of torch and numpy are loaded"
            raise ValueError(message)
        allowed.append(getattr(importlib.import_module(module), attribute))
    return allowed


if __name__ == "__main__":
    main()
