"""Recipes of a training: what a specification becomes where another recipe is asked for."""

from collections.abc import Mapping
from typing import Any, Final

from lingshu_model.network.config import PAPER_PRESETS

DEFAULT: Final = "default"
EFFECTS: Final = "effects"
PAPER: Final = "paper"
RECIPES = (DEFAULT, EFFECTS, PAPER)
STEPS, GUIDANCE, GUIDANCE_OF_CYTOKINES = 3, 2.0, 3.0
"""Of the paper's conditional sampling (supp. 7.2, eq 10)."""
_SMALLEST = "lingshu-paper-1m-s13"
_SHAPES = {"lingshu-7m-s128": "lingshu-paper-7m-s32"}
"""The paper's shape of about the size of a network with additions."""


def in_paper_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a specification changed to the paper's recipe, under another name.

    A network with additions is replaced by one of the paper's shape, the sampler by three steps
    with guidance. A specification of the recipe stays as it is.
    """
    if values.get("recipe") == PAPER:
        return dict(values)
    kinds = [(source.get("perturbation") or {}).get("kind") for source in values["sources"]]
    guidance = GUIDANCE_OF_CYTOKINES if "cytokine" in kinds else GUIDANCE
    network = values.get("network") or ""
    sampler = {**(values.get("sampler") or {}), "schedule": "cosine", "steps": STEPS}
    return {
        **values,
        # Another run than the default one: its state and its checkpoint stay.
        "name": f"{values['name'][:58]}-paper",
        "recipe": PAPER,
        "delivery": "auto",
        "network": network if network in PAPER_PRESETS else _SHAPES.get(network, _SMALLEST),
        "shams": 0,
        "gene_features": 1,
        "priors": None,
        "sampler": {**sampler, "guidance": guidance},
    }
