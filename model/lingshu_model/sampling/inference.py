"""A network prepared for sampling, without the costs that only training needs."""

import torch
from torch import nn

from lingshu_model.network import numerics
from lingshu_model.network.cell_network import Network


def make_ready(network: Network, dtype: torch.dtype, compiled: str | None = None) -> None:
    """Prepare `network` in place for sampling with products in `dtype`; it cannot train afterwards.

    Weights of products are stored in `dtype`: autocast would cast them at every call, to the same
    bits. For a long sequence, tokens are packed into groups by a table (`Network.tabulate`).

    Args:
        network: in evaluation mode.
        dtype: of the products.
        compiled: a mode of `torch.compile` for the trunk's blocks, which is another numerics
            profile; None = not compiled.
    """
    network.requires_grad_(requires_grad=False)
    if network.groups > numerics.MIDDLE:
        network.tabulate()
    for name, module in network.named_modules():
        # The readout's product stays in float32: logits decide probabilities directly.
        if isinstance(module, nn.Linear) and not name.startswith("readout"):
            module.to(dtype)
    if compiled is not None:
        for block in network.blocks:
            block.compile(mode=compiled, dynamic=False, fullgraph=True)
