"""Plans: what a screen will simulate, resolved and in canonical order.

Equal plans have equal records, whatever the order in which genes and candidates were named, so a
screen can be found again by the digest of its plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lingshu_model.contracts import Checkpoint, Intervention, Tier
from lingshu_model.system.lazy import Lazy
from lingshu_tools.analysis import Objective, Residuals
from lingshu_tools.analysis.held_out import HeldOut, held_out
from lingshu_tools.errors import InputError, quoted
from lingshu_tools.experiments.designs import (
    Design,
    design,
    new_experiment,
    recorded_checkpoint,
)
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import NewExperiment, digest_json
from lingshu_tools.planner.candidates import Candidate, Perturbation
from lingshu_tools.planner.choosing import KEPT_FOR_EACH, Chosen, chosen_of, split
from lingshu_tools.planner.objectives.requests import Request
from lingshu_tools.planner.objectives.wanted import Wanted, wanted_of, wanted_of_record
from lingshu_tools.planner.race import Race
from lingshu_tools.planner.scoring import Scoring

MIN_CELLS = 16
"""Fewer paired cells than this say too little for a budget to be met by lowering them."""
TOP_N = 10
DIFFERENCE_SHARE, LEAST_DIFFERENCE = 0.1, 0.02
"""Scores that differ by less than this share of the held-out error are not told apart by more cells
of a simulation, log1p_cp10k."""


@dataclass(frozen=True)
class Plan:
    """A screen before it runs.

    Attributes:
        wanted: what is scored, and what candidates must not do.
        control: the design whose interventions each candidate replaces.
        candidates: perturbations in canonical order; a child's position is its place here.
        scoring: how candidates were chosen from rules; None where all were listed.
        race: how cells are spent where not every candidate gets as many; None = all get `n_cells`.
        repeated: labels of candidates that were named more than once; not part of the record.
    """

    wanted: Wanted
    control: Design
    candidates: tuple[Perturbation, ...]
    scoring: Scoring | None = None
    race: Race | None = None
    repeated: tuple[str, ...] = ()

    @property
    def objective(self) -> Objective:
        """What is scored."""
        return self.wanted.objective

    @property
    def n_candidates(self) -> int:
        """Candidates that are compared, simulated or not."""
        return self.scoring.n if self.scoring else len(self.candidates)

    @property
    def designs(self) -> list[Design]:
        """One paired experiment for each candidate."""
        return [replace(self.control, interventions=c) for c in self.candidates]

    @property
    def total_cells(self) -> int:
        """Cells to sample: every candidate's, and one control arm that all of them share.

        A race may stop earlier.
        """
        return (len(self.candidates) + 1) * self.control.n_cells

    @Lazy
    def support_mix(self) -> dict[Tier, int]:
        """Candidates per support tier."""
        return dict(Counter(d.support.tier for d in self.designs))

    def residuals(self, tier: str) -> Residuals | None:
        """Return the held-out residuals of a support tier."""
        if tier not in self._residuals:
            checkpoint = self.control.checkpoint
            residuals = Residuals.from_evidence(checkpoint.evidence, tier)
            # Aims are of all genes, in the order of the panel.
            all_genes = residuals is not None and self.objective.aims
            self._residuals[tier] = (
                residuals.over(checkpoint.panel) if residuals and all_genes else residuals
            )
        return self._residuals[tier]

    @Lazy
    def _residuals(self) -> dict[str, Residuals | None]:
        return {}

    @Lazy
    def held_out(self) -> list[HeldOut | None]:
        """The held-out figure of each candidate, or the nearest that was held out."""
        return [held_out(d.checkpoint, d.context, d.interventions) for d in self.designs]

    @property
    def record(self) -> dict[str, Any]:
        """The plan as the ledger keeps it: JSON values, everything that decides a count."""
        request = {k: v for k, v in self.control.request.items() if k != "interventions"}
        return {
            **request,
            "objective": self.wanted.record,
            "candidates": [[i.model_dump(mode="json") for i in c] for c in self.candidates],
            # Only where there are: plans without keep their digests.
            **({"scoring": self.scoring.record} if self.scoring else {}),
            **({"race": self.race.record} if self.race else {}),
        }

    @property
    def digest(self) -> str:
        """The digest of the record."""
        return digest_json(self.record)

    def children(self, workspace: Workspace, screen_id: str) -> list[NewExperiment]:
        """Return the rows of all experiments, each keyed by its place so that it is begun once."""
        return [child_row(workspace, screen_id, design, i) for i, design in enumerate(self.designs)]

    def batches(
        self, workspace: Workspace, screen_id: str, round_: int, places: Sequence[int]
    ) -> list[NewExperiment]:
        """Return the rows of a round of a race: the next cells of the candidates at `places`."""
        if self.race is None:
            return []
        first, size = self.race.rounds(self.control.n_cells)[round_]
        start = self.control.first_cell + first
        return [
            child_row(
                workspace,
                screen_id,
                replace(self.designs[place], first_cell=start, n_cells=size),
                round_ * len(self.candidates) + place,
            )
            for place in places
        ]


def child_row(workspace: Workspace, screen_id: str, design: Design, place: int) -> NewExperiment:
    """Return the row of one experiment of a screen, keyed by its place."""
    row = new_experiment(workspace, design, parent=screen_id, position=place)
    return replace(row, client_key=f"{screen_id}/{place}")


def make_plan(
    workspace: Workspace,
    *,
    objective: Request,
    candidates: Sequence[Candidate | Mapping[str, Any]] | Mapping[str, Any] | str,
    checkpoint: str | None = None,
    context: Mapping[str, str] | None = None,
    n_cells: int = 256,
    seed: int = 0,
    first_cell: int = 0,
    budget: int | None = None,
    top_n: int | None = None,
    race: bool | None = None,
) -> Plan:
    """Return the resolved plan of what was asked.

    Args:
        workspace: where checkpoints are looked up.
        objective: what is wanted, every name as it was given.
        candidates: perturbations, each a text as of `resolve_candidate` or its interventions;
            rules as of `planner.rules` among them; or `all_seen`, every perturbation trained in
            this context, null labels left out.
        checkpoint: by name; the only one there is by default.
        context: fields with one value may be left out.
        n_cells: paired cells for each candidate.
        seed: shared by all arms.
        first_cell: index of the first cell.
        budget: most cells to sample over all arms; `n_cells` is lowered to fit.
        top_n: how many best a race settles.
        race: whether cells are spent only where the `top_n` best are not settled yet; by default
            where candidates come from rules.

    Raises:
        InputError: an unknown gene, target or context, an empty objective or list, or a budget that
            leaves too few cells; what is allowed is in the message.
    """
    control = design(
        workspace,
        tool="perturb_cells",
        checkpoint=checkpoint,
        context=context,
        interventions=(),
        n_cells=n_cells,
        seed=seed,
        first_cell=first_cell,
    )
    wanted = wanted_of(workspace, control, objective)
    racing, wanted_n = _race_settings(candidates, race=race, top_n=top_n)
    chosen = chosen_of(workspace, control, wanted, candidates, wanted_n)
    n_cells = _affordable(n_cells, chosen, budget)
    plan = Plan(
        replace(wanted, left_out=chosen.left_out),
        replace(control, n_cells=n_cells),
        chosen.candidates,
        chosen.scoring,
        repeated=chosen.repeated,
    )
    if not racing:
        return plan
    return replace(plan, race=Race(min(wanted_n, len(plan.candidates)), _indifference(plan)))


def plan_of(workspace: Workspace, record: Mapping[str, Any]) -> Plan:
    """Return the plan written in a ledger's screen row.

    Raises:
        MissingCheckpointError: the checkpoint that the plan names by digest is not here.
        InputError: the plan has another form, as an imported ledger may have it.
    """
    try:
        return _plan_of(workspace, record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = (
            f"the plan of this screen has a form that this version does not read "
            f"({type(error).__name__}: {quoted(str(error))}); list_experiments(parent=…) still "
            "lists its experiments, and plan_screen plans it again"
        )
        raise InputError(message) from error


def _plan_of(workspace: Workspace, record: Mapping[str, Any]) -> Plan:
    fields = ("context", "n_cells", "seed", "first_cell", "steps", "guidance")
    control = Design(
        tool="perturb_cells",
        checkpoint=recorded_checkpoint(workspace, "this screen", record),
        interventions=(),
        **{k: record[k] for k in fields},
    )
    candidates = tuple(tuple(Intervention(**i) for i in c) for c in record["candidates"])
    scoring, race = record.get("scoring"), record.get("race")
    return Plan(
        wanted_of_record(record["objective"], control.checkpoint, control.context),
        control,
        candidates,
        scoring and Scoring.of_record(scoring),
        race and Race(**race),
    )


def objective_of(record: Mapping[str, Any], checkpoint: Checkpoint) -> Objective:
    """Return the objective written in a ledger's screen row."""
    return wanted_of_record(record["objective"], checkpoint, record["context"]).objective


def _race_settings(candidates: Any, *, race: bool | None, top_n: int | None) -> tuple[bool, int]:
    """Return whether candidates race, and how many best are wanted.

    Raises:
        InputError: `top_n` would be left unused.
    """
    racing = bool(split(candidates)[1]) if race is None else race
    if top_n is not None and not racing:
        message = (
            f"top_n={top_n} is of a race, in which cells are spent until the best are settled; "
            "here every candidate gets n_cells. Leave top_n out, or set race=true."
        )
        raise InputError(message)
    return racing, TOP_N if top_n is None else top_n


def _indifference(plan: Plan) -> float:
    """Return the difference of scores that a race need not settle, log1p_cp10k."""
    errors = [
        error.rms
        for tier in plan.support_mix
        if (residuals := plan.residuals(tier)) is not None
        and (error := residuals.of_objective(plan.objective)) is not None
    ]
    return round(max(LEAST_DIFFERENCE, DIFFERENCE_SHARE * max(errors, default=0.0)), 3)


def _affordable(n_cells: int, plan: Chosen, budget: int | None) -> int:
    """Return the cells of each candidate that a budget pays for.

    Raises:
        InputError: fewer than say something.
    """
    if budget is None:
        return n_cells
    candidates = len(plan.candidates)
    fits = min(n_cells, budget // (candidates + 1))
    if fits < min(n_cells, MIN_CELLS):
        least = (candidates + 1) * min(n_cells, MIN_CELLS)
        most = budget // MIN_CELLS - 1
        fewer = f"name {most} candidate{'s' * (most > 1)} at most"
        if plan.scoring:
            fewer = f"lower top_n, for each of which {KEPT_FOR_EACH} candidates are simulated"
        message = (
            f"budget={budget} cells leaves {fits} for each of {candidates} candidates and the "
            f"control; {MIN_CELLS} are the least that say something. Raise budget to {least}"
            f"{f' or {fewer}' if most > 0 else ''}. plan_screen without a budget scores all in "
            "closed form, without a cell."
        )
        raise InputError(message)
    return fits
