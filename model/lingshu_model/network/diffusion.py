"""Masked discrete diffusion: which genes are hidden in training, and the loss.

arXiv 2603.25240, eqs 1-2, with the linear schedule of LLaDA and MDLM. At time t each measured gene
is hidden with probability p = (1 - eps) t + eps. The loss is the cross-entropy of hidden genes with
weight 1/p, an upper bound of the negative log-likelihood (NLL) per measured gene:

    NLL <= E_t E_M [ 1/p sum_(g in M) -ln P(x_g | x outside M, condition) ] / measured genes.

Unmeasured genes are always hidden and never in the loss.
"""

import torch
from torch import Tensor

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
    rows = network(masked, conditions)
    # 1 / p for hidden genes, 0 for others, [batch, genes].
    weight = hidden / ((1 - EPS) * times + EPS)[:, None]
    nats = sum(_bucket_nats(network, bucket, rows, tokens, weight) for bucket in network.readout)
    return nats / measured.expand_as(tokens).sum()


def _bucket_nats(
    network: Network, bucket: Bucket, rows: Tensor, tokens: Tensor, weight: Tensor
) -> Tensor:
    """Return the weighted nats of a bucket's genes, a scalar."""
    if bucket.width == 1:
        # The only token has probability 1.
        return weight.new_zeros(())
    logits = network.readout.of_bucket(bucket, rows[:, bucket.genes])
    # Held-out cells may exceed the largest token of training, which has probability 0: they are
    # scored as that largest token.
    target = tokens[:, bucket.genes].minimum(network.ceiling[bucket.genes])
    of_target = logits.gather(-1, target[..., None])[..., 0]
    return ((logits.logsumexp(dim=-1) - of_target) * weight[:, bucket.genes]).sum()
