"""Masked discrete diffusion: which genes are hidden in training, and what that costs.

arXiv 2603.25240, eqs 1-2, the linear schedule of LLaDA and MDLM: at time t each measured gene is
hidden with probability p = (1 - eps) t + eps; the loss is the cross-entropy of hidden genes
weighted 1/p, an upper bound of the negative log-likelihood per measured gene. Unmeasured genes are
always hidden and never in the loss.
"""

import torch
from torch import Tensor

from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions
from lingshu_model.network.readout import Bucket
from lingshu_model.network.tokens import MASK

EPS = 1e-3


def stratified_times(batch: int, generator: torch.Generator) -> Tensor:
    """Return `batch` times in (0, 1), one in each of `batch` equal strata, in random order."""
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
    """Return the bound in nats per measured gene, averaged over the batch."""
    masked, hidden = hide(tokens, measured, times, uniform)
    states = network(masked, conditions)
    weight = hidden / ((1 - EPS) * times + EPS)[:, None]
    nats = sum(_bucket_nats(network, bucket, states, tokens, weight) for bucket in network.readout)
    return nats / measured.expand_as(tokens).sum()


def _bucket_nats(
    network: Network, bucket: Bucket, states: Tensor, tokens: Tensor, weight: Tensor
) -> Tensor:
    """Return the weighted nats of a bucket's genes; larger counts are clipped to its largest."""
    if bucket.width == 1:
        return weight.new_zeros(())
    logits = network.readout.of_bucket(bucket, states[:, bucket.genes])
    target = tokens[:, bucket.genes].minimum(network.ceiling[bucket.genes])
    of_target = logits.gather(-1, target[..., None])[..., 0]
    return ((logits.logsumexp(dim=-1) - of_target) * weight[:, bucket.genes]).sum()
