"""Checkpoints of the user's own: kept in the home, packed for others, trained from Python."""

from lingshu_tools.training.child import Inspection, Trained, inspect, train
from lingshu_tools.training.kept import (
    Kept,
    add,
    damaged,
    holds_training_cells,
    kept,
    remove,
    verify,
)
from lingshu_tools.training.packs import pack

__all__ = [
    "Inspection",
    "Kept",
    "Trained",
    "add",
    "damaged",
    "holds_training_cells",
    "inspect",
    "kept",
    "pack",
    "remove",
    "train",
    "verify",
]
