"""The plain reference sampler, kept to be compared with: the textbook algorithm, without tricks.

Float32; every step runs the whole network in each branch, the first step too; logits of all genes
over the whole vocabulary; Gumbel noise in float64 for every one of them, of which only the genes to
be revealed are kept. Same distribution as `lingshu_model.sampling.sampler`, other draws.
"""

import torch
from torch import Tensor

from lingshu_model.contracts import ArmRequest
from lingshu_model.network.cell_network import Network
from lingshu_model.network.tokens import MASK, VOCABULARY
from lingshu_model.network.vocabulary import Vocabulary
from lingshu_model.sampling.schedule import reveal_counts


@torch.inference_mode()
def sample(
    network: Network,
    vocabulary: Vocabulary,
    arm: ArmRequest,
    schedule: str,
    cells: int,
    generator: torch.Generator,
) -> Tensor:
    """Return tokens int64 [cells, genes]; every gene is measured, nothing clamped."""
    genes, device = network.genes, network.norm.device
    condition = vocabulary.conditions(arm.context, arm.interventions).to(device).expand(cells)
    control = vocabulary.conditions(arm.context, ()).to(device).expand(cells)
    current = torch.full((cells, genes), MASK, device=device)
    draw = {"generator": generator, "device": device}
    order = torch.rand(cells, genes, **draw).argsort(dim=1)
    first = 0
    for count in reveal_counts(genes, arm.steps, schedule):
        logits = wide(network, network(current, condition))
        if arm.guidance:
            base = wide(network, network(current, control))
            logits = (base + (arm.guidance + 1) * (logits - base)).nan_to_num_(nan=-torch.inf)
        noise = torch.rand(logits.shape, dtype=torch.float64, **draw).log_().neg_().log_().neg_()
        drawn = (logits.double() + noise).argmax(dim=-1)
        revealed = order[:, first : first + count]
        current.scatter_(1, revealed, drawn.gather(1, revealed))
        first += int(count)
    return current


def wide(network: Network, hidden: Tensor) -> Tensor:
    """Return float32 logits [cells, genes, 281], -inf above each gene's largest token."""
    buckets = list(network.readout)
    if len(buckets) == 1 and buckets[0].width == VOCABULARY:
        return network.readout.of_bucket(buckets[0], hidden)
    out = torch.full((*hidden.shape[:2], VOCABULARY), -torch.inf, device=hidden.device)
    for bucket in buckets:
        out[:, bucket.genes, : bucket.width] = network.readout.of_bucket(
            bucket, hidden[:, bucket.genes]
        )
    return out
