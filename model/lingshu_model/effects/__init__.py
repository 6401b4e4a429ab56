"""Effects of perturbations in closed form: estimated, shrunk, carried over, delivered to cells."""

from lingshu_model.effects.combinations import (
    Range,
    Saturation,
    Together,
    fit_saturation,
    together,
)
from lingshu_model.effects.contexts import Carried, Carrier, Sources
from lingshu_model.effects.estimate import Effect, Effects
from lingshu_model.effects.features import expression_blocks, flag_block, set_block
from lingshu_model.effects.measure import Controls, Group, Measured, measure
from lingshu_model.effects.moments import Moments
from lingshu_model.effects.moved import Mover, fit_mover, largest_share
from lingshu_model.effects.shrink import (
    Mixture,
    Posterior,
    combine,
    fit_prior,
    pooled_prior,
    posterior,
)
from lingshu_model.effects.targets import Perturbed, TargetModel, Unseen

__all__ = [
    "Carried",
    "Carrier",
    "Controls",
    "Effect",
    "Effects",
    "Group",
    "Measured",
    "Mixture",
    "Moments",
    "Mover",
    "Perturbed",
    "Posterior",
    "Range",
    "Saturation",
    "Sources",
    "TargetModel",
    "Together",
    "Unseen",
    "combine",
    "expression_blocks",
    "fit_mover",
    "fit_prior",
    "fit_saturation",
    "flag_block",
    "largest_share",
    "measure",
    "pooled_prior",
    "posterior",
    "set_block",
    "together",
]
