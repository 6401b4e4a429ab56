"""What tools on a user's cells have in common: arguments, reading the file, what is said of it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_model.contracts.user_cells import CONTEXT, GoneError, UserCellsStore
from lingshu_tools.app import App
from lingshu_tools.calls.concise import Detail
from lingshu_tools.calls.registry import Arguments
from lingshu_tools.calls.results import Number, Truncated, View, call_text
from lingshu_tools.calls.waiting import next_wait_s
from lingshu_tools.children import State
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import Design, context_label
from lingshu_tools.tools.common import (
    CheckpointName,
    ContextArgument,
    DryRun,
    MaxSeconds,
    Seed,
    Tags,
    WaitS,
)
from lingshu_tools.tools.context_argument import CONTEXT_SCHEMA, context_fields, context_map
from lingshu_tools.user_cells import ReadCells, Request, read

MOST_PERTURBED = 5_000
"""Cells of a user that one perturbation takes; moving them takes about 20 ms each."""
# Share of a cell's UMI below which a caveat says so; Pearson of mean levels below which no
# trained context resembles the cells; names of genes in a detailed result.
WHOLE_SHARE = 0.9
ALIKE = 0.7
NAMES = 200
TRAINED_ON = (
    "your file is one of those that {checkpoint} was trained and evaluated on: these cells may be "
    "among its training cells, so that a good fit is no test of it"
)

FILE = "h5ad of your unperturbed cells, in a folder of `lingshu roots`"
UserCellsPath = Annotated[
    str | None,
    Field(
        max_length=1000,
        description=FILE,
    ),
]
CellsWhere = Annotated[
    dict[str, str] | None,
    BeforeValidator(context_map),
    PlainSerializer(context_fields, when_used="json-unless-none"),
    WithJsonSchema(CONTEXT_SCHEMA),
    Field(description='Which of them, by obs column: [{"field": "cell_type", "value": "B"}]'),
]


class UserCellsCall(Arguments):
    """Arguments of the tools that are on a user's cells alone."""

    cells: Annotated[str, Field(min_length=1, max_length=1000, description=FILE)]
    cells_where: CellsWhere = None
    context: ContextArgument = None
    n_cells: int = Field(default=64, ge=1, description="Cells; of more a random part")
    seed: Seed = 0
    checkpoint: CheckpointName = None
    tags: Tags = Field(default_factory=list[str])
    wait_s: WaitS = 4
    dry_run: DryRun = False
    max_seconds: MaxSeconds = None
    detail: Detail = "concise"


class GenesView(View):
    """Genes of a user's file against the panel; missing ones are unmeasured, not 0."""

    detail_only = frozenset({"renamed_names", "ambiguous_names", "missing_names"})

    matched: int
    renamed: int
    missing: int
    ambiguous: int
    renamed_names: dict[str, str] = Field(default_factory=dict[str, str])
    ambiguous_names: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    missing_names: list[str] = Field(default_factory=list[str])


class NearestView(View):
    """A trained context and how similar its control cells are to a user's cells."""

    context: dict[str, str]
    pearson: Number


class UserCellsView(View):
    """A user's cells: file, chosen cells, genes, the most similar trained context."""

    detail_only = frozenset({"file", "file_digest", "n_cells", "share"})

    file: str = ""
    file_digest: str = ""
    n_cells: int = 0
    genes: GenesView
    share: Number = Field(default=1, description="Of a cell's counts, held by measured genes")
    nearest: NearestView | None = None


def read_or_state(
    app: App,
    arguments: Any,
    checkpoint: Checkpoint,
    interventions: Sequence[Intervention] = (),
    *,
    most: int,
    unused: Collection[str] = (),
) -> ReadCells | State:
    """Return the cells that a call names, or how far the reading is.

    Args:
        app: the application.
        arguments: of the call: `cells`, `cells_where`, `n_cells`, `seed`.
        checkpoint: whose panel they are brought onto.
        interventions: whose effect is carried to them.
        most: cells that one call takes.
        unused: arguments that have no meaning beside `cells`.

    Raises:
        InputError: the file cannot be used, or an argument has no meaning here.
    """
    # Only what the caller set: defaults are no mistake.
    given = sorted(arguments.model_fields_set & set(unused))
    if given:
        message = (
            f"{', '.join(given)} has no use beside cells=…: the cells of the file are what is "
            "experimented on; leave it out"
        )
        raise InputError(message)
    if arguments.n_cells > most:
        message = (
            f"n_cells={arguments.n_cells:,}: one call takes at most {most:,} of a user's cells"
        )
        raise InputError(message)
    if getattr(app.engine, "remote", False):
        message = (
            "the engine is on another machine (LINGSHU_ENGINE_URL), and cells of a user stay on "
            "this one: unset LINGSHU_ENGINE_URL to compute here"
        )
        raise InputError(message)
    # All that decides which cells these are; equal requests share one reading.
    request = Request(
        file=arguments.cells,
        where=dict(arguments.cells_where or {}),
        n_cells=arguments.n_cells,
        seed=arguments.seed,
        interventions=interventions,
    )
    return read(app, checkpoint, request)


def context_of(cells: ReadCells) -> dict[str, str]:
    """Return the context that stands for a user's cells."""
    return {CONTEXT: cells.label}


def require_network(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint without a network, which scoring and completing need.

    Raises:
        InputError: it has none.
    """
    # By its files: weights are not read here.
    if not any(name.startswith("model") for name in checkpoint.pinned):
        message = (
            f"{checkpoint.name!r} has effects and no network of cells, which this needs: name a "
            "checkpoint that was trained with the recipe `default` or `paper`"
        )
        raise InputError(message)


def nearest_contexts(cells: ReadCells, checkpoint: Checkpoint, n: int) -> list[dict[str, str]]:
    """Return the trained contexts with the most similar mean levels, the most similar first."""
    known = checkpoint.contexts
    # Most similar first, by Pearson's correlation of mean levels (log1p_cp10k).
    return [dict(e["context"]) for e in cells.report["nearest"] if e["context"] in known][:n]


def waiting_fields(app: App, tool: str, arguments: Arguments, state: State) -> dict[str, Any]:
    """Return the fields of a result while the file is still read."""
    given = arguments.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    again = call_text(tool, **{**given, "wait_s": next_wait_s()})
    return {
        "status": state,
        "summary": f"{given['cells']} is being read; it goes on in the background.",
        "ledger_head": str(app.ledger.head()),
        "next_step": f"{again} goes on with it.",
    }


def cells_view(
    design: Design, report: Mapping[str, Any] | None = None, *, offset: int = 0
) -> UserCellsView | None:
    """Return what is said of a design's cells; None of simulated ones.

    Args:
        design: of the experiment.
        report: of the reading, where it is at hand; it has the names of genes.
        offset: of the first names shown.
    """
    cells = design.cells
    if cells is None:
        return None
    # A request keeps numbers of genes alone; their names are in the report.
    names: dict[str, Any] = {}
    if report is not None:
        genes, end = report["genes"], offset + NAMES
        names = {
            "renamed_names": dict(list(genes["renamed"].items())[offset:end]),
            "ambiguous_names": dict(list(genes["ambiguous"].items())[offset:end]),
            "missing_names": genes["missing"][offset:end],
        }
    # None where no trained context could be compared.
    nearest = cells["nearest"]
    return UserCellsView(
        file=cells["file"],
        file_digest=cells["file_digest"],
        n_cells=design.n_cells,
        genes=GenesView(**cells["genes"], **names),
        share=cells["share"],
        nearest=NearestView(**nearest) if nearest else None,
    )


def names_left_out(report: Mapping[str, Any]) -> Truncated | None:
    """Return how many names of genes a detailed result leaves out."""
    genes = report["genes"]
    longest = max(len(genes[key]) for key in ("renamed", "ambiguous", "missing"))
    if longest <= NAMES:
        return None
    how = "the panel's genes that are measured are var['measured'] of the exported h5ad"
    return Truncated(shown=NAMES, total=longest, how_to_get_more=how)


def caveats_of(design: Design) -> list[str]:
    """Return what a reader must know of an experiment on a user's cells."""
    cells = design.cells
    if cells is None:
        return []
    nearest = cells["nearest"]
    said: list[str] = []
    # Evidence names files without their folders, by digest.
    data: Mapping[str, Any] = design.checkpoint.evidence.get("data") or {}
    if cells["file_digest"] in (data.get("files") or {}).values():
        said.append(TRAINED_ON.format(checkpoint=design.checkpoint.name))
    if cells["share"] < WHOLE_SHARE:
        said.append(
            f"the measured genes hold about {cells['share']:.0%} of a cell's counts: shown levels "
            "are relative to these genes, model_mean to all"
        )
    if nearest and nearest["pearson"] < ALIKE:
        said.append(
            f"these cells resemble no trained context (at best Pearson {nearest['pearson']:.2f} "
            f"of mean levels, {context_label(nearest['context'])}): "
            f"{'the carried effect' if cells['effect'] else 'what is said of them'} is an "
            "extrapolation"
        )
    return said


def restored(app: App, design: Design) -> bool:
    """Return whether a design's cells and effect are in the home, read again where they are not.

    Raises:
        InputError: the file gives other cells now.
    """
    cells = design.cells
    if cells is None or _stored(app, cells):
        return True
    request = Request(
        file=cells["file"],
        where=cells["where"],
        n_cells=cells["most"],
        seed=cells["seed"],
        # As they were read the first time, whatever would be chosen now.
        counts=cells["counts"],
        interventions=design.interventions if cells["effect"] else (),
    )
    result = read(app, design.checkpoint, request)
    if not isinstance(result, ReadCells):
        return False
    now = result.report
    # Another reading of the same file may differ by a version: it is no replay then.
    if (now["cells"], now["effect"]) != (cells["digest"], cells["effect"]):
        message = (
            f"{cells['file']} gives the cells {now['cells']} and the effect {now['effect']} now, "
            f"and gave {cells['digest']} and {cells['effect']}: another machine or version made "
            "them; make a new experiment"
        )
        raise InputError(message)
    return True


def _stored(app: App, cells: Mapping[str, Any]) -> bool:
    store = UserCellsStore.of(app.home)
    try:
        store.cells(cells["digest"])
        if cells["effect"]:
            store.effect(cells["effect"])
    except (GoneError, ValueError):
        return False
    return True
