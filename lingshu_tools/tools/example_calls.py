"""Calls that can be made as they stand, for the next steps of tools that run nothing themselves."""

from collections.abc import Collection
from typing import Any

from lingshu_model.contracts import Checkpoint
from lingshu_tools.calls.results import call_text
from lingshu_tools.tools.context_argument import context_fields

_NAMES = 3
"""Genes in an example of find_genes."""


def genes_call(checkpoint: Checkpoint) -> str:
    """Return a call of find_genes: some trained targets, else some measured genes."""
    trained = {
        name for kind, names in checkpoint.targets.items() if kind != "sham" for name in names
    }
    names = [gene for gene in checkpoint.panel if gene in trained] or checkpoint.panel
    return call_text("find_genes", checkpoint=checkpoint.name, names=names[:_NAMES])


def perturbation_call(checkpoint: Checkpoint, genes: Collection[str] | None = None) -> str | None:
    """Return a call of perturb_cells on a trained condition, in a context it was trained in.

    Args:
        checkpoint: the checkpoint.
        genes: the targets to choose from; every trained target by default.

    Returns:
        None where no single intervention on any of them was trained.
    """
    allowed = None if genes is None else {name.casefold() for name in genes}
    for entry in checkpoint.config["seen"]:
        match entry["interventions"]:
            case [one] if one["kind"] != "sham" and (
                allowed is None or one["target"].casefold() in allowed
            ):
                return _conditions_call("perturb_cells", checkpoint, entry["context"], [one])
            case _:
                continue
    return None


def control_call(checkpoint: Checkpoint) -> str:
    """Return a call of sample_cells for control cells of the first context."""
    return _conditions_call("sample_cells", checkpoint, checkpoint.contexts[0], [])


def _conditions_call(
    tool: str, checkpoint: Checkpoint, context: dict[str, str], interventions: list[dict[str, Any]]
) -> str:
    fields = ("kind", "target", "dose")
    given = [
        {k: record[k] for k in fields if record.get(k) is not None} for record in interventions
    ]
    more = {"interventions": given} if given else {}
    return call_text(tool, checkpoint=checkpoint.name, context=context_fields(context), **more)
