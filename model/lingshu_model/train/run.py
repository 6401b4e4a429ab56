"""The network of a run, trained or taken from a checkpoint; effects come later (`finishing`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from lingshu_model.contracts import Checkpoint, CheckpointError
from lingshu_model.network.cell_network import Network
from lingshu_model.network.vocabulary import stack
from lingshu_model.network.weights import load_network
from lingshu_model.train import loop
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.initialisation import InitialState, run_digest

VOCABULARY = ("context_fields", "kinds", "targets", "gene_features", "depth")
"""Fields of `config.json` that describe the network's prefix values."""


@dataclass(frozen=True)
class Learned:
    """A trained network.

    Attributes:
        network: with the weights of the last step.
        weights: averaged weights by name; empty for a network from a checkpoint.
        vocabulary: the fields of `config.json` that describe its prefix values.
    """

    network: Network
    weights: Mapping[str, Tensor]
    vocabulary: Mapping[str, Any]


def learn(
    initial_state: InitialState, held_out: TrainingCells, folder: Path, accelerator: Accelerator
) -> Learned | None:
    """Train the network of `initial_state`, resuming from the state in `folder` if there is one.

    Args:
        initial_state: the specification and the training cells.
        held_out: cells with the conditions of `initial_state`, for the logged NLL; may be empty.
        folder: of the state and the log.
        accelerator: of this rank.

    Returns:
        The trained network on the main rank, None on the others.
    """
    vocabulary = initial_state.vocabulary
    network = initial_state.network().to(accelerator.device)
    # The sample is as large as the training itself needs.
    initial_state.forget_sample()

    def batches(chosen: TrainingCells) -> loop.CellBatches:
        conditions = stack(
            [vocabulary.conditions(dict(c.context), c.interventions) for c in chosen.conditions]
        )
        return loop.CellBatches.of(chosen, conditions, accelerator.device)

    average = loop.train(
        network,
        batches(initial_state.cells),
        batches(held_out) if len(held_out) else None,
        initial_state.spec,
        folder,
        run_digest(initial_state.spec, initial_state.cells, initial_state.priors),
        accelerator,
    )
    if not accelerator.is_main_process:
        return None
    return Learned(network, average, _vocabulary(initial_state.config))


def reuse(checkpoint: Checkpoint, panel: Sequence[str]) -> Learned:
    """Return the network of a checkpoint of format 1 or 2, without effect offsets.

    Control cells have no effect offset, so their network is the same in both formats.

    Raises:
        CheckpointError: it has no network, or its panel is not `panel`.
    """
    if checkpoint.panel != list(panel):
        message = (
            f"{checkpoint.path} has {len(checkpoint.panel)} genes, others than the {len(panel)} "
            "of these cells; name a checkpoint of the same panel, or train a network"
        )
        raise CheckpointError(message)
    network, _ = load_network(checkpoint)
    network.tilt = None
    return Learned(network, {}, _vocabulary(checkpoint.config))


def _vocabulary(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in VOCABULARY}
