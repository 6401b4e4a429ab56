"""What may be meant by the first letters of an argument: ids, checkpoints, genes, contexts."""

from collections.abc import Callable, Iterable, Mapping

import mcp_types as types

from lingshu_mcp.offers.registration import EFFECTS
from lingshu_model.contracts import Checkpoint
from lingshu_tools.app import App
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import context_label, resolve_checkpoint

MOST = 100
"""Values in one answer, by the protocol."""
# Experiments and screens that are offered, the newest of each ledger.
_RECENT = 100


def completed(app: App, argument: str, written: str, given: Mapping[str, str]) -> types.Completion:
    """Return what may be meant by what is written so far of an argument.

    Args:
        app: where the names are.
        argument: its name; of a resource after the resource's URI template.
        written: so far; of a list separated by commas the last part counts.
        given: other arguments.
    """
    name = argument.rpartition(" ")[2]
    before, comma, last = written.rpartition(",") if name in _LISTS else ("", "", written)
    gap = " " if comma else ""
    start = last.strip()
    source = _SOURCES.get(name)
    values = [v for v in source(app, given) if _matches(v, start)] if source else []
    if argument == f"{EFFECTS} id":
        values = [value for value in values if value.startswith("exp_")]
    shown = [f"{before}{comma}{gap}{value}" for value in values[:MOST]]
    return types.Completion(values=shown, total=len(values), has_more=len(values) > MOST)


def _matches(value: str, start: str) -> bool:
    return value.casefold().startswith(start.casefold())


def _ids(app: App, _: Mapping[str, str]) -> list[str]:
    # The reference ledger is readable in every home.
    ledgers = [app.ledger, app.reference] if app.reference else [app.ledger]
    screens = [screen.id for ledger in ledgers for screen in ledger.find_screens(limit=_RECENT)]
    pages = [ledger.find(limit=_RECENT) for ledger in ledgers]
    return [*screens, *(item.experiment.id for page in pages for item in page.items)]


def _checkpoints(app: App, _: Mapping[str, str]) -> list[str]:
    return list(app.catalogue.names())


def _genes(app: App, given: Mapping[str, str]) -> list[str]:
    return _unique(symbol for c in _chosen(app, given) for symbol in c.panel)


def _contexts(app: App, given: Mapping[str, str]) -> list[str]:
    return _unique(context_label(x) for c in _chosen(app, given) for x in c.contexts)


def _chosen(app: App, given: Mapping[str, str]) -> list[Checkpoint]:
    names = [given["checkpoint"]] if given.get("checkpoint") else app.catalogue.names()
    try:
        return [resolve_checkpoint(app, name) for name in names]
    # Half a checkpoint's name is no checkpoint yet: nothing is offered.
    except InputError:
        return []


def _unique(values: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(values))


_LISTS = ("ids", "genes")
_SOURCES: Mapping[str, Callable[[App, Mapping[str, str]], list[str]]] = {
    "id": _ids,
    "ids": _ids,
    "checkpoint": _checkpoints,
    "genes": _genes,
    "context": _contexts,
}
