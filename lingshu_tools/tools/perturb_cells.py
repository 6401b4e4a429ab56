"""perturb_cells: a perturbation in a context, against its own paired control.

Knows nothing of screens, which run it many times.
"""

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.registry import Arguments
from lingshu_tools.results import Result
from lingshu_tools.tools.common import (
    CheckpointName,
    ContextArgument,
    DryRun,
    FirstCell,
    GeneEffect,
    InterventionArgument,
    Magnitude,
    NCells,
    Seed,
    TargetCheck,
    WaitS,
)


class PerturbCells(Arguments):
    """Arguments of perturb_cells."""

    interventions: list[InterventionArgument] = Field(
        min_length=1,
        max_length=16,
        description='What is done, e.g. [{"kind": "knockout", "target": "STAT1"}]; order is free',
    )
    context: ContextArgument = None
    n_cells: NCells = 256
    seed: Seed = 0
    first_cell: FirstCell = 0
    checkpoint: CheckpointName = None
    genes: list[str] | None = Field(
        default=None, max_length=100, description="Show these genes instead of the strongest"
    )
    top: int = Field(default=20, ge=1, le=200, description="Strongest genes to show, 1 to 200")
    wait_s: WaitS = 4
    dry_run: DryRun = False


class PerturbResult(Result):
    """The effect of a perturbation."""

    perturbation: str
    context: dict[str, str]
    n_cells: int
    magnitude: Magnitude | None = None
    target_check: list[TargetCheck] = Field(default_factory=list[TargetCheck])
    genes: list[GeneEffect] = Field(default_factory=list[GeneEffect])


def perturb_cells(app: App, asked: PerturbCells) -> PerturbResult:
    """Return the paired effect of a perturbation, or how far it is."""
    raise NotImplementedError
