"""What tests and benchmarks are made of: fakes, and a regulatory network whose truth is known."""

from lingshu_testing.fakes import (
    CONTEXT,
    GENES,
    N_SHAMS,
    TARGETS,
    FakeEngine,
    make_checkpoint,
)
from lingshu_testing.printed_calls import calls_in
from lingshu_testing.regulation import Regulation, Shape
from lingshu_testing.tool_calls import OF_FILES, tool_calls

__all__ = [
    "CONTEXT",
    "GENES",
    "N_SHAMS",
    "OF_FILES",
    "TARGETS",
    "FakeEngine",
    "Regulation",
    "Shape",
    "calls_in",
    "make_checkpoint",
    "tool_calls",
]
