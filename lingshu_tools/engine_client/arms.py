"""Which arms an experiment asks of the engine: they follow from the request in its row alone."""

from collections.abc import Mapping
from typing import Any

from lingshu_model.contracts import ArmRequest

_FIELDS = (
    "checkpoint",
    "checkpoint_digest",
    "context",
    "seed",
    "first_cell",
    "n_cells",
    "steps",
    "guidance",
)


def arms_of(tool: str, request: Mapping[str, Any]) -> dict[str, ArmRequest]:
    """Return the arms of a resolved request by role.

    `control` and `perturbed` share their streams; `sample_cells` has `cells` alone.

    Raises:
        KeyError, pydantic.ValidationError: the request is none of a simulation.
    """
    common = {name: request[name] for name in _FIELDS}
    whole = ArmRequest.model_validate({**common, "interventions": request["interventions"]})
    if tool == "sample_cells":
        return {"cells": whole}
    return {"control": whole.model_copy(update={"interventions": ()}), "perturbed": whole}
