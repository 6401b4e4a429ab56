"""How typical cells are of a condition, in bits per gene, and their embedding in the trunk.

The NLL bound of arXiv 2603.25240, eq 2, is the mean over k of the mean -log2 p of k hidden genes
given the others, k uniform over 1 to the number of measured genes. Hiding exactly k genes, with k
stratified over its range, estimates it without bias and with less variance than hiding each gene
with a probability. Which genes are hidden depends on (seed, cell, draw) alone: scores of a cell
under two conditions share them, so their difference has less variance than either score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingshu_model.contracts import Intervention
from lingshu_model.contracts.streams import Purpose, raw, unit_interval
from lingshu_model.network import tokens
from lingshu_model.network.conditions import Conditions
from lingshu_model.network.readout import Bucket
from lingshu_model.sampling.sampler import Sampler

DRAWS = 8
"""Strata of k, each with one pass of the network per cell."""


@dataclass(frozen=True)
class CellScores:
    """Bits per measured gene of each cell, lower is more typical.

    Attributes:
        draws: float64 [cells, draws], each an unbiased estimate within its stratum.
        clamped: int64 [cells], how many counts lay above the largest that training saw of their
            gene; they are scored as that largest.
    """

    draws: NDArray[np.float64]
    clamped: NDArray[np.int64]

    @property
    def bits(self) -> NDArray[np.float64]:
        """The estimate, bits per measured gene, [cells]."""
        return self.draws.mean(axis=1)

    @property
    def error(self) -> NDArray[np.float64]:
        """Its standard error, [cells]. It ignores the strata, so it is not too small."""
        n = self.draws.shape[1]
        return (
            self.draws.std(axis=1, ddof=1) / np.sqrt(n)
            if n > 1
            else np.full(len(self.draws), np.nan)
        )


def score_cells(
    sampler: Sampler,
    counts: NDArray[np.integer],
    measured: NDArray[np.bool_],
    context: Mapping[str, str],
    interventions: Sequence[Intervention] = (),
    *,
    seed: int = 0,
    draws: int = DRAWS,
    first_cell: int = 0,
    depth: NDArray[np.float32] | None = None,
) -> CellScores:
    """Return the NLL of cells under a condition, bits per measured gene.

    Args:
        sampler: of the checkpoint.
        counts: UMI [cells, genes], over its panel.
        measured: bool [genes]; the others are left out.
        context: every context field.
        interventions: none = control.
        seed: decides which genes are hidden.
        draws: passes per cell.
        first_cell: number of the first cell in the streams.
        depth: ln UMI [cells] that the network reads; by default over the measured genes.

    Raises:
        ValueError: counts are negative or not whole, or nothing is measured.
        ConditionError: the checkpoint has no token for the condition.
    """
    if not measured.any():
        message = "no gene of the panel is measured: there is nothing to score"
        raise ValueError(message)
    network = sampler.network
    true = torch.from_numpy(tokens.encode(counts))
    true[:, ~torch.from_numpy(measured)] = tokens.MASK
    ceiling = network.ceiling.cpu()
    above = (true > ceiling) & (true != tokens.MASK)
    clamped = torch.where(above, ceiling.expand_as(true), true)
    conditions = sampler.vocabulary.conditions(context, interventions)
    places = np.flatnonzero(measured)
    out = np.empty((len(true), draws))
    for draw in range(draws):
        for first in range(0, len(true), sampler.tile):
            rows = range(first, min(first + sampler.tile, len(true)))
            numbers = range(first_cell + rows.start, first_cell + rows.stop)
            hidden = _hidden(seed, numbers, draw, draws, places, len(measured))
            part = clamped[rows.start : rows.stop]
            if depth is None:
                deep = depth_of(counts[rows.start : rows.stop], measured)
            else:
                deep = torch.from_numpy(depth[rows.start : rows.stop])
            nats = _cost(sampler, part, hidden, conditions.expand(len(part)).at_depth(deep))
            out[rows.start : rows.stop, draw] = nats / np.log(2)
    return CellScores(out, above.sum(dim=1).numpy())


def embed_cells(
    sampler: Sampler,
    counts: NDArray[np.integer],
    measured: NDArray[np.bool_],
    context: Mapping[str, str],
    interventions: Sequence[Intervention] = (),
) -> NDArray[np.float32]:
    """Return the embedding of cells, float32 [cells, d_model]: the mean of the trunk's gene tokens.

    Arguments are those of `score_cells`; no gene is hidden.
    """
    true = torch.from_numpy(tokens.encode(counts))
    true[:, ~torch.from_numpy(measured)] = tokens.MASK
    conditions = sampler.vocabulary.conditions(context, interventions)
    parts: list[NDArray[np.float32]] = []
    for first in range(0, len(true), sampler.tile):
        part = true[first : first + sampler.tile].to(sampler.device)
        depth = depth_of(counts[first : first + sampler.tile], measured)
        conditioned = conditions.expand(len(part)).at_depth(depth).to(sampler.device)
        with torch.inference_mode(), sampler.autocast():
            parts.append(sampler.network.embed(part, conditioned).float().cpu().numpy())
    return np.concatenate(parts)


def _hidden(
    seed: int, cells: range, draw: int, draws: int, places: NDArray[np.int64], genes: int
) -> Tensor:
    """Return bool [cells, genes]: exactly k measured genes hidden, k in the draw's stratum.

    Args:
        seed: of the streams.
        cells: their numbers in the streams.
        draw: number of the stratum, 0 to draws - 1.
        draws: number of strata.
        places: measured genes, ascending.
        genes: number of genes.
    """
    hidden = np.zeros((len(cells), genes), bool)
    n = len(places)
    for row, cell in enumerate(cells):
        # One draw more than genes: the last decides where in its stratum k is.
        keys = raw(seed, cell, Purpose.SCORE + draw, genes + 1)
        within = float(unit_interval(keys[-1:])[0])
        k = min(int((draw + within) / draws * n) + 1, n)
        # The k genes with the smallest keys are a uniformly random subset.
        hidden[row, places[np.argpartition(keys[places], k - 1)[:k]]] = True
    return torch.from_numpy(hidden)


def _cost(
    sampler: Sampler, true: Tensor, hidden: Tensor, conditions: Conditions
) -> NDArray[np.float64]:
    """Return the mean nats of each cell's hidden genes, float64 [cells]."""
    device, network = sampler.device, sampler.network
    true, hidden, conditioned = true.to(device), hidden.to(device), conditions.to(device)
    with torch.inference_mode():
        with sampler.autocast():
            rows = network(true.masked_fill(hidden, tokens.MASK), conditioned)
        # float64: sums of 18,080 terms, so that their rounding is far below differences of scores.
        total = torch.zeros(len(true), dtype=torch.float64, device=device)
        for bucket in network.readout:
            total += _bucket_cost(sampler, bucket, rows, true, hidden)
        return (total / hidden.sum(dim=1)).cpu().numpy()


def _bucket_cost(
    sampler: Sampler, bucket: Bucket, rows: Tensor, true: Tensor, hidden: Tensor
) -> Tensor:
    """Return the summed nats of a bucket's hidden genes, float64 [cells]."""
    if bucket.width == 1:
        # The only value has probability 1.
        return rows.new_zeros(len(true), dtype=torch.float64)
    logits = sampler.network.readout.of_bucket(bucket, rows[:, bucket.genes])
    # MASK at unmeasured genes is no valid index; they are never hidden, so any token will do.
    target = true[:, bucket.genes].clamp(max=bucket.width - 1)
    of_target = logits.gather(-1, target[..., None])[..., 0]
    nats = (logits.logsumexp(dim=-1) - of_target).double()
    return nats.masked_fill(~hidden[:, bucket.genes], 0.0).sum(dim=1)


def depth_of(counts: NDArray[np.integer], measured: NDArray[np.bool_]) -> Tensor:
    """Return ln UMI over the measured genes, float32 [cells], at least 0."""
    total = counts[:, measured].sum(axis=1)
    return torch.from_numpy(np.log(np.maximum(total, 1)).astype(np.float32))
