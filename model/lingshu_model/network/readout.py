"""Hidden vectors to logits, for each gene up to its largest observed token.

Most genes of a transcriptome never have more than a handful of UMI in a cell. Genes are therefore
put in buckets by their largest observed token, and only that many logits are computed: over 18,080
genes 10 on average instead of 281. Tokens above the largest have probability 0
(docs/decisions/readout.md).
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lingshu_model.network.config import NetworkConfig
from lingshu_model.network.tokens import LOWER_EDGES, VOCABULARY

WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, VOCABULARY)
"""Logits of the buckets: few matrix products, each about twice as wide as needed at most."""


class Bucket(nn.Module):
    """Genes with the same number of logits.

    Attributes:
        genes: int64 [n], ascending.
        width: logits per gene; at width 1 a gene is always 0 and needs none.
        above: bool [n, width], tokens above the gene's largest observed one.
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

    def added(self) -> Tensor | None:
        """Return what every logit has added, [n, width]: bias, -inf above the largest token.

        None = nothing.
        """
        if not self.any_above:
            return self.bias
        if self.bias is None:
            zero = torch.zeros(self.above.shape, device=self.above.device)
            return zero.masked_fill_(self.above, -torch.inf)
        return self.bias.masked_fill(self.above, -torch.inf)


class Readout(nn.Module):
    """Logits of tokens 0 to a gene's largest observed one.

        logit_k = head_k . h + bias_gk + level ln(1 + c_k),   c_k the count of token k.

    A hidden row has d_gene channels h and, where the network has a level path, the level.
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
        """Return float32 logits [n, width].

        Args:
            bucket: of the genes.
            hidden: rows of genes, [n, d_gene (+ 1)].
            member: place of each row's gene in the bucket, int64 [n].
        """
        return self.bounded(bucket, self._product(bucket, hidden), member)

    def of_bucket(self, bucket: Bucket, hidden: Tensor) -> Tensor:
        """Return float32 logits [batch, n, width] of all genes of a bucket.

        Args:
            bucket: of the genes.
            hidden: rows of its genes in its order, [batch, n, d_gene (+ 1)].
        """
        logits = self._product(bucket, hidden)
        if bucket.bias is not None:
            logits = logits + bucket.bias
        return logits.masked_fill(bucket.above, -torch.inf) if bucket.any_above else logits

    def bounded(self, bucket: Bucket, logits: Tensor, member: Tensor) -> Tensor:
        """Return logits [n, width] with biases added, -inf above each gene's largest token."""
        if bucket.bias is not None:
            logits = logits + bucket.bias[member]
        return logits.masked_fill(bucket.above[member], -torch.inf) if bucket.any_above else logits

    def _product(self, bucket: Bucket, hidden: Tensor) -> Tensor:
        """Return head . h + level ln(1 + c), float32 [..., width]."""
        # float32: bf16 rounds a logit of 10 by up to 0.03, which is 3 % of a probability.
        with torch.autocast(hidden.device.type, enabled=False):
            weight = self.head.weight[: bucket.width].float()
            if self.levelled:
                # One product for both: another pass over the logits costs more than the product.
                weight = torch.cat([weight, self.levels[: bucket.width, None]], dim=1)
            return hidden.float() @ weight.T

    @torch.no_grad()
    def set_bias(self, values: Sequence[Sequence[float]] | Tensor) -> None:
        """Set the biases to `values`, float [genes, 281], cut to the width of each bucket."""
        table = torch.as_tensor(values)
        for bucket in self:
            if bucket.bias is not None:
                bucket.bias.copy_(table[bucket.genes, : bucket.width])
