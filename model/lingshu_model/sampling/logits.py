"""Logits of the genes that are revealed, a few at a time, from the network's output.

In large networks of the paper's shape (no level path, many groups), W_up and the head are folded
into one matrix per slot: logit = (head W_up) x group vector. Logits then come from the groups'
vectors in float32, and W_up, the widest product of the network, is never computed.
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
"""From (cell, place), int64 [n] each, to the rows [n, width] of the network's output."""


@dataclass(frozen=True)
class Reading:
    """How logits are computed from a network's output.

    Attributes:
        network: with its readout.
        folded: head x W_up of each slot, float32 [S, 281, d_model], or None. With it, a row of the
            output is a group's vector, and its place the group; without, a gene's and the gene.
    """

    network: Network
    folded: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, network: Network) -> "Reading":
        """Return the cheaper of the two computations for `network`."""
        config = network.config
        # The level of a gene is no product of its group's vector, so it cannot be folded in.
        if config.levelled or network.groups <= numerics.MIDDLE:
            return cls(network, None)
        # W_up [S * d_gene, d_model] by slot; d_gene is summed over.
        up = network.group_up.weight.float().view(config.group, config.d_gene, config.d_model)
        return cls(network, torch.einsum("vg,sgd->svd", network.readout.head.weight.float(), up))

    def result(self, current: Tensor, conditions: Conditions) -> Rows:
        """Return the rows of the network's output for tokens `current` [cells, genes].

        Rows are [d_gene (+ 1)], or [d_model] where W_up is folded.
        """
        if self.folded is not None:
            states = self.network.states(current, conditions)
            return lambda cell, group: states[cell, group]
        packed, level = self.network.packed(current, conditions)
        # Rows of the genes that are drawn, straight from the packed order: [cells * length, d_gene]
        # in the order of all genes would be another copy of the largest tensor.
        table, inverse = packed.view(-1, self.network.config.d_gene), self.network.inverse
        length, genes = table.shape[0] // len(current), self.network.genes

        def rows(cell: Tensor, gene: Tensor) -> Tensor:
            hidden = table.index_select(0, cell * length + inverse[gene])
            if level is None:
                return hidden
            levels = level.view(-1).index_select(0, cell * genes + gene)
            return torch.cat([hidden, levels[:, None].to(hidden.dtype)], dim=1)

        return rows

    def logits(
        self, rows: Rows, bucket: Bucket, cell: Tensor, member: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 logits [k, width] and the indices int64 [k] that they are for.

        Args:
            rows: of the network's output.
            bucket: genes of one width.
            cell: int64 [n].
            member: int64 [n]; entry i is gene `bucket.genes[member[i]]` of cell `cell[i]`.
        """
        indices = torch.arange(len(cell), device=cell.device)
        if self.folded is None:
            for part in indices.split(self._at_once(bucket, len(cell))):
                members = member[part]
                hidden = rows(cell[part], bucket.genes[members])
                yield self.network.readout.of_rows(bucket, hidden, members), part
            return
        # A gene's place in the permuted order is group * S + slot. Entries are sorted by slot, so
        # that each slot's matrix is used in one product.
        place = self.network.inverse[bucket.genes[member]]
        slot = place % self.network.config.group
        counts = slot.bincount(minlength=self.network.config.group).tolist()
        for weight, part in zip(self.folded, slot.argsort(stable=True).split(counts), strict=True):
            if len(part):
                group = place[part] // self.network.config.group
                hidden = rows(cell[part], group).float() @ weight[: bucket.width].T
                yield self.network.readout.bounded(bucket, hidden, member[part]), part

    def _at_once(self, bucket: Bucket, n: int) -> int:
        """Return how many of `n` rows are computed at a time: on a CPU, what its cache holds."""
        if bucket.genes.device.type != "cpu":
            return max(1, n)
        return max(1, numerics.LOGITS // (self.network.config.d_gene + bucket.width))
