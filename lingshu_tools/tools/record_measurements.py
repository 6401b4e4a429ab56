"""record_measurements: wet-lab values of a screen, checked, stored, and learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import Number, Result, View, call_text, render, text_table
from lingshu_tools.errors import InputError, did_you_mean, quoted
from lingshu_tools.experiments.designs import label_of
from lingshu_tools.experiments.lookup import locate_screen
from lingshu_tools.ledger import Measurement, Screen, digest_json
from lingshu_tools.planner import Plan, plan_of
from lingshu_tools.planner.batch import Pool
from lingshu_tools.planner.candidates import Perturbation, resolve_candidate
from lingshu_tools.planner.learning import (
    SCORE_UNITS,
    VALUES,
    Comparison,
    Measured,
    Next,
    averaged,
    compared,
    threshold,
    value_payloads,
)
from lingshu_tools.planner.plate import CONTROL
from lingshu_tools.planner.rules import read_gene_sets, resolve_rule
from lingshu_tools.report.screen_text import listed
from lingshu_tools.tools.learned_batch import LEARNED, measured_pool, next_of
from lingshu_tools.tools.plan_screen import in_words, recorded

if TYPE_CHECKING:
    from lingshu_tools.app import App

Units = Literal["log1p_cp10k", "log2_fold_change", "z_score", "percent_of_control"]
LARGEST: Mapping[str, tuple[float, float]] = {
    "log1p_cp10k": (-10.0, 10.0),
    "log2_fold_change": (-30.0, 30.0),
    "z_score": (-1000.0, 1000.0),
    "percent_of_control": (0.0, 100_000.0),
}
"""What a value can be in each of the units."""
OTHER_SCREENS = 20


class ValueArgument(Arguments):
    """One well."""

    perturbation: str = Field(
        min_length=1, max_length=300, description="As in the screen's ranking; or control"
    )
    value: float = Field(description="Measured value, in units")
    replicate: int = Field(default=1, ge=1, le=1000, description="Number of the replicate")


class RecordMeasurements(Arguments):
    """Arguments of record_measurements."""

    screen_id: str = Field(min_length=1, max_length=80, description="The screen, scr_…")
    values: list[ValueArgument] = Field(
        min_length=1, max_length=5000, description="One entry for each well"
    )
    units: Units = Field(description="log1p_cp10k: the screen's own score")
    better: Literal["higher", "lower"] = Field(
        default="higher", description="Which values are wanted"
    )
    hit_at: float | None = Field(
        default=None, description="Value from which a perturbation is a hit; default: best tenth"
    )
    known_set: str | None = Field(
        default=None, max_length=200, description="Gene set of the home to try early"
    )
    n_next: int = Field(default=8, ge=1, le=384, description="Perturbations to propose next")


class NextView(View):
    """A perturbation to measure next, and the strategies that chose it."""

    perturbation: str
    strategies: list[str]
    predicted: Number


class MeasurementResult(Result):
    """What was recorded, how predictions held, and what to measure next."""

    concise_lists = frozenset({"next_batch"})

    measurement_id: str
    n_measured: int
    n_compared: int
    rank_correlation: Number | None
    coverage: Number | None
    enrichment: Number | None
    surrogate_skill: Number | None
    hits: list[str]
    next_batch: list[NextView]


def record_measurements(app: App, arguments: RecordMeasurements) -> MeasurementResult:
    """Return how predictions held and what to measure next; the values are in the ledger.

    Raises:
        InputError: a value, a unit or a perturbation that cannot be; nothing is stored.
    """
    ledger, screen = locate_screen(app, arguments.screen_id)
    plan = plan_of(app, screen.plan)
    screen = recorded(app, plan) if ledger.read_only else screen
    measurements = app.ledger.measurements(screen.id)
    known_labels = _known_genes(app, plan, arguments)
    wells = _checked(plan, arguments)
    _check_before(value_payloads(measurements), arguments, wells)
    payload: dict[str, Any] = {
        "kind": VALUES,
        "units": arguments.units,
        "better": arguments.better,
        "hit_at": arguments.hit_at,
        "values": [[label, value, replicate] for label, value, replicate in wells],
    }
    known = _recorded(measurements, payload)
    earlier = [m for m in measurements if known is None or m.seq < known.seq]
    before = value_payloads(earlier)
    measured = averaged([*before, payload])
    pool = measured_pool(app, plan, screen, measured)
    follows = next_of(
        app.ledger, screen, plan, pool, [*before, payload], arguments.n_next, known_labels
    )
    payload["next"] = {label: list(names) for label, names in follows.chosen.items()}
    row = known or app.ledger.record_measurements(screen.id, payload, principal=app.principal)
    # Scores in other units than genes' changes cannot be compared with values themselves.
    units = arguments.units if plan.objective.units == SCORE_UNITS else ""
    hit_at = threshold(arguments.hit_at, arguments.better)
    comparison = compared(pool, measured, units=units, hit_at=hit_at)
    return _result(app, screen, plan, row, pool, measured, comparison, follows)


def _checked(plan: Plan, arguments: RecordMeasurements) -> list[tuple[str, float, int]]:
    """Return wells by the labels of the screen."""
    low, high = LARGEST[arguments.units]
    if arguments.hit_at is not None and not low <= arguments.hit_at <= high:
        message = (
            f"hit_at = {arguments.hit_at:g} is no value in {arguments.units}, which are between "
            f"{low:g} and {high:g}; give it in the units of the values, or leave it out for the "
            "best tenth"
        )
        raise InputError(message)
    allowed = _allowed(plan)
    wells: list[tuple[str, float, int]] = []
    for place, well in enumerate(arguments.values):
        where = f"values[{place}]"
        if not low <= well.value <= high:
            message = (
                f"{where}.value = {well.value:g} is not between {low:g} and {high:g}, so it is not "
                f"in {arguments.units}; give the units of the values, one of {', '.join(LARGEST)}"
            )
            raise InputError(message)
        if well.perturbation.strip().casefold() == CONTROL:
            wells.append((CONTROL, well.value, well.replicate))
            continue
        candidate = _resolved(plan, well.perturbation, where, allowed)
        wells.append((label_of(candidate), well.value, well.replicate))
    twice = [key for key, n in Counter((w[0], w[2]) for w in wells).items() if n > 1]
    if twice:
        label, replicate = twice[0]
        message = (
            f"values hold {quoted(label)} replicate {replicate} twice; number its wells with "
            "replicate = 1, 2, …, or leave the copy out"
        )
        raise InputError(message)
    if all(label == CONTROL for label, _, _ in wells):
        message = "values hold control wells alone; add wells of perturbations of the screen"
        raise InputError(message)
    return sorted(wells)


def _allowed(plan: Plan) -> tuple[set[str], set[tuple[str, str, float]]]:
    """Return the labels of the plan's candidates, and the parts that its rules combine."""
    labels = {design.label for design in plan.designs}
    parts = {
        i.sort_key
        for text in (plan.scoring.rules if plan.scoring else ())
        for i in resolve_rule(plan.control.checkpoint, plan.control.context, text, None).parts
    }
    return labels, parts


def _resolved(
    plan: Plan,
    text: str,
    where: str,
    allowed: tuple[set[str], set[tuple[str, str, float]]],
) -> Perturbation:
    labels, parts = allowed
    try:
        candidate = resolve_candidate(plan.control.checkpoint, text)
    except InputError as error:
        near = did_you_mean(text, labels)
        message = f"{where}.perturbation = {quoted(text)}: {error}{near}"
        raise InputError(message) from error
    label = label_of(candidate)
    if label in labels or (parts and all(i.sort_key in parts for i in candidate)):
        return candidate
    message = (
        f"{where}.perturbation = {quoted(label)} is no candidate of this screen."
        f"{did_you_mean(label, labels)} Values of other perturbations belong to a screen that has "
        "them: plan one."
    )
    raise InputError(message)


def _check_before(
    before: Sequence[Mapping[str, Any]],
    arguments: RecordMeasurements,
    wells: Sequence[tuple[str, float, int]],
) -> None:
    """Refuse values that do not fit those recorded before."""
    for payload in before:
        for name, value in (("units", arguments.units), ("better", arguments.better)):
            if payload[name] != value:
                message = (
                    f"{name} = {value!r}, but this screen's values so far have {name} = "
                    f"{payload[name]!r}: convert the values, or plan another screen for them"
                )
                raise InputError(message)
        there = {(row[0], row[2]): row[1] for row in payload["values"]}
        for label, value, replicate in wells:
            if label != CONTROL and there.get((label, replicate), value) != value:
                message = (
                    f"{quoted(label)} replicate {replicate} is recorded as "
                    f"{there[label, replicate]:g}, and here it is {value:g}; a further well has a "
                    "further replicate number"
                )
                raise InputError(message)


def _known_genes(app: App, plan: Plan, arguments: RecordMeasurements) -> set[str]:
    """Return the labels of single perturbations whose target is in the named gene set."""
    if arguments.known_set is None:
        return set()
    sets = read_gene_sets(app.home)
    if arguments.known_set not in sets:
        message = (
            f"known_set = {quoted(arguments.known_set)}: no such gene set in gene_sets/*.gmt of "
            f"the home, which has {len(sets)}.{did_you_mean(arguments.known_set, sets)}"
        )
        raise InputError(message)
    genes = set(sets[arguments.known_set])
    return {d.label for d in plan.designs if any(i.target in genes for i in d.interventions)}


def _recorded(
    measurements: Sequence[Measurement], payload: Mapping[str, Any]
) -> Measurement | None:
    """Return the recording of the same values; None where there is none."""
    for known in measurements:
        values = {name: value for name, value in known.payload.items() if name != "next"}
        if digest_json(values) == digest_json(payload):
            return known
    return None


def _result(
    app: App,
    screen: Screen,
    plan: Plan,
    row: Measurement,
    pool: Pool,
    measured: Mapping[str, Measured],
    comparison: Comparison,
    follows: Next,
) -> MeasurementResult:
    places = {label_of(c): i for i, c in enumerate(pool.candidates)}
    return MeasurementResult(
        status="succeeded",
        summary=_summary(plan, measured, comparison, follows),
        caveats=_caveats(comparison, follows),
        screen_id=screen.id,
        ledger_head=str(app.ledger.head()),
        next_step=_next_step(screen, follows),
        measurement_id=row.id,
        n_measured=len(measured),
        n_compared=comparison.n,
        rank_correlation=comparison.rank_correlation,
        coverage=comparison.coverage,
        enrichment=comparison.enrichment,
        surrogate_skill=follows.skill,
        hits=list(comparison.hits[:8]),
        next_batch=[
            NextView(
                perturbation=label,
                strategies=list(names),
                predicted=float(pool.means[places[label]]),
            )
            for label, names in follows.chosen.items()
        ],
    )


def _next_step(screen: Screen, follows: Next) -> str:
    """Return the call that puts this very batch on a plate."""
    if not follows.chosen:
        return f"{call_text('get_experiment', id=screen.id)} shows the screen."
    n = len(follows.chosen)
    plate = call_text("propose_batch", screen_id=screen.id, n_wells=n, aim=LEARNED)
    return f"{plate} puts this batch on a plate; other aims choose by predictions alone."


def _summary(
    plan: Plan, measured: Mapping[str, Measured], comparison: Comparison, follows: Next
) -> str:
    correlation = comparison.rank_correlation
    held = (
        "too few to compare with predictions"
        if correlation is None
        else f"rank correlation with predicted scores {correlation:.2f}"
    )
    if comparison.coverage is not None:
        held += f", {100 * comparison.coverage:.0f} % within the 95 % interval"
    names = listed(list(follows.chosen), 3) if follows.chosen else "nothing is left to measure"
    return f"{len(measured)} perturbations to {in_words(plan)} measured: {held}. Next: {names}."


def _caveats(comparison: Comparison, follows: Next) -> list[str]:
    caveats: list[str] = []
    if follows.skill is None:
        caveats.append(
            "Too few values for a surrogate: the next batch follows the model, known genes and "
            "chance."
        )
    elif not follows.useful:
        caveats.append(
            "No useful feature: the surrogate does not predict the values (leave-one-out rank "
            f"correlation {follows.skill:.2f}), so the next batch follows the model, known genes "
            "and chance."
        )
    if comparison.rank_correlation is not None and comparison.rank_correlation < 0:
        caveats.append("Predictions and values disagree: check units, and better.")
    return caveats


def _text(result: MeasurementResult) -> str:
    rows = [[v.perturbation, v.predicted, ", ".join(v.strategies)] for v in result.next_batch]
    return render(result, text_table(["next", "predicted", "strategies"], rows))


SPEC = ToolSpec(
    name="record_measurements",
    title="Record measurements",
    description=(
        "Record wet-lab values of a screen's perturbations: checked, stored, compared with the "
        "predictions, and learned from: strategies (model, surrogate, known genes, chance) share "
        "the next batch by what each has hit. Use it after a plate was measured. Not for "
        "simulated values: run_screen. Units: one for the whole screen. Cost: free. Limits: 5,000 "
        "wells; of a call with an unknown perturbation, a copy or an impossible value nothing is "
        "stored."
    ),
    arguments=RecordMeasurements,
    result=MeasurementResult,
    run=record_measurements,
    text=_text,
    read_only=False,
)
