"""Experiments and screens by their ids: in this home's ledger, else in the reference ledger."""

from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment, Ledger, Screen


def is_screen(name: str) -> bool:
    """Return whether an id is that of a screen; any other is taken for an experiment's."""
    return name.startswith("scr_")


def locate(workspace: Workspace, experiment_id: str) -> tuple[Ledger, Experiment]:
    """Return an experiment and the ledger it is in: this home's, else the reference ledger.

    Raises:
        NotFoundError: in neither; the nearest ids are given.
    """
    return workspace.locate(lambda ledger: ledger.experiment(experiment_id))


def locate_screen(workspace: Workspace, screen_id: str) -> tuple[Ledger, Screen]:
    """Return a screen and the ledger it is in: this home's, else the reference ledger.

    Raises:
        NotFoundError: in neither.
    """
    return workspace.locate(lambda ledger: ledger.screen(screen_id))
