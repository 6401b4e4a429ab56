"""What a network says of combinations before it learns anything: its tilts, in closed form.

Every gene's control frequencies are tilted by the condition's theta; nothing is sampled, and genes
do not speak to each other. What training adds to it, or takes away, is what the cells of a
checkpoint show. Knows nothing of training.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.combinations.truth import Floats, Targets, change
from lingshu_model.network import Network
from lingshu_model.tokens import LOWER_EDGES
from lingshu_model.train import build, data
from lingshu_model.train.cells import Condition, controls
from lingshu_model.train.expression import LEVELS
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.tilt import frequency
from lingshu_model.wire import Intervention


def tilted(
    spec: TrainingSpec, folder: Path, wanted: Iterable[Targets]
) -> tuple[dict[Targets, Floats], build.Birth]:
    """Return the changes of the conditions `wanted` and what the network was born from."""
    birth = build.Birth(spec.model_copy(update={"shams": 0}), data.read_cells(spec, folder))
    network = birth.network()
    context, control = next(iter(controls(birth.cells).items()))
    base = frequency(birth.cells, control)
    kind = birth.config["kinds"][0]

    def theta(targets: Targets) -> Floats:
        done = tuple(Intervention(kind=kind, target=target) for target in sorted(targets))
        return _theta(network, birth, Condition(context, done))

    rest = shares_of(base, np.zeros(len(base)))
    return {c: change(shares_of(base, theta(c)), rest) for c in wanted}, birth


def _theta(network: Network, birth: build.Birth, condition: Condition) -> Floats:
    named = birth.vocabulary.conditions(dict(condition.context), condition.interventions)
    if network.tilt is None:
        raise ValueError(f"the network {birth.spec.network!r} has no tilts")
    with torch.inference_mode():
        return network.tilt.of(named, network.prefix.gene_features)[0].double().numpy()


def shares_of(base: Floats, theta: Floats) -> Floats:
    """Return shares of mean counts where the frequencies `base` [genes, 281] are tilted."""
    width = int(np.flatnonzero(base.any(axis=0)).max()) + 1
    odds = theta[:, None] * LEVELS[:width]
    # Held under 1 so that no gene overflows; only ratios matter.
    odds -= np.where(base[:, :width] > 0, odds, -np.inf).max(axis=1, keepdims=True)
    weight = base[:, :width] * np.exp(np.minimum(odds, 0))
    mean = weight @ LOWER_EDGES[:width] / weight.sum(axis=1)
    return mean / mean.sum()
