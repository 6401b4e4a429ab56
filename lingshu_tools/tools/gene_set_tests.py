"""Gene sets that a perturbation moves: an argument of two tools, and its part of their results.

The test runs in a child process, on what the ledger row and the checkpoint give, so the same call
has the same answer on any day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lingshu_tools.calls.concise import fitting
from lingshu_tools.calls.results import Number, View, call_text, finite, text_table
from lingshu_tools.children import Answer, Task, Work
from lingshu_tools.errors import InputError, quoted
from lingshu_tools.experiments.gene_sets import SHIPPED, read_collection
from lingshu_tools.report.experiment_views import Shown
from lingshu_tools.system.deadline import remaining
from lingshu_tools.user_cells import Roots

if TYPE_CHECKING:
    from lingshu_tools.app import App

LEAST_GENES = 5
"""Measured genes of a set below which it is not tested, as in the child."""
CALLED_Q = 0.05
# The answer of an effect is held up no longer by a test beside it.
_SHORT_WAIT_S = 1.5
_LEADING = 3
"""Genes of a set that a concise result names."""
INDEPENDENT_GENES = (
    "gene sets: a rank test of a set's measured genes against the other measured genes; it takes "
    "genes as independent, so q is too small for sets whose genes vary together"
)

EnrichmentArgument = Annotated[
    str | None,
    Field(
        max_length=4096,
        description="Gene sets to test: hallmark, reactome or a .gmt file",
    ),
]


class SetView(View):
    """A gene set on the ranks of all genes' changes.

    `auc`: the chance that a gene of the set changes more than another gene; 0.5 is no difference.
    Without `q` it was not tested: fewer than 5 of its genes are measured.
    """

    detail_only = frozenset({"auc", "p"})

    gene_set: str
    measured: int
    n_genes: int
    direction: str | None = None
    mean_change: Number | None = None
    auc: Number | None = None
    p: Number | None = None
    q: Number | None = Field(default=None, description="Benjamini-Hochberg over tested sets")
    leading: list[str] = Field(default_factory=list[str], description="Genes that moved most")


class EnrichmentView(View):
    """Gene sets, the most certain first, those that cannot be tested last."""

    detail_only = frozenset({"digest", "ranked_by", "n_ranked"})

    collection: str
    digest: str = ""
    ranked_by: str = ""
    n_ranked: int = 0
    n_sets: int
    n_tested: int
    n_called: int = Field(description="Sets with q <= 0.05")
    sets: list[SetView]
    more: str | None = Field(default=None, description="How to get the other sets")


def resolve_collection(app: App, given: str) -> str:
    """Return the name of a shipped collection, or the path of a GMT file that may be read.

    Raises:
        InputError: neither, or the file is no list of gene sets.
    """
    if given.casefold() in SHIPPED:
        return given.casefold()
    if not given.endswith(".gmt"):
        message = (
            f"enrichment={quoted(given)}: give {' or '.join(SHIPPED)}, or the path of a .gmt file "
            "in a folder that `lingshu roots` lists"
        )
        raise InputError(message)
    path = str(Roots(app.home).allowed(given))
    # Read here for its errors: those of a child process come later and say less.
    read_collection(path)
    return path


def begin_enrichment(app: App, record: Shown, collection: str) -> Answer | Work:
    """Return the test of a collection on a succeeded perturbation, or the work at it.

    Raises:
        InputError: the experiment has no effect, or its numbers are not stored here.
    """
    name = record.experiment.id
    if record.experiment.tool != "perturb_cells":
        message = f"enrichment needs an effect, and {name} is of {record.experiment.tool}"
        raise InputError(message)
    kept = record.artifact_file("effects")
    if kept is None:
        message = (
            f"the effect of {name} is not stored here; {call_text('replay_experiment', id=name)} "
            "makes it again"
        )
        raise InputError(message)
    job = {
        "request": dict(record.experiment.request),
        "checkpoint": str(record.design.checkpoint.path.absolute()),
        "home": str(app.home.absolute()),
        "file": str(kept[0].absolute()),
        "digest": kept[1],
        "collection": collection,
        # Part of the job: a file that has changed since is another test.
        "collection_digest": read_collection(collection).digest,
    }
    task = Task("enrich", f"{name} {collection}", job, folder=app.home / "children")
    return app.children.begin(task)


def enrichment_fields(
    app: App,
    record: Shown,
    given: str,
    *,
    limit: int,
    offset: int = 0,
    detailed: bool = False,
    work: Answer | Work | None = None,
) -> dict[str, Any]:
    """Return the fields `enrichment`, `sentence` and `next_step` of a succeeded perturbation.

    Args:
        app: the application.
        record: the experiment.
        given: the collection, as it was asked for.
        limit: sets to show.
        offset: sets to skip.
        detailed: whether every field of a set is shown.
        work: at the test, where it was begun before.
    """
    work = work or begin_enrichment(app, record, resolve_collection(app, given))
    if isinstance(work, Work):
        work.ended.wait(remaining(_SHORT_WAIT_S))
    answer = app.children.result(work)
    name = record.experiment.id
    if not isinstance(answer, Answer):
        again = call_text("get_experiment", id=name, enrichment=given, wait_s=20)
        return {
            "enrichment": None,
            "sentence": "Gene sets are being tested.",
            "next_step": f"{again} returns the gene sets.",
        }
    rows = answer.details["sets"]
    shown = [_view(row, detailed=detailed) for row in rows[offset : offset + limit]]
    shown = fitting(shown, detailed=detailed) if app.door != "python" else shown
    # After the last page back to the first.
    after = offset + len(shown) if offset + len(shown) < len(rows) else 0
    given_again = {"id": name, "enrichment": given, "detail": "effects", "offset": after}
    how = f"showing {len(shown)} of {len(rows)}; {call_text('get_experiment', **given_again)} shows"
    view = EnrichmentView(
        collection=answer.details["collection"],
        digest=answer.details["digest"],
        ranked_by=answer.details["source"],
        n_ranked=answer.details["n_genes"],
        n_sets=len(rows),
        n_tested=sum(row["p"] is not None for row in rows),
        n_called=len(_called(rows)),
        sets=shown,
        more=f"{how} more" if len(shown) < len(rows) else None,
    )
    return {"enrichment": view, "sentence": _sentence(view, rows), "next_step": None}


def _called(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["q"] is not None and row["q"] <= CALLED_Q]


def _direction(row: dict[str, Any]) -> str | None:
    # The chance that a gene of the set ranks above another; 0.5 is neither.
    return None if row["auc"] is None else "up" if row["auc"] >= 0.5 else "down"


def _view(row: dict[str, Any], *, detailed: bool) -> SetView:
    return SetView(
        gene_set=row["gene_set"],
        measured=row["measured"],
        n_genes=row["n_genes"],
        direction=_direction(row),
        mean_change=finite(row["mean"]),
        auc=finite(row["auc"]),
        p=finite(row["p"]),
        q=finite(row["q"]),
        leading=row["leading"] if detailed else row["leading"][:_LEADING],
    )


def _sentence(view: EnrichmentView, rows: Sequence[dict[str, Any]]) -> str:
    tested = (
        f"{view.collection}: {view.n_tested} of {view.n_sets} gene sets have at least "
        f"{LEAST_GENES} measured genes"
    )
    named = [
        f"{row['gene_set']} {_direction(row)} "
        f"({row['measured']} of {row['n_genes']} genes measured)"
        for row in _called(rows)[:1]
    ]
    first = f", first {', '.join(named)}" if named else ""
    return f"{tested}; {view.n_called} with q <= {CALLED_Q:g}{first}."


def sets_table(view: EnrichmentView) -> str:
    """Return gene sets as tab-separated lines."""
    head = ("gene_set", "direction", "measured", "n_genes", "mean_change", "q")
    return text_table(head, ([getattr(row, name) for name in head] for row in view.sets))
