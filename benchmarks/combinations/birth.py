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
from lingshu_model.train import data
from lingshu_model.train.birth import Birth
from lingshu_model.train.cells import Condition, controls
from lingshu_model.train.expression import LEVELS
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.tilt import Laws
from lingshu_model.wire import Intervention


def tilted(
    spec: TrainingSpec, folder: Path, wanted: Iterable[Targets]
) -> tuple[dict[Targets, Floats], Birth]:
    """Return the changes of the conditions `wanted` and what the network was born from."""
    birth = Birth(spec.model_copy(update={"shams": 0}), data.read_cells(spec, folder))
    network = birth.network()
    context = next(iter(controls(birth.cells)))
    kind = birth.config["kinds"][0]

    def theta(targets: Targets) -> Floats:
        done = tuple(Intervention(kind=kind, target=target) for target in sorted(targets))
        return _theta(network, birth, Condition(context, done))

    rest = shares_of(birth.laws, np.zeros(len(birth.cells.panel)))
    return {c: change(shares_of(birth.laws, theta(c)), rest) for c in wanted}, birth


def _theta(network: Network, birth: Birth, condition: Condition) -> Floats:
    named = birth.vocabulary.conditions(dict(condition.context), condition.interventions)
    if network.tilt is None:
        raise ValueError(f"the network {birth.spec.network!r} has no tilts")
    with torch.inference_mode():
        return network.tilt.of(named, network.prefix.gene_features)[0].double().numpy()


def shares_of(laws: Laws, theta: Floats) -> Floats:
    """Return shares of mean counts where the laws of control cells are tilted by `theta`."""
    mean = np.zeros(len(theta))
    for genes, law in laws.parts:
        odds = theta[genes, None] * LEVELS[: law.shape[1]]
        # Held under 1 so that no gene overflows; only ratios matter.
        odds -= np.where(law > 0, odds, -np.inf).max(axis=1, keepdims=True)
        weight = law * np.exp(np.minimum(odds, 0))
        mean[genes] = weight @ LOWER_EDGES[: law.shape[1]] / weight.sum(axis=1)
    return mean / mean.sum()
