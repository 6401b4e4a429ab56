"""Calls that can be made as they stand, for the next steps of tools that run nothing themselves."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lingshu_model.contracts import Checkpoint, CheckpointError, Intervention
from lingshu_tools.calls.results import call_text
from lingshu_tools.errors import LingshuError
from lingshu_tools.system.deadline import time_limit
from lingshu_tools.tools.context_argument import context_fields

if TYPE_CHECKING:
    from lingshu_tools.app import App

_READ_S = 1.0
"""The longest time that an example of a refused call may take to look up."""
_NAMES = 3
"""Genes in an example of find_genes."""


def example(app: "App", tool: str, arguments: Mapping[str, Any]) -> str | None:
    """Return a valid call of a tool, with names that this home has; None where it has none.

    Args:
        app: the application.
        tool: its name.
        arguments: of the call that was refused; a checkpoint that they name is kept.
    """
    wanted = arguments.get("checkpoint")
    # An error text is shown without an example if none can be had in time.
    with suppress(LingshuError, CheckpointError, OSError, StopIteration), time_limit(_READ_S):
        match tool:
            case "find_genes":
                return genes_call(_checkpoint(app, wanted))
            case "sample_cells":
                return control_call(_checkpoint(app, wanted))
            case "perturb_cells":
                return perturbation_call(_perturbed(app, wanted))
            case "plan_screen" | "run_screen":
                return screen_call(_perturbed(app, wanted), tool)
            case "propose_batch" | "record_measurements":
                return _on_screen(app, tool, arguments) or screen_call(
                    _perturbed(app, wanted), "plan_screen"
                )
            case "cancel_experiment":
                # The id of what somebody may want to go on is no example.
                return call_text("list_experiments", status="running")
            case "get_experiment" | "plot_experiment" | "export_experiment" | "replay_experiment":
                return _on_newest(app, tool)
            case "compare_experiments":
                return _on_newest_two(app, tool)
            case "list_experiments":
                return call_text(tool, limit=5)
            case _:
                return call_text("describe_model")
    return None


def _checkpoint(app: "App", wanted: object) -> Checkpoint:
    """Return the wanted checkpoint; else the first that serves as an example."""
    if isinstance(wanted, str) and wanted in app.catalogue.names():
        return app.catalogue.load(wanted)
    return exemplary([app.catalogue.load(name) for name in app.catalogue.names()])


def _perturbed(app: "App", wanted: object) -> Checkpoint:
    """Return the wanted checkpoint if it was trained on perturbations; else one that was."""
    named = _checkpoint(app, wanted)
    # One of unperturbed cells has nothing to perturb or to screen.
    return named if any(kind != "sham" for kind in named.targets) else _checkpoint(app, None)


def exemplary(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Return the first checkpoint that was trained on perturbations, without caveats if there is.

    Raises:
        StopIteration: there is no checkpoint.
    """
    # Of equals `sorted` keeps the order; a checkpoint of drawn cells is not what to begin with.
    plain_first = sorted(checkpoints, key=lambda c: bool(c.caveats))
    return next((c for c in plain_first if perturbation_call(c)), next(iter(plain_first)))


def _on_screen(app: "App", tool: str, arguments: Mapping[str, Any]) -> str | None:
    """Return a call on the screen that was named, else on the newest; None without any."""
    named = arguments.get("screen_id")
    ids = [screen.id for screen in app.ledger.find_screens(limit=1)]
    with suppress(LingshuError):
        ids = [app.ledger.screen(named).id] if isinstance(named, str) else ids
    if not ids:
        return None
    # An example of record_measurements would be values that nobody measured.
    if tool == "record_measurements":
        return call_text("get_experiment", id=ids[0])
    return call_text(tool, screen_id=ids[0])


def _on_newest(app: "App", tool: str) -> str:
    page = app.ledger.find(tool="perturb_cells", status="succeeded", limit=1)
    names = [item.experiment.id for item in page.items]
    return call_text(tool, id=names[0]) if names else call_text("list_experiments")


def _on_newest_two(app: "App", tool: str) -> str:
    page = app.ledger.find(tool="perturb_cells", status="succeeded", limit=2)
    names = [item.experiment.id for item in page.items]
    return call_text(tool, ids=names[::-1]) if names[1:] else call_text("list_experiments")


def genes_call(checkpoint: Checkpoint) -> str:
    """Return a call of find_genes: some trained targets, else some measured genes."""
    trained = {
        name for kind, names in checkpoint.targets.items() if kind != "sham" for name in names
    }
    names = [gene for gene in checkpoint.panel if gene in trained] or checkpoint.panel
    return call_text("find_genes", checkpoint=checkpoint.name, names=names[:_NAMES])


def perturbation_call(checkpoint: Checkpoint, genes: Collection[str] | None = None) -> str | None:
    """Return a call of perturb_cells on a trained and fit condition, in a context of its cells.

    Args:
        checkpoint: the checkpoint.
        genes: the targets to choose from; every trained target by default.

    Returns:
        None where no single intervention on any of them was trained and is fit.
    """
    # Without regard to case, as names of targets are resolved.
    allowed = None if genes is None else {name.casefold() for name in genes}
    for entry in checkpoint.config["seen"]:
        match entry["interventions"]:
            case [one] if one["kind"] != "sham" and (
                (allowed is None or one["target"].casefold() in allowed)
                # One that failed its fitness check would be refused.
                and not checkpoint.unfit(entry["context"], [Intervention(**one)])
            ):
                return _conditions_call("perturb_cells", checkpoint, entry["context"], [one])
            case _:
                continue
    return None


def control_call(checkpoint: Checkpoint) -> str:
    """Return a call of sample_cells for control cells of the first fit context."""
    contexts = checkpoint.contexts
    fit = next((c for c in contexts if not checkpoint.unfit(c, ())), contexts[0])
    return _conditions_call("sample_cells", checkpoint, fit, [])


def screen_call(checkpoint: Checkpoint, tool: str) -> str:
    """Return a call of a tool that screens every trained perturbation of the first context."""
    return call_text(
        tool,
        checkpoint=checkpoint.name,
        context=context_fields(checkpoint.contexts[0]),
        objective={"lower": checkpoint.panel[:1]},
        candidates=["all_seen"],
    )


def _conditions_call(
    tool: str, checkpoint: Checkpoint, context: dict[str, str], interventions: list[dict[str, Any]]
) -> str:
    fields = ("kind", "target", "dose")
    given = [
        {k: record[k] for k in fields if record.get(k) is not None} for record in interventions
    ]
    more = {"interventions": given} if given else {}
    return call_text(tool, checkpoint=checkpoint.name, context=context_fields(context), **more)
