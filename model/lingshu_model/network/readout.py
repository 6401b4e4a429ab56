"""Hidden vectors to logits, no wider than a gene's counts ever were.

Most genes of a transcriptome never show more than a handful of UMI, so genes are put in buckets by
their largest observed token, and only that many logits are computed: over 18,080 genes 10 on
average instead of 281. Nothing above it has any probability.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lingshu_model.network.config import NetworkConfig
from lingshu_model.network.tokens import LOWER_EDGES, VOCABULARY

WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, VOCABULARY)


class Bucket(nn.Module):
    """Genes whose largest observed tokens ask for the same number of logits.

    Attributes:
        genes: int64 [n], ascending.
        width: logits per gene; at width 1 a gene is always 0 and needs none.
        bias: learned logits [n, width], or None.
    """

    genes: Tensor
    above: Tensor

    def __init__(self, genes: Tensor, ceiling: Tensor, width: int, *, bias: bool) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("genes", genes, persistent=False)
        above = torch.arange(width) > ceiling[:, None]
        self.register_buffer("above", above, persistent=False)
        self.any_above = bool(above.any())
        self.bias = nn.Parameter(torch.zeros(len(genes), width)) if bias else None


class Readout(nn.Module):
    """Logits of tokens 0 to a gene's largest observed one.

    A hidden row holds d_gene channels and, where the network has a level path, one more: how far
    ln(1 + count) tilts the gene's counts.
    """

    levels: Tensor

    def __init__(self, config: NetworkConfig, ceiling: Tensor) -> None:
        """Sort the genes into buckets by `ceiling`, int64 [genes], the largest token of each."""
        super().__init__()
        self.levelled = config.levelled
        self.head = nn.Linear(config.d_gene, VOCABULARY, bias=False)
        self.register_buffer("levels", torch.from_numpy(LOWER_EDGES).double().log1p().float())
        widths = torch.tensor(WIDTHS)[torch.bucketize(ceiling + 1, torch.tensor(WIDTHS))]
        self.buckets = nn.ModuleList(
            Bucket(genes, ceiling[genes], int(width), bias=config.gene_bias and width > 1)
            for width in widths.unique()
            for genes in [(widths == width).nonzero()[:, 0]]
        )

    def __iter__(self) -> Iterator[Bucket]:
        return iter(cast("list[Bucket]", self.buckets))

    def of_rows(self, bucket: Bucket, hidden: Tensor, member: Tensor) -> Tensor:
        """Return float32 logits [n, width]; row i is gene `bucket.genes[member[i]]`'s."""
        return self.bounded(bucket, self._product(bucket, hidden), member)

    def of_bucket(self, bucket: Bucket, hidden: Tensor) -> Tensor:
        """Return float32 logits [batch, n, width] of all genes of a bucket, in its order."""
        logits = self._product(bucket, hidden)
        if bucket.bias is not None:
            logits = logits + bucket.bias
        return logits.masked_fill(bucket.above, -torch.inf) if bucket.any_above else logits

    def bounded(self, bucket: Bucket, logits: Tensor, member: Tensor) -> Tensor:
        """Return logits [n, width] with their genes' biases, and none above their ceilings."""
        if bucket.bias is not None:
            logits = logits + bucket.bias[member]
        return logits.masked_fill(bucket.above[member], -torch.inf) if bucket.any_above else logits

    def _product(self, bucket: Bucket, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            weight = self.head.weight[: bucket.width].float()
            if self.levelled:
                # One product for both: a pass over the logits costs more than the product does.
                weight = torch.cat([weight, self.levels[: bucket.width, None]], dim=1)
            return hidden.float() @ weight.T

    @torch.no_grad()
    def set_bias(self, values: Sequence[Sequence[float]] | Tensor) -> None:
        """Start the bias at `values`, float [genes, 281], cut to each gene's bucket."""
        table = torch.as_tensor(values)
        for bucket in self:
            if bucket.bias is not None:
                bucket.bias.copy_(table[bucket.genes, : bucket.width])
