"""Caveats of checkpoints in answers: what holds for every answer from a checkpoint is in each.

They are sentences of the checkpoint's training specification, such as that its cells are
semi-synthetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from lingshu_model.contracts import CheckpointError
from lingshu_tools.calls.results import Result
from lingshu_tools.errors import NotFoundError

if TYPE_CHECKING:
    from lingshu_tools.app import App
    from lingshu_tools.calls.registry import Arguments

R = TypeVar("R")


def with_caveats(app: App, arguments: Arguments, result: R) -> R:
    """Return a result with the caveats of the checkpoints that it is about, before its others.

    These are the checkpoint of the call, and those of the experiments and screens that the call
    or its result names. Anything but a `Result` is returned as it is.
    """
    if not isinstance(result, Result):
        return result
    said: list[str] = []
    for name in dict.fromkeys(_checkpoints(app, arguments, result)):
        with suppress(CheckpointError):  # it was removed since
            said += app.catalogue.load(name).caveats
    # A tool may have said them already.
    new = [s for s in dict.fromkeys(said) if s not in result.caveats]
    return result.model_copy(update={"caveats": [*new, *result.caveats]}) if new else result


def _checkpoints(app: App, arguments: Arguments, result: Result) -> Iterator[str]:
    # describe_model names several, or all.
    yield from (str(view.name) for view in getattr(result, "checkpoints", []))
    named = getattr(arguments, "checkpoint", None)
    if isinstance(named, str):
        yield named
    # A tool that takes a checkpoint uses the only one where none is named.
    elif hasattr(arguments, "checkpoint") and len(app.catalogue.names()) == 1:
        yield from app.catalogue.names()
    requested = [getattr(arguments, "id", None), *(getattr(arguments, "ids", None) or [])]
    for each in dict.fromkeys([*requested, result.experiment_id, result.screen_id]):
        if isinstance(each, str):
            # A refused or a foreign id: the tool has said so.
            with suppress(NotFoundError):
                yield _checkpoint_of(app, each)


def _checkpoint_of(app: App, name: str) -> str:
    if name.startswith("scr_"):
        return str(app.locate(lambda ledger: ledger.screen(name))[1].plan["checkpoint"])
    return app.locate(lambda ledger: ledger.experiment(name))[1].checkpoint
