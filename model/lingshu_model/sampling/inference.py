"""A network made ready to sample: what only training needs is no longer paid for at each call."""

import torch
from torch import nn

from lingshu_model.network import numerics
from lingshu_model.network.cell_network import Network


def make_ready(network: Network, dtype: torch.dtype, compiled: str | None = None) -> None:
    """Prepare `network` in place for sampling with products in `dtype`; it can train no more.

    Weights of products are stored in `dtype`: autocast would cast them at every call, to the same
    bits. A long sequence is packed by table. `compiled` is a mode of `torch.compile` for the
    trunk's blocks, or None; it is another numerics profile.
    """
    network.requires_grad_(requires_grad=False)
    if network.groups > numerics.MIDDLE:
        network.tabulate()
    for name, module in network.named_modules():
        # The readout's is the one product in float32.
        if isinstance(module, nn.Linear) and not name.startswith("readout"):
            module.to(dtype)
    if compiled is not None:
        for block in network.blocks:
            block.compile(mode=compiled, dynamic=False, fullgraph=True)
