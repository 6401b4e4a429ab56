"""Logits of the genes that are revealed, a few at a time, from what the network made of the cells.

Where hidden vectors are as wide as the trunk (the paper's shape), W_up and the head are one product
per slot: logits come straight from the groups' vectors, in float32, and W_up, wider than any other
product, is never run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lingshu_model.network import numerics
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions
from lingshu_model.network.readout import Bucket

Rows = Callable[[Tensor, Tensor], Tensor]
"""From (cell, place), int64 [n] each, to the rows [n, ...] of the network's result."""


@dataclass(frozen=True)
class Reading:
    """How a network's result is read.

    Attributes:
        network: with its readout.
        folded: W_up and the head in one, float32 [S, values, d_model], or None. With it, rows are
            the groups' and a row's place is its group; without, genes' and the gene.
    """

    network: Network
    folded: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, network: Network) -> "Reading":
        """Return the cheaper way of reading `network`."""
        config = network.config
        if config.levelled or network.groups <= numerics.MIDDLE:
            return cls(network, None)
        up = network.group_up.weight.float().view(config.group, config.d_gene, config.d_model)
        return cls(network, torch.einsum("vg,sgd->svd", network.readout.head.weight.float(), up))

    def result(self, current: Tensor, conditions: Conditions) -> Tensor:
        """Return what the network makes of cells: rows of groups, or of genes."""
        if self.folded is None:
            return self.network(current, conditions)
        return self.network.states(current, conditions)

    def logits(
        self, rows: Rows, bucket: Bucket, cell: Tensor, member: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 logits [k, width], and which of the n (cell, member) they are for.

        Genes are `bucket.genes[member]`; the parts are small enough for a CPU's cache.
        """
        every = torch.arange(len(cell), device=cell.device)
        if self.folded is None:
            for part in every.split(self._at_once(bucket, len(cell))):
                mine = member[part]
                hidden = rows(cell[part], bucket.genes[mine])
                yield self.network.readout.of_rows(bucket, hidden, mine), part
            return
        place = self.network.inverse[bucket.genes[member]]
        slot = place % self.network.config.group
        counts = slot.bincount(minlength=self.network.config.group).tolist()
        for weight, part in zip(self.folded, slot.argsort(stable=True).split(counts), strict=True):
            if len(part):
                group = place[part] // self.network.config.group
                hidden = rows(cell[part], group).float() @ weight[: bucket.width].T
                yield self.network.readout.bounded(bucket, hidden, member[part]), part

    def _at_once(self, bucket: Bucket, n: int) -> int:
        if bucket.genes.device.type != "cpu":
            return max(1, n)
        return max(1, numerics.LOGITS // (self.network.config.d_gene + bucket.width))
