"""The network of a checkpoint, read from safetensors files after their digests are checked."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lingshu_model.contracts import Checkpoint, CheckpointError
from lingshu_model.contracts.catalogue import OFFSETS_FORMAT
from lingshu_model.network.cell_network import Network
from lingshu_model.network.config import PRESETS
from lingshu_model.network.vocabulary import Vocabulary


def load_network(checkpoint: Checkpoint) -> tuple[Network, Vocabulary]:
    """Return the network in evaluation mode, on the CPU, and its vocabulary.

    Raises:
        CheckpointError: a file is missing, truncated or changed (its name and both digests), or
            its tensors do not fit the network that `config.json` names.
    """
    if not checkpoint.config.get("network"):
        message = f"{checkpoint.path} has no network: it was trained with the recipe `effects`"
        raise CheckpointError(message)
    vocabulary = Vocabulary.from_config(checkpoint.config, checkpoint.panel)
    config = PRESETS[checkpoint.config["network"]]
    if checkpoint.config["format"] != OFFSETS_FORMAT:
        config = config.without_offsets()
    shards = sorted(
        n for n in checkpoint.pinned if n.startswith("model") and n.endswith(".safetensors")
    )
    tensors: dict[str, torch.Tensor] = {}
    try:
        for shard in shards:
            tensors |= load_file(checkpoint.verify_file(shard))
        genes, ceiling = len(checkpoint.panel), tensors.get("ceiling")
        network = Network(config, genes, vocabulary.sizes, ceiling=ceiling)
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        message = f"{checkpoint.path}: the weights do not fit its config.json: {error}"
        raise CheckpointError(message) from error
    return network.eval(), vocabulary
