"""propose_batch: the next plate of a screen, wells that are good together, with a plate map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lingshu_model.contracts import digest_json
from lingshu_tools.analysis.certainty import LEAST_LFSR
from lingshu_tools.analysis.power import NORMAL
from lingshu_tools.calls.concise import Detail
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import (
    Number,
    Result,
    View,
    call_text,
    render,
    text_table,
)
from lingshu_tools.calls.waiting import Pending
from lingshu_tools.children import Answer, State, Task, Work
from lingshu_tools.errors import InputError
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.designs import context_label, label_of
from lingshu_tools.experiments.lookup import locate_screen
from lingshu_tools.experiments.needed_cells import NEVER, CountModel, RealCells, shown_cells
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.ledger import Measurement, Screen
from lingshu_tools.planner import Plan, plan_of, rank
from lingshu_tools.planner.batch import UNCLEAR, Batch, Pool, choose
from lingshu_tools.planner.learning import averaged, value_payloads
from lingshu_tools.planner.plate import CONTROL, SHAPES, Well, plate_map
from lingshu_tools.planner.proposals import proposal_pool, simulated_pool
from lingshu_tools.report.evidence import evidence_view, screen_sentence
from lingshu_tools.report.screen_text import listed
from lingshu_tools.tools.common import WaitS, score_units
from lingshu_tools.tools.learned_batch import (
    LEARNED,
    Chosen,
    hits_sentence,
    learned_batch,
    seed_of,
)
from lingshu_tools.tools.plan_screen import in_words, recorded, support_of, weakest
from lingshu_tools.tools.plot_experiment import PLOTS_URI
from lingshu_tools.tools.unfinished_files import created_at_of, unfinished

if TYPE_CHECKING:
    from lingshu_tools.app import App

PROPOSAL = "proposal"
"""What the payload of a proposal says it is, among the measurements of a screen."""
HARDLY = 0.05
"""Hit chance below which a pick is hardly a hit by the model."""
_DIGITS = 3
REAL_CELLS = (
    "cells of control and of the perturbation each, for 80 % power at p < .001 if the objective's "
    "genes vary together: if the score is as predicted, and with the doubt about it "
    f'("{NEVER}": no number of cells of one experiment is enough)'
)


class ProposeBatch(Arguments):
    """Arguments of propose_batch."""

    screen_id: str = Field(min_length=1, max_length=80, description="A plan's id, scr_…")
    n_wells: int = Field(
        default=8, ge=1, le=384, description="Perturbations to choose: wells of one replicate"
    )
    replicates: int = Field(default=3, ge=1, le=12, description="Wells of each perturbation")
    plate: Literal["96", "384"] = Field(default="96", description="Wells of a plate")
    directions: int = Field(
        default=3,
        ge=1,
        le=20,
        description="Fewest effect directions; 1: one may fill the plate",
    )
    aim: Literal["best", "hits", "learned"] = Field(
        default="best", description="Best of plate; most hits; learned: from values"
    )
    detail: Detail = "concise"
    wait_s: WaitS = 4


class PickView(View):
    """A chosen perturbation: its score in closed form, and its effect direction."""

    detail_only = frozenset({"interval", "lfsr"})

    perturbation: str
    score: Number
    hit_chance: Number
    direction: str
    real_cells: RealCells | None = Field(
        default=None, description="Real cells a well to show score: as predicted, with doubt"
    )
    interval: list[Number] = Field(default_factory=list[float])
    lfsr: Number | None = None


class ProposalResult(Result):
    """A proposed plate."""

    detail_only = Result.detail_only | {"support", "svg", "uri"}
    concise_lists = frozenset({"picks"})

    proposal_id: str
    picks: list[PickView]
    n_directions: int
    expected_best: Number
    expected_hits: Number
    n_controls: int
    n_plates: int
    csv: str | None = Field(default=None, description="Plate map; path, null until it is drawn")
    png: str | None = None
    svg: str | None = None
    uri: str | None = None


def propose_batch(app: App, arguments: ProposeBatch) -> ProposalResult | Pending[ProposalResult]:
    """Return a plate, recorded in the ledger, and its map once it is drawn.

    Raises:
        InputError: the screen's checkpoint stores no effects, so nothing is known of its
            candidates together; or nothing has a score.
    """
    ledger, screen = locate_screen(app, arguments.screen_id)
    plan = plan_of(app, screen.plan)
    # A proposal cannot be written into the read-only ledger: the plan is recorded in this home.
    screen = recorded(app, plan) if ledger.read_only else screen
    values = value_payloads(app.ledger.measurements(screen.id))
    chosen = _chosen(app, plan, screen, arguments, values)
    pool, batch = chosen.pool, chosen.batch
    if not batch.picks:
        message = (
            f"all {len(averaged(values))} candidates of {screen.id!r} are measured; plan a screen "
            'of more, e.g. with candidates=["pairs_of all_seen"]'
        )
        raise InputError(message)
    labels = [label_of(pool.candidates[pick.place]) for pick in batch.picks]
    wells = plate_map(labels, arguments.replicates, int(arguments.plate), seed_of(plan))
    proposal = _proposal(app, screen, arguments, pool, batch, wells)
    work = _drawn(app, plan, arguments, pool, batch, wells, proposal)

    def finish() -> ProposalResult:
        return _result(app, plan, arguments, screen, proposal, chosen, values, wells, work)

    return created_at_of(work, screen.id, arguments.wait_s, finish)


def _chosen(
    app: App,
    plan: Plan,
    screen: Screen,
    arguments: ProposeBatch,
    values: Sequence[Mapping[str, Any]],
) -> Chosen:
    """Return the picks; `values` are the recordings of the screen.

    Raises:
        InputError: nothing has a score, or an argument has no use beside `aim`.
    """
    if arguments.aim == LEARNED:
        if "directions" in arguments.model_fields_set:
            message = (
                f'directions={arguments.directions} has no use beside aim="{LEARNED}", which '
                "takes the batch of record_measurements as it is; leave one out"
            )
            raise InputError(message)
        return learned_batch(app, plan, screen, values, arguments.n_wells)
    pool, measured = _pool(app, plan, screen), averaged(values)
    batch = choose(
        pool,
        arguments.n_wells,
        n_directions=arguments.directions,
        aim=arguments.aim,
        left_out=[i for i, c in enumerate(pool.candidates) if label_of(c) in measured],
    )
    return Chosen(pool, batch)


def _pool(app: App, plan: Plan, screen: Screen) -> Pool:
    seed = seed_of(plan)
    stored = plan.control.checkpoint.effects is not None
    pool = (
        proposal_pool(plan, seed)
        if stored
        else simulated_pool(rank(plan, app.ledger, candidates_of(app.ledger, screen.id)), seed)
    )
    if pool is not None:
        return pool
    run = call_text("run_screen", screen_id=screen.id)
    message = (
        f"{screen.id!r} has no candidate with a score: no gene of the objective is left beside its "
        f"own targets; plan another objective"
        if stored
        else f"{plan.control.checkpoint.name!r} stores no effects, and nothing of {screen.id!r} is "
        f"simulated yet: {run} first"
    )
    raise InputError(message)


def _proposal(
    app: App,
    screen: Screen,
    arguments: ProposeBatch,
    pool: Pool,
    batch: Batch,
    wells: Sequence[Well],
) -> Measurement:
    """Return the proposal as the ledger has it; an equal one is not recorded twice."""
    request = arguments.model_dump(exclude={"screen_id", "detail", "wait_s"})
    payload: dict[str, Any] = {
        "kind": PROPOSAL,
        "request": request,
        "picks": [
            {
                "interventions": [i.model_dump(mode="json") for i in pool.candidates[pick.place]],
                "score": round(float(pool.means[pick.place]), _DIGITS),
                "direction": pool.directions[pick.place],
            }
            for pick in batch.picks
        ],
        "wells": [[w.plate, w.name, w.label, w.replicate] for w in wells],
    }
    for known in app.ledger.measurements(screen.id):
        if known.digest == digest_json(payload):
            return known
    return app.ledger.record_measurements(screen.id, payload, principal=app.principal)


def _drawn(
    app: App,
    plan: Plan,
    arguments: ProposeBatch,
    pool: Pool,
    batch: Batch,
    wells: Sequence[Well],
    proposal: Measurement,
) -> Answer | Work:
    picked = {label_of(pool.candidates[p.place]): p.place for p in batch.picks}
    rows = [_row(well, picked, pool) for well in wells]
    job = {
        "kind": "plate",
        "name": proposal.id,
        "title": f"Proposed plate: what would {in_words(plan)}?",
        "subtitle": f"{context_label(plan.control.context)} · {plan.control.checkpoint.name} · "
        f"{len(batch.picks)} perturbations × {arguments.replicates}, "
        f"{sum(w.label == CONTROL for w in wells)} controls; colour: effect direction",
        "footnote": f"Scores are predictions, not measured.  {proposal.id}",
        "shape": list(SHAPES[int(arguments.plate)]),
        "controls": CONTROL,
        "wells": rows,
        "numbers": [_flat(row, plan.objective.units.replace(" ", "_")) for row in rows],
    }
    task = Task("plot", f"{proposal.id} plate", job, folder=app.home / "plots")
    return app.children.begin(task)


def _row(well: Well, picked: dict[str, int], pool: Pool) -> dict[str, Any]:
    place = picked.get(well.label)
    return {
        "plate": well.plate,
        "row": well.row,
        "column": well.column,
        "well": well.name,
        "label": well.label,
        "replicate": well.replicate,
        "direction": "" if place is None else pool.directions[place],
        "score": None if place is None else round(float(pool.means[place]), _DIGITS),
        "guides": 0 if place is None else _guides(pool, place),
    }


def _guides(pool: Pool, place: int) -> int:
    """Return how many genes of a well need guides, of which two each are advised."""
    kinds = ("knockout", "crispri", "crispra")
    return sum(i.kind in kinds for i in pool.candidates[place])


def _flat(row: dict[str, Any], units: str) -> dict[str, Any]:
    two = row["guides"] > 0
    return {
        "plate": row["plate"],
        "well": row["well"],
        "row": row["row"] + 1,
        "column": row["column"] + 1,
        "perturbation": row["label"],
        "replicate": row["replicate"],
        # Replicates alternate between two guides of each gene, so that one guide is no finding.
        "guide": (row["replicate"] - 1) % 2 + 1 if two else "",
        "effect_direction": row["direction"],
        f"expected_score_{units}": "" if row["score"] is None else row["score"],
    }


def _result(
    app: App,
    plan: Plan,
    arguments: ProposeBatch,
    screen: Screen,
    proposal: Measurement,
    chosen: Chosen,
    values: Sequence[Mapping[str, Any]],
    wells: Sequence[Well],
    work: Answer | Work,
) -> ProposalResult:
    tier = weakest(plan)
    pool, batch = chosen.pool, chosen.batch
    drawn = app.children.result(work)
    counts = CountModel.of(plan.control.checkpoint, plan.control.context)
    picks = [_view(plan, pool, pick.place, counts) for pick in batch.picks]
    best = batch.picks[-1].expected_best
    n_controls = sum(w.label == CONTROL for w in wells)
    n_plates = len({w.plate for w in wells})
    summary = _summary(plan, arguments, chosen, wells)
    next_step = (
        f"{call_text('run_screen', screen_id=screen.id)} simulates what is left of the screen; "
        "record_measurements takes what the lab measures."
    )
    return ProposalResult(
        status="succeeded",
        caveats=[*_caveats(arguments, chosen), *_of_values(plan, screen, arguments, pool, values)],
        **_files(arguments, drawn, summary, next_step),
        units={
            **dict.fromkeys(("score", "expected_best"), score_units(plan.objective.units)),
            "real_cells": REAL_CELLS,
        },
        support=support_of(plan),
        evidence=evidence_view(plan.control.checkpoint, tier),
        screen_id=screen.id,
        ledger_head=str(app.ledger.head()),
        proposal_id=proposal.id,
        picks=picks,
        n_directions=batch.n_directions,
        expected_best=best,
        expected_hits=batch.expected_hits,
        n_controls=n_controls,
        n_plates=n_plates,
    )


def _summary(
    plan: Plan,
    arguments: ProposeBatch,
    chosen: Chosen,
    wells: Sequence[Well],
) -> str:
    pool, batch = chosen.pool, chosen.batch
    labels = [label_of(pool.candidates[pick.place]) for pick in batch.picks]
    n_controls = sum(w.label == CONTROL for w in wells)
    n_plates = len({w.plate for w in wells})
    plates = "1 plate" if n_plates == 1 else f"{n_plates} plates"
    known = screen_sentence(plan.held_out, plan.control.checkpoint, weakest(plan))
    how = f", as record_measurements chose ({chosen.words})" if chosen.words else ""
    return (
        f"{len(labels)} perturbations to {in_words(plan)}{how}, {arguments.replicates} wells each "
        f"and {n_controls} controls on {plates}: {listed(labels, 2)}. {batch.n_directions} effect "
        f"directions; expected best {batch.picks[-1].expected_best:.2f} {plan.objective.units}, "
        f"{batch.expected_hits:.1f} expected hits (predicted score at least {pool.hit_at:.2f}). "
        f"{known}"
    )


def _files(
    arguments: ProposeBatch, drawn: Answer | State, summary: str, next_step: str
) -> dict[str, Any]:
    """Return the files, or the call that returns them; the picks are there in either case."""
    if isinstance(drawn, Answer):
        files: dict[str, Any] = {suffix: str(path) for suffix, path in drawn.paths.items()}
        uri = f"{PLOTS_URI}{drawn.paths['png'].name}"
        return files | {"uri": uri, "summary": summary, "next_step": next_step}
    given = arguments.model_dump(exclude={"wait_s"}, exclude_defaults=True)
    # Nothing of the proposal itself is at work: it is recorded, and only its files are missing.
    waiting = unfinished("propose_batch", "The plate map", drawn, given)
    state = "waits for its turn" if drawn == "queued" else "is being drawn"
    return {"summary": f"{summary} The plate map {state}.", "next_step": waiting["next_step"]}


def _of_values(
    plan: Plan,
    screen: Screen,
    arguments: ProposeBatch,
    pool: Pool,
    values: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return what measured values are to this proposal; nothing where there are none."""
    if not values:
        return []
    caveats = [hits_sentence(plan, pool, values[-1])]
    if arguments.aim != LEARNED:
        n = len(averaged(values))
        learned = call_text(
            "propose_batch", screen_id=screen.id, n_wells=arguments.n_wells, aim=LEARNED
        )
        caveats.insert(
            0,
            f"Chosen by predictions alone: {learned} uses the {n} measured values.",
        )
    return caveats


def _view(plan: Plan, pool: Pool, place: int, counts: CountModel | None) -> PickView:
    score = pool.scores[place]
    cells = None if counts is None else _real_cells(plan, pool, place, counts)
    return PickView(
        real_cells=shown_cells(cells),
        perturbation=label_of(pool.candidates[place]),
        score=float(pool.means[place]),
        hit_chance=float(pool.hit_chances[place]),
        direction=_short(pool.directions[place]),
        interval=list(score.interval),
        lfsr=max(score.lfsr, LEAST_LFSR),
    )


def _short(direction: str) -> str:
    """Return a direction's label with a kind that all its parts share named once, at the end."""
    parts = [part.split(" ") for part in direction.split(" + ")]
    kinds = {" ".join(kind) for _, *kind in parts}
    if len(kinds) > 1 or any(len(part) != 2 for part in parts):
        return direction
    return f"{' + '.join(target for target, _ in parts)} {kinds.pop()}"


def _real_cells(plan: Plan, pool: Pool, place: int, counts: CountModel) -> tuple[int, int] | None:
    """Return how many real cells of either arm would show a pick's score; None with aims.

    The variance of a score between cells is known where it is a sum over genes.
    """
    if plan.objective.aims:
        return None
    candidate, score = pool.candidates[place], pool.scores[place]
    stored = stored_effect(replace(plan.control, interventions=candidate))
    targets = {i.target for i in candidate}
    weights = plan.objective.weights(plan.control.checkpoint.panel, targets)
    if stored is None or weights is None:
        return None
    low, high = score.interval
    sd = (high - low) / (2 * NORMAL)
    return counts.cells_for_score(weights, stored.posterior.mean, score.mean, sd)


def _caveats(arguments: ProposeBatch, chosen: Chosen) -> list[str]:
    caveats: list[str] = []
    pool, batch = chosen.pool, chosen.batch
    if len(batch.picks) < arguments.n_wells:
        caveats.append(
            f"{len(batch.picks)} candidates of the screen have a score and are not measured yet, "
            f"fewer than n_wells={arguments.n_wells}: plan more, e.g. with pairs_of."
        )
    if batch.n_directions < arguments.directions and not chosen.words:
        caveats.append(
            f"Only {batch.n_directions} effect directions are known among the candidates, of the "
            f"{arguments.directions} that were to be covered."
        )
    weak = [
        p
        for p in batch.picks
        # Those without a clear direction have a caveat of theirs.
        if pool.hit_chances[p.place] < HARDLY and pool.directions[p.place] != UNCLEAR
    ]
    if weak and not chosen.words:
        caveats.append(
            f"Hit chances below {HARDLY:g}: {len(weak)} of {len(batch.picks)}, taken for their "
            "direction; directions=1 takes the best alone."
        )
    if any(pool.directions[p.place] == UNCLEAR for p in batch.picks):
        caveats.append(f"Direction {UNCLEAR!r}: the sign of no gene besides its own is supported.")
    return caveats


def _text(result: ProposalResult) -> str:
    rows = [[p.perturbation, p.score, p.hit_chance, p.direction] for p in result.picks]
    table = text_table(["perturbation", "score", "hit_chance", "direction"], rows)
    return render(result, table)


SPEC = ToolSpec(
    name="propose_batch",
    title="Propose the next plate",
    description=(
        "Choose the wells of a screen's next plate: perturbations that are good together under "
        "the joint posterior, not measured yet, over several effect directions; with replicates, "
        "controls and a plate map (CSV, PNG, SVG). Use it before a lab measures. Not for a "
        "ranking: run_screen. Needs a planned screen, run or not. Units: score in log1p_cp10k. "
        "Cost: free; the proposal is recorded. Limits: 384 perturbations, 12 replicates."
    ),
    arguments=ProposeBatch,
    result=ProposalResult,
    run=propose_batch,
    text=_text,
    read_only=False,
    in_child=True,
)
