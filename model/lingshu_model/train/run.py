"""From a network at its birth to a checkpoint folder: trained, calibrated, written.

Knows nothing of specifications read, cells split or the command line.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from lingshu_model.contracts import Catalogue
from lingshu_model.network.cell_network import Network
from lingshu_model.network.vocabulary import stack
from lingshu_model.train import checkpoint, loop
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.effect_offsets.calibration import calibrated
from lingshu_model.train.initialisation import Birth, run_digest
from lingshu_model.train.scratch import scratch


def run(
    birth: Birth,
    held_out: TrainingCells,
    folder: Path,
    accelerator: Accelerator,
    hgnc: Path | None = None,
) -> Path | None:
    """Train what `birth` describes, going on from what `folder` holds; return the checkpoint.

    Args:
        birth: the specification and the training cells.
        held_out: cells with the conditions of `birth`, on which the bound is logged; may be none.
        folder: for the state, the log and the checkpoint.
        accelerator: of this rank; the main one writes, the others return None.
        hgnc: HGNC's complete set, for the panel's aliases and Ensembl ids; None = symbols alone.
    """
    vocabulary = birth.vocabulary
    network = birth.network().to(accelerator.device)
    birth.forget_sample()

    def batches(chosen: TrainingCells) -> loop.CellBatches:
        conditions = stack(
            [vocabulary.conditions(dict(c.context), c.interventions) for c in chosen.conditions]
        )
        return loop.CellBatches.of(chosen, conditions, accelerator.device)

    average = loop.train(
        network,
        batches(birth.cells),
        batches(held_out) if len(held_out) else None,
        birth.spec,
        folder,
        run_digest(birth.spec, birth.cells, birth.priors),
        accelerator,
    )
    return _finish(birth, network, average, folder, hgnc) if accelerator.is_main_process else None


def _finish(
    birth: Birth,
    network: Network,
    average: Mapping[str, Tensor],
    folder: Path,
    hgnc: Path | None,
) -> Path:
    """Write the checkpoint, its tilts calibrated where the spec says so; return its folder."""
    spec = birth.spec

    def write(where: Path) -> Path:
        return checkpoint.write(where, spec, birth.config, birth.cells, network, average, hgnc)

    if spec.calibration and network.tilt is not None:
        with scratch(folder, ".uncalibrated-") as place:
            write(place)
            theta = calibrated(Catalogue([place]).load(spec.name), birth, spec.calibration)
        network.tilt.theta.copy_(torch.from_numpy(theta))
    return write(folder / "checkpoint")
