"""Masked discrete diffusion: which genes are hidden in training, and the loss.

arXiv 2603.25240, eqs 1-2, with the linear schedule of LLaDA and MDLM. At time t each measured gene
is hidden with probability p = (1 - eps) t + eps. The loss is the cross-entropy of hidden genes with
weight 1/p, an upper bound of the negative log-likelihood (NLL) per measured gene:

    NLL <= E_t E_M [ 1/p sum_(g in M) -ln P(x_g | x outside M, condition) ] / measured genes.

Unmeasured genes are always hidden and never in the loss.
"""

import torch
from torch import Tensor

from lingshu_model.network import fused
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions
from lingshu_model.network.readout import Bucket
from lingshu_model.network.tokens import MASK

EPS = 1e-3
"""Smallest probability of being hidden; the weight 1/p is at most 1,000."""


def stratified_times(batch: int, generator: torch.Generator) -> Tensor:
    """Return `batch` times in (0, 1), one in each of `batch` equal strata, in random order.

    The loss depends strongly on the time, so strata lower its variance between batches. In random
    order, so that times do not depend on the order of the cells.
    """
    offset = torch.rand(batch, generator=generator)
    return (torch.randperm(batch, generator=generator) + offset) / batch


def hide(tokens: Tensor, measured: Tensor, times: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens with hidden genes at MASK, and bool [batch, genes] of hidden measured genes.

    Args:
        tokens: int64 [batch, genes].
        measured: bool, broadcastable to `tokens`.
        times: float [batch], in (0, 1).
        uniform: float [batch, genes], in [0, 1); a gene is hidden where it is below p(t).
    """
    probability = (1 - EPS) * times + EPS
    hidden = (uniform < probability[:, None]) & measured
    return tokens.masked_fill(hidden | ~measured, MASK), hidden


def loss(
    network: Network,
    tokens: Tensor,
    measured: Tensor,
    conditions: Conditions,
    times: Tensor,
    uniform: Tensor,
) -> Tensor:
    """Return the upper bound of the NLL, nats per measured gene, over all cells of the batch.

    Args:
        network: gives the logits.
        tokens: int64 [batch, genes].
        measured: bool, broadcastable to `tokens`.
        conditions: of the batch.
        times: float [batch], in (0, 1).
        uniform: float [batch, genes], in [0, 1).
    """
    masked, hidden = hide(tokens, measured, times, uniform)
    packed, level = network.packed(masked, conditions)
    # 1 / p of each cell, [batch].
    weight = ((1 - EPS) * times + EPS).reciprocal()
    readout = network.readout
    entries = [
        # At width 1 the only token has probability 1.
        (bucket.width, _entries(network, bucket, tokens, hidden, weight))
        for bucket in readout
        if bucket.width > 1
    ]
    rows = packed.reshape(-1, network.config.d_gene)
    nats = fused.weighted_nats(rows, level, readout.head, readout.levels, entries)
    return nats / measured.expand_as(tokens).sum()


def _entries(
    network: Network,
    bucket: Bucket,
    tokens: Tensor,
    hidden: Tensor,
    weight: Tensor,
) -> fused.Entries:
    """Return the masked genes of a bucket, in ascending order of genes, then cells.

    Args:
        network: with its packed order.
        bucket: of genes.
        tokens: int64 [batch, genes].
        hidden: bool [batch, genes], true where masked and measured.
        weight: of each cell, [batch].
    """
    member, cell = hidden[:, bucket.genes].T.nonzero(as_tuple=True)
    gene = bucket.genes[member]
    # Held-out cells may exceed the largest token of training, which has probability 0: they are
    # scored as that largest token.
    target = tokens[cell, gene].minimum(network.ceiling[gene])
    return fused.Entries(
        place=cell * (network.groups * network.config.group) + network.inverse[gene],
        number=cell * network.genes + gene,
        member=member,
        target=target,
        weight=weight[cell],
        logits=bucket.added(),
    )
