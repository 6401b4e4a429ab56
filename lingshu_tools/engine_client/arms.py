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

    `control` and `perturbed` share their streams; `sample_cells` has `cells` alone. Genes that are
    set beforehand (`clamp`) are set in the cells of `perturbed` or `cells`.

    Raises:
        KeyError, pydantic.ValidationError: the request is none of a simulation.
    """
    # All that decides a count, except for interventions.
    common = {name: request[name] for name in _FIELDS}
    if "mixture" in request:
        common["mixture"] = request["mixture"]["parts"]
    whole = ArmRequest.model_validate({**common, "interventions": request["interventions"]})
    cells = request.get("cells")
    if cells is not None:
        return _of_user_cells(tool, whole, cells)
    clamped = whole.model_copy(update={"clamp": dict(request.get("clamp", {}))})
    if tool == "sample_cells":
        return {"cells": clamped}
    return {"control": whole.model_copy(update={"interventions": ()}), "perturbed": clamped}


def _of_user_cells(tool: str, whole: ArmRequest, cells: Mapping[str, Any]) -> dict[str, ArmRequest]:
    """Return the arms of an experiment on a user's cells, which the request names by digest."""
    stored = whole.model_copy(update={"cells": cells["digest"]})
    # The same stored cells: as they are, moved, scored or completed.
    control = stored.model_copy(update={"interventions": ()})
    if tool == "score_cells":
        against = tuple(dict(context) for context in cells["against"])
        return {"scores": control.model_copy(update={"against": against})}
    if tool == "complete_cells":
        completed = {"complete": True, "clamp": dict(cells["clamp"])}
        return {"given": control, "cells": control.model_copy(update=completed)}
    return {"control": control, "perturbed": stored.model_copy(update={"effect": cells["effect"]})}
