"""plot_experiment: a picture of a screen or an experiment, and the numbers behind it.

The drawing is done in a child process, which goes on when the call returns before it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from lingshu_model.contracts import digest_json
from lingshu_tools.analysis import benjamini_hochberg
from lingshu_tools.analysis.certainty import LEAST_LFSR, SUPPORTED
from lingshu_tools.analysis.held_out import CONDITION
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import Result, call_text, finite, render
from lingshu_tools.calls.waiting import Pending, next_wait_s
from lingshu_tools.children import Answer, State, Task, Work
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import context_label
from lingshu_tools.experiments.findings import strongest, unpack_effect
from lingshu_tools.experiments.lookup import is_screen, locate_screen
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.planner import Plan, Ranked, plan_of
from lingshu_tools.planner.ranking import HIT_FDR, null_labels
from lingshu_tools.report.evidence import design_sentence, evidence_view, screen_sentence
from lingshu_tools.report.experiment_views import Shown, envelope, shown
from lingshu_tools.tools import further_plots
from lingshu_tools.tools.common import AnyId, WaitS
from lingshu_tools.tools.further_plots import Picture
from lingshu_tools.tools.plan_screen import in_words, sham_limit, support_of, weakest
from lingshu_tools.tools.run_screen import ranking_of
from lingshu_tools.tools.unfinished_files import created_at_of, unfinished

if TYPE_CHECKING:
    from lingshu_tools.app import App

Kind = Literal["ranking", "heatmap", "volcano", "violin", "embedding", "interaction"]
NAMED_GENES = 20
PLOTS_URI = "plots://"
"""How the URI of a picture begins; its file name follows."""
MOST_ROWS = 60
CALLED_BY = "supported (lfsr ≤ 0.05)"
SCORE_LABEL = "score: mean signed change in expression, Δ ln(1 + counts per 10,000)"
FOLD_LABEL = "log2 fold change, perturbed / control (mean counts per 10,000, + 1)"


class PlotExperiment(Arguments):
    """Arguments of plot_experiment."""

    id: AnyId
    kind: Kind | None = Field(
        default=None,
        description="ranking, heatmap: of a screen; the others: of one experiment. "
        "Default: ranking or volcano",
    )
    top: int | None = Field(
        default=None, ge=1, le=MOST_ROWS, description="Candidates or gene names to show, 1 to 60"
    )
    genes: list[str] | None = Field(
        default=None, min_length=1, max_length=40, description="Of violin and heatmap: these genes"
    )
    image: Literal["none", "link", "inline"] = Field(
        default="none",
        description="How the picture comes back; inline is about 15,000 tokens",
    )
    wait_s: WaitS = 4


class PlotResult(Result):
    """Where the picture and its numbers are."""

    detail_only = Result.detail_only | {"digests"}

    kind: Kind
    png: str | None = Field(default=None, description="Path; null until it is drawn, as the rest")
    svg: str | None = None
    uri: str | None = Field(
        default=None, description="The PNG as an MCP resource; with .svg or .csv the others"
    )
    csv: str | None = Field(default=None, description="The numbers behind the picture, every row")
    digests: dict[str, str] = Field(
        default_factory=dict[str, str], description="sha256 of each file, by suffix"
    )
    width_px: int | None = None
    height_px: int | None = None


def plot_experiment(app: App, arguments: PlotExperiment) -> PlotResult | Pending[PlotResult]:
    """Return the files of a picture of what is done so far, or the wait for them."""
    # The kind first: a wrong one is refused before anything is drawn.
    fits, work = _kind(arguments), drawing(app, arguments)
    return created_at_of(
        work, arguments.id, arguments.wait_s, lambda: _result(app, arguments, fits, work)
    )


def drawing(app: App, arguments: PlotExperiment) -> Answer | Work:
    """Return the work at a picture, or its answer; equal calls share one child process.

    Raises:
        InputError: the kind does not fit the id, or there is nothing to draw yet.
    """
    # A picture that is being drawn is joined before its numbers are worked out again.
    work = app.children.join("plot", _request(arguments))
    return app.children.begin(picture_task(app, arguments)) if work is None else work


def picture_task(app: App, arguments: PlotExperiment) -> Task:
    """Return what the child process that draws a picture is given.

    Raises:
        InputError: the kind does not fit the id, or there is nothing to draw yet.
    """
    fits = _kind(arguments)
    job, numbers, facts = PLOTS[fits].draw(app, arguments)
    # Named by what is drawn: another state of a screen is another picture.
    name = f"{arguments.id}-{fits}-{_digest(job)[7:15]}"
    job |= {"name": name, "numbers": numbers}
    return Task("plot", _request(arguments), job, folder=app.home / "plots", facts=facts)


def _request(arguments: PlotExperiment) -> str:
    """Return what equal calls have in common, so that they share a child process."""
    top, genes = str(arguments.top or ""), arguments.genes or ()
    return " ".join([arguments.id, _kind(arguments), top, *genes])


def _digest(job: Mapping[str, Any]) -> str:
    """Return the digest of what is drawn: files of cells count by content, not by place."""
    # The same cells in another home are the same picture.
    arms = {arm: file["digest"] for arm, file in job.get("arms", {}).items()}
    return digest_json({**job, "arms": arms} if arms else job)


def _kind(arguments: PlotExperiment) -> Kind:
    """Return the kind that is asked for, by default the first that fits the id.

    Raises:
        InputError: the kind is not one of that id's.
    """
    # The kinds that fit, in the order of PLOTS: the first is the default.
    prefix = "scr_" if is_screen(arguments.id) else "exp_"
    fitting: list[Kind] = [kind for kind, plot in PLOTS.items() if plot.prefix == prefix]
    if arguments.kind is None:
        return fitting[0]
    if arguments.kind not in fitting:
        kinds = "; ".join(f"{kind} of {plot.prefix}…" for kind, plot in PLOTS.items())
        message = (
            f"kind={arguments.kind!r} does not fit {arguments.id!r}; there are {kinds}. "
            "Leave kind out, or give an id of the other sort."
        )
        raise InputError(message)
    return arguments.kind


def _result(app: App, arguments: PlotExperiment, kind: Kind, work: Answer | Work) -> PlotResult:
    drawn = app.children.result(work)
    of_screen = PLOTS[kind].prefix == "scr_"
    fields = (_screen_fields if of_screen else _effect_fields)(app, arguments.id)
    # Fields of the picture replace the state of the experiment.
    return PlotResult(**fields | _shown(arguments, kind, drawn), kind=kind)


def _shown(request: PlotExperiment, kind: Kind, drawn: Answer | State) -> dict[str, Any]:
    """Return the fields that say where the picture is, or how far it is."""
    if not isinstance(drawn, Answer):
        arguments = request.model_dump(exclude={"wait_s"}, exclude_defaults=True)
        what = f"The {kind} of {request.id}"
        return unfinished("plot_experiment", what, drawn, arguments)
    paths = {suffix: str(path) for suffix, path in drawn.paths.items()}
    return {
        **paths,
        "uri": f"{PLOTS_URI}{drawn.paths['png'].name}",
        "status": "succeeded",
        "summary": f"{drawn.facts['summary']}: {paths['png']}",
        "caveats": drawn.facts["caveats"],
        "digests": dict(drawn.digests),
        "width_px": drawn.details["width"],
        "height_px": drawn.details["height"],
    }


def _screen_fields(app: App, screen_id: str) -> dict[str, Any]:
    plan = plan_of(app, locate_screen(app, screen_id)[1].plan)
    return {
        "units": dict.fromkeys(("score", "prediction_error"), plan.objective.units),
        "support": support_of(plan),
        "evidence": evidence_view(plan.control.checkpoint, weakest(plan)),
        "screen_id": screen_id,
        "ledger_head": str(app.ledger.head()),
    }


def _effect_fields(app: App, experiment_id: str) -> dict[str, Any]:
    units = {"log2_fold_change": FOLD_LABEL, "change": "log1p_cp10k"}
    return envelope(app, shown(app, experiment_id)) | {"units": units}


def _ranking(app: App, arguments: PlotExperiment) -> Picture:
    further_plots.unused("ranking", genes=arguments.genes)
    return ranking_picture(app, arguments.id, arguments.top or MOST_ROWS)


def ranking_picture(app: App, screen_id: str, most_rows: int) -> Picture:
    """Return a ranking of the first candidates; the numbers are of all that have a score.

    Raises:
        InputError: no candidate has a score yet.
    """
    plan, ranking = ranking_of(app, screen_id)
    scored = [row for row in ranking.rows if row.value is not None]
    if not scored:
        run = call_text("run_screen", screen_id=screen_id, wait_s=next_wait_s())
        message = f"{screen_id} has no ranked candidate yet; {run} goes on with it"
        raise InputError(message)
    rows = [_bar(row) for row in scored]
    # The picture is cut, the CSV beside it is not.
    shown_rows = rows[:most_rows]
    cut = "" if len(shown_rows) == len(rows) else f", first {len(shown_rows)} shown"
    job = {
        "kind": "ranking",
        "title": f"Predicted, not measured: what would {in_words(plan)}?",
        "subtitle": f"{_where(plan)} · {len(rows)} of {len(plan.candidates)} candidates{cut} · "
        f"{plan.control.n_cells} paired simulated cells each",
        "footnote": f"{_dagger(scored)}{_held_out(plan)}{screen_id}",
        "rows": shown_rows,
        "sham_limit": sham_limit(plan),
        "xlabel": SCORE_LABEL,
        "called_by": CALLED_BY if ranking.k else None,
    }
    facts = {
        "summary": f"Ranking of {len(rows)} candidates to {in_words(plan)}",
        "caveats": [ranking.why_no_null] if ranking.why_no_null else [],
    }
    return job, [_flat(row) for row in rows], facts


def _volcano(app: App, arguments: PlotExperiment) -> Picture:
    further_plots.unused("volcano", genes=arguments.genes)
    record = shown(app, arguments.id)
    blob = record.artifact("effects") if record.succeeded else None
    if blob is None:
        message = (
            f"{arguments.id} ({record.design.tool}) has no stored effect to plot; a volcano needs "
            "a perturb_cells experiment that succeeded. get_experiment shows its state."
        )
        raise InputError(message)
    # Rows of all measured genes, strongest first; those of the picture and of the CSV.
    table, threshold, why = _genes(record, blob)
    job = {
        "kind": "volcano",
        "title": f"Predicted, not measured: effect of {record.design.label}",
        "subtitle": f"{record.design.place} · {record.design.checkpoint.name} · "
        f"{record.design.n_cells} paired simulated cells",
        "footnote": f"{why}  {design_sentence(record.design)}  {arguments.id}",
        "genes": [row["gene"] for row in table],
        "x": [row["log2_fold_change"] for row in table],
        "y": [row["y"] for row in table],
        "called": [row["called"] for row in table],
        "labels": _named(table, arguments.top or NAMED_GENES),
        "target": [i.target for i in record.design.interventions],
        "threshold": threshold,
        "xlabel": FOLD_LABEL,
        "ylabel": _y_label(table, threshold),
        "called_by": CALLED_BY if table and table[0]["lfsr"] is not None else None,
    }
    facts = {
        "summary": f"Volcano of {record.design.label}",
        "caveats": [] if threshold is not None else [why],
    }
    return job, [{k: v for k, v in row.items() if k != "y"} for row in table], facts


def _y_label(table: Sequence[Mapping[str, Any]], threshold: float | None) -> str:
    if threshold is None:
        return "|change|, ln(1 + counts per 10,000)"
    if table and table[0]["lfsr"] is not None:
        return "−log10 local false sign rate"
    return "−log10 p against null labels"


@dataclass(frozen=True)
class _Plot:
    """A kind of plot.

    Attributes:
        prefix: how the ids begin that it is of: `scr_` (screens) or `exp_` (experiments).
        draw: returns the job of the child that draws, the numbers behind it and the summary.
    """

    prefix: str
    draw: Callable[[App, PlotExperiment], Picture]


def _further(draw: Callable[..., Picture]) -> Callable[[App, PlotExperiment], Picture]:
    return lambda app, arguments: draw(app, arguments.id, arguments.top, arguments.genes)


PLOTS: dict[Kind, _Plot] = {
    "ranking": _Plot("scr_", _ranking),
    "heatmap": _Plot("scr_", _further(further_plots.heatmap)),
    "volcano": _Plot("exp_", _volcano),
    "violin": _Plot("exp_", _further(further_plots.violin)),
    "embedding": _Plot("exp_", _further(further_plots.embedding)),
    "interaction": _Plot("exp_", _further(further_plots.interaction)),
}
"""Of the plots that fit an id the first is the default."""


def _genes(record: Shown, blob: bytes) -> tuple[list[dict[str, Any]], float | None, str]:
    """Return a row for each measured gene, the y above which one is called, and a footnote."""
    effect, panel = unpack_effect(blob), record.design.checkpoint.panel
    stored = stored_effect(record.design)
    # Null labels are worked out only where no effect is stored.
    null, why = (None, None) if stored else null_labels(record.design)
    p = null.gene_p(effect) if null else np.full(len(panel), np.nan)
    q = benjamini_hochberg(p)
    # -log10 p, else |change|: the most that is known without a test.
    y = -np.log10(np.maximum(p, 1e-300)) if null else np.abs(effect.change)
    called = np.where(q <= HIT_FDR, np.sign(effect.change), 0)
    lfsr = np.full(len(panel), np.nan)
    if stored:
        lfsr = np.maximum(stored.posterior.lfsr, LEAST_LFSR)
        y = -np.log10(lfsr)
        called = np.where(lfsr <= SUPPORTED, np.sign(stored.posterior.mean), 0)
    rows = [
        {
            "gene": panel[i],
            "log2_fold_change": finite(effect.log2_fold_change[i]),
            "change": finite(effect.change[i]),
            "control_mean": finite(effect.control_mean[i]),
            "perturbed_mean": finite(effect.perturbed_mean[i]),
            "sham_p": finite(p[i]),
            "sham_q": finite(q[i]),
            "lfsr": finite(lfsr[i]),
            "called": int(called[i]),
            "y": finite(y[i]),
        }
        for i in strongest(effect.change)
    ]
    if stored:
        note = f"lfsr from the stored effect, not below 0.001; coloured: lfsr ≤ {SUPPORTED:g}."
        return rows, float(-np.log10(SUPPORTED)), note
    if null is None:
        return rows, None, f"{why}"
    note = f"p against {null.n_shams} null labels; coloured: FDR ≤ 5 %."
    return rows, _threshold(p, q), note


def _threshold(p: np.ndarray, q: np.ndarray) -> float:
    tested = np.isfinite(q)
    hits = tested & (q <= HIT_FDR)
    # Between the last gene called and the first not called; where none is, what one would need.
    worst = p[hits].max() if hits.any() else HIT_FDR / max(1, tested.sum())
    return float(-np.log10(max(worst, 1e-300))) - 0.02


def _named(table: Sequence[Mapping[str, Any]], top: int) -> list[str]:
    called = [row["gene"] for row in table if row["called"]]
    # Strongest first; where none is called, the strongest of all.
    return (called or [row["gene"] for row in table])[:top]


def _bar(row: Ranked) -> dict[str, Any]:
    return {
        "label": row.design.label + ("†" if row.score.left_out else ""),
        "score": row.value,
        "mc_interval": row.score.mc_interval,
        "prediction_error": row.error.rms if row.error else None,
        "held_out": _own_pearson(row),
        "hit": row.hit,
        "lfsr": finite(row.lfsr),
        "in_top": finite(row.in_top),
        "interval": list(row.posterior.interval) if row.posterior else None,
        "fdr": finite(row.fdr),
        "support": row.design.support.tier,
        "experiment_id": row.experiment_id,
    }


def _own_pearson(row: Ranked) -> float | None:
    figure = row.held_out
    return finite(figure.model.value) if figure and figure.level == CONDITION else None


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["mc_interval"] or (None, None)
    posterior_low, posterior_high = row["interval"] or (None, None)
    # Intervals become two columns each; the rest of a row goes to the CSV as it is.
    kept = {k: v for k, v in row.items() if k not in ("label", "mc_interval", "hit", "interval")}
    return {
        "perturbation": row["label"].removesuffix("†"),
        **kept,
        "mc_low": finite(low),
        "mc_high": finite(high),
        "posterior_low": finite(posterior_low),
        "posterior_high": finite(posterior_high),
        "own_gene_left_out": row["label"].endswith("†"),
    }


def _where(plan: Plan) -> str:
    return f"{context_label(plan.control.context)} · {plan.control.checkpoint.name}"


def _dagger(scored: Sequence[Ranked]) -> str:
    return "† own gene left out.  " if any(r.score and r.score.left_out for r in scored) else ""


def _held_out(plan: Plan) -> str:
    sentence = screen_sentence(plan.held_out, plan.control.checkpoint, weakest(plan))
    return f"{sentence}  "


def _text(result: PlotResult) -> str:
    return render(result, f"svg: {result.svg}\nnumbers: {result.csv}" if result.png else "")


SPEC = ToolSpec(
    name="plot_experiment",
    title="Plot an experiment or a screen",
    description=(
        "Draw what is finished, for a paper, and write the numbers behind it: paths of a PNG, "
        "an SVG and a CSV file. Of a screen: ranking (scores, intervals, null range), heatmap "
        "(candidates by genes). Of an experiment: volcano (fold change against certainty), violin "
        "(levels of genes), embedding (both arms), interaction (a combination against the sum of "
        "its parts). Use it when a user wants a figure. Not for "
        "numbers: get_experiment. Units: on the axes. Cost: seconds, nothing is simulated; "
        "image=inline costs a model about 15,000 tokens. Limits: 60 rows or names; after "
        "wait_s drawing goes on, and the same call returns the files."
    ),
    arguments=PlotExperiment,
    result=PlotResult,
    run=plot_experiment,
    text=_text,
    read_only=False,
    in_child=True,
)
