"""What an experiment is: a resolved design, the arms it asks of the engine, and its ledger row.

A design holds everything that decides a count (checkpoint digest, steps, guidance and seed
included), so the row alone is enough to run it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lingshu_model.contracts import ArmRequest, Checkpoint, CheckpointError, Intervention, Support
from lingshu_tools.engine_client.arms import arms_of
from lingshu_tools.errors import (
    InputError,
    MissingCheckpointError,
    NotFoundError,
    did_you_mean,
    nearest,
    quoted,
)
from lingshu_tools.experiments.contexts.naming import context_label
from lingshu_tools.experiments.contexts.populations import (
    Mixture,
    population_label,
    resolve_context,
    resolve_population,
)
from lingshu_tools.experiments.gene_directory import plain, real_genes
from lingshu_tools.experiments.gene_names import gene_names
from lingshu_tools.experiments.sampling_options import (
    Sampling,
    default_sampling,
    resolve_sampling,
)
from lingshu_tools.experiments.user_cells import with_user_cells
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment, NewExperiment

# How the client key of an experiment begins that stands in place of another (`resuming`).
AGAIN = "again"
MAX_COUNTS = 4_000_000_000
"""Cells x genes of one experiment, over its arms: 100,000 cells in two arms of 20,000 genes. Memory
does not grow with them; the disk does, a few gigabytes at this size."""


@dataclass(frozen=True)
class Design:
    """One experiment, resolved: two of them are equal when they would give the same cells."""

    tool: str
    checkpoint: Checkpoint
    context: Mapping[str, str]
    interventions: tuple[Intervention, ...]
    n_cells: int
    seed: int
    first_cell: int
    steps: int
    guidance: float
    clamp: Mapping[str, int] = field(default_factory=dict[str, int])
    """UMI of genes that are set before sampling, by symbol; of simulated cells only."""
    allow_unfit: bool = False
    cells: Mapping[str, Any] | None = None
    """A user's cells that it is on, as its request names them; None = simulated cells."""
    mixture: Mixture | None = None
    """Contexts that its cells are drawn from, all with the fields of `context`; None = one."""

    @property
    def label(self) -> str:
        """The perturbation in words: `STAT1 knockout`, or `control`."""
        return label_of(self.interventions)

    @property
    def where(self) -> str:
        """The experiment in words: perturbation, context, cells."""
        where = f"{self.label} in {self.place}"
        if self.cells is not None:
            return f"{where}, {self.n_cells} of a user's cells"
        return f"{where}, {self.n_cells} simulated cells"

    @property
    def place(self) -> str:
        """Where its cells are from, in words: a context, or what mixed contexts share."""
        return population_label(self.context, self.mixture)

    @property
    def support(self) -> Support:
        """What the checkpoint has seen of it."""
        if self.mixture is not None:
            return self.mixture.support(self.checkpoint, self.interventions)
        return self.checkpoint.support(self.context, self.interventions)

    @property
    def sampling(self) -> Sampling:
        """How its cells are sampled."""
        return Sampling(self.steps, self.guidance, self.clamp)

    @property
    def arms(self) -> dict[str, ArmRequest]:
        """The arms by role: `control` and `perturbed` share their streams; or `cells` alone."""
        return arms_of(self.tool, self.request)

    @property
    def total_cells(self) -> int:
        """Cells over all arms."""
        return sum(arm.n_cells for arm in self.arms.values())

    @property
    def request(self) -> dict[str, Any]:
        """The resolved request as it is written in the ledger."""
        return {
            "checkpoint": self.checkpoint.name,
            "checkpoint_digest": self.checkpoint.digest,
            "context": dict(self.context),
            "interventions": [i.model_dump(mode="json") for i in self.interventions],
            "n_cells": self.n_cells,
            "seed": self.seed,
            "first_cell": self.first_cell,
            "steps": self.steps,
            "guidance": self.guidance,
            # Only where it is asked for: rows of the same cells keep their hashes.
            **({"clamp": dict(self.clamp)} if self.clamp else {}),
            **({"allow_unfit": True} if self.allow_unfit else {}),
            **({"cells": dict(self.cells)} if self.cells is not None else {}),
            **({"mixture": self.mixture.record} if self.mixture is not None else {}),
        }


def label_of(interventions: Iterable[Intervention]) -> str:
    """Return a perturbation in words, the same for any order."""
    names = [
        f"{i.target} {i.kind}" + (f" {i.dose:g}" if i.dose is not None else "")
        for i in sorted(interventions, key=lambda i: i.sort_key)
    ]
    return " + ".join(names) or "control"


def cells_of(tool: str, request: Mapping[str, Any]) -> int:
    """Return how many cells an experiment's request asks for, over all arms."""
    # Two arms: control and perturbed, or the given and the completed cells.
    return request["n_cells"] * (1 if tool in ("sample_cells", "score_cells") else 2)


def design(
    workspace: Workspace,
    *,
    tool: str,
    checkpoint: str | None,
    context: Mapping[str, str] | None,
    interventions: Sequence[Intervention],
    n_cells: int,
    seed: int,
    first_cell: int = 0,
    allow_unfit: bool = False,
    steps: int | None = None,
    guidance: float | None = None,
    clamp: Mapping[str, int] | None = None,
) -> Design:
    """Return the resolved design of what was asked.

    `steps`, `guidance` and `clamp` are as in `resolve_sampling`.

    Raises:
        InputError: an unknown checkpoint, context, kind or target, or an impossible size; the
            nearest names or the allowed range are given. Also a condition that failed its fitness
            check, unless `allow_unfit`.
    """
    loaded = resolve_checkpoint(workspace, checkpoint)
    resolved = resolve_interventions(loaded, interventions)
    chosen = resolve_sampling(loaded, tool, resolved, steps=steps, guidance=guidance, clamp=clamp)
    # Effects are of one context; cells alone may be of several.
    if tool == "sample_cells":
        where, mixture = resolve_population(loaded, context, resolved)
    else:
        where, mixture = resolve_context(loaded, context), None
    result = Design(
        tool=tool,
        checkpoint=loaded,
        context=where,
        interventions=resolved,
        n_cells=n_cells,
        seed=seed,
        first_cell=first_cell,
        steps=chosen.steps,
        guidance=chosen.guidance,
        clamp=chosen.clamp,
        allow_unfit=allow_unfit,
        mixture=mixture,
    )
    _check_size(result)
    _check_fit(result)
    return result


def design_of_user_cells(
    workspace: Workspace,
    *,
    tool: str,
    checkpoint: Checkpoint,
    context: Mapping[str, str],
    interventions: Sequence[Intervention],
    cells: Mapping[str, Any],
    n_cells: int,
    seed: int,
) -> Design:
    """Return the design of an experiment on a user's cells.

    Args:
        workspace: whose home stores the cells.
        tool: that asks for it.
        checkpoint: resolved.
        context: what stands for the cells, or a trained context that they are taken for.
        interventions: resolved; their effect is carried to the cells.
        cells: what the request keeps of the cells.
        n_cells: all of the stored cells.
        seed: of the random streams.
    """
    chosen = default_sampling(checkpoint)
    request: dict[str, Any] = {
        "context": dict(context),
        "interventions": [i.model_dump(mode="json") for i in interventions],
        "n_cells": n_cells,
        "seed": seed,
        # Cells of a user are numbered from 0 in the file that stores them.
        "first_cell": 0,
        "steps": chosen.steps,
        "guidance": chosen.guidance,
        "cells": dict(cells),
    }
    result = written_design(tool, request, checkpoint, workspace.home)
    _check_size(result)
    return result


def design_of(workspace: Workspace, experiment: Experiment) -> Design:
    """Return the design written in a ledger row.

    Raises:
        MissingCheckpointError: the checkpoint that the row names by digest is not here.
    """
    request = experiment.request
    checkpoint = recorded_checkpoint(workspace, experiment.id, request)
    return written_design(experiment.tool, request, checkpoint, workspace.home)


def recorded_checkpoint(workspace: Workspace, what: str, record: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint that a request or a plan in the ledger names by its digest.

    Raises:
        MissingCheckpointError: it is not here; `what` was made with it.
    """
    name, digest = record["checkpoint"], record["checkpoint_digest"]
    try:
        loaded = workspace.catalogue.find(name, digest)
    except CheckpointError as error:
        message = f"{what} was made with {name} {digest}, which is not here: {error}"
        raise MissingCheckpointError(message) from error
    # It may have been given another name since.
    return replace(loaded, name=name)


def written_design(
    tool: str, request: Mapping[str, Any], checkpoint: Checkpoint, home: Path | None = None
) -> Design:
    """Return the design that a row's request describes, on the checkpoint that it names.

    `home` is where cells of users are stored.
    """
    return Design(
        tool=tool,
        checkpoint=with_user_cells(checkpoint, request, home),
        context=request["context"],
        interventions=tuple(Intervention(**i) for i in request["interventions"]),
        **{k: request[k] for k in ("n_cells", "seed", "first_cell", "steps", "guidance")},
        clamp=request.get("clamp", {}),
        allow_unfit=bool(request.get("allow_unfit", False)),
        cells=request.get("cells"),
        mixture=Mixture.of_request(request),
    )


def new_experiment(
    workspace: Workspace,
    design: Design,
    *,
    parent: str | None = None,
    position: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> NewExperiment:
    """Return the row of a design, to be begun alone or with its siblings in one transaction.

    `extra` is written in the request beside what decides the counts.
    """
    return NewExperiment(
        tool=design.tool,
        request={**design.request, **(extra or {})},
        checkpoint=design.checkpoint.name,
        checkpoint_digest=design.checkpoint.digest,
        panel_digest=design.checkpoint.panel_digest,
        seed=design.seed,
        principal=workspace.principal,
        door=workspace.door,
        parent=parent,
        position=position,
        context=design.place,
        perturbation=design.label,
    )


def row_like(workspace: Workspace, experiment: Experiment, **changes: Any) -> NewExperiment:
    """Return the row of an experiment that asks the same as another, but for `changes`."""
    same: dict[str, Any] = {f.name: getattr(experiment, f.name) for f in fields(NewExperiment)}
    # On behalf of the caller, not of the principal of the old row.
    same |= {"principal": workspace.principal, "door": workspace.door}
    return NewExperiment(**(same | changes))


def replaces(experiment: Experiment) -> str | None:
    """Return the id of the cancelled or failed experiment that one was begun in place of, or None.

    `resuming` says how its client key names it.
    """
    candidate = experiment.position is not None
    begins = f"{experiment.parent}/{experiment.position}/" if candidate else f"{AGAIN}/"
    key = experiment.client_key or ""
    old = key.removeprefix(begins)
    return old if old != key and old.startswith("exp_") else None


def resolve_checkpoint(workspace: Workspace, name: str | None) -> Checkpoint:
    """Return the named checkpoint, or the only one there is."""
    names = workspace.catalogue.names()
    if name is None and len(names) == 1:
        name = names[0]
    if name is None:
        message = (
            f"checkpoint is needed, since there are {len(names)}: {', '.join(names) or 'none'}"
        )
        raise InputError(message)
    if name not in names:
        near = did_you_mean(name, names)
        message = f"no checkpoint {quoted(name)}.{near} There are: {', '.join(names)}."
        raise NotFoundError(message, {name: next(iter(nearest(name, names, 1)), None)})
    return workspace.catalogue.load(name)


def resolve_interventions(
    checkpoint: Checkpoint, arguments: Sequence[Intervention]
) -> tuple[Intervention, ...]:
    """Return interventions on trained targets, in their canonical order.

    Raises:
        InputError: an unknown kind or target, a target named twice, or a dose never trained on.
    """
    known = checkpoint.targets
    resolved = [
        record.model_copy(update={"target": _target(checkpoint, known, record)})
        for record in arguments
    ]
    for intervention in resolved:
        _check_dose(checkpoint, intervention)
    # After resolution: two aliases of one gene are one target.
    names = [i.target for i in resolved]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        message = f"interventions name {twice!r} twice; each target can be acted on once"
        raise InputError(message)
    # In canonical order, equal combinations have equal digests and share their cells.
    return tuple(sorted(resolved, key=lambda i: i.sort_key))


def _target(checkpoint: Checkpoint, known: Mapping[str, list[str]], record: Intervention) -> str:
    if record.kind not in known and not known:
        message = (
            f"{checkpoint.name!r} was trained on unperturbed cells alone and knows no "
            "interventions; sample_cells gives its cells"
        )
        raise InputError(message)
    if record.kind not in known:
        kinds = ", ".join(k for k in known if k != "sham")
        message = (
            f"{checkpoint.name!r} was not trained on kind={record.kind!r}. Trained kinds: {kinds}."
        )
        raise InputError(message)
    names = known[record.kind]
    # Spellings of a drug or a cytokine differ in hyphens and Greek letters: IFN-β, IFN-beta.
    for spelling in (str.casefold, plain):
        same = [name for name in names if spelling(name) == spelling(record.target.strip())]
        if len(same) == 1:
            return same[0]
    # Names of the panel first; names of genes elsewhere only for a target that is not measured.
    try:
        symbols = (gene_names(checkpoint).find(record.target).symbol,)
    except NotFoundError:
        symbols = real_genes(record.target)
    # A name of several genes is resolved only if it has no second meaning.
    trained = [s for s in symbols if s in names]
    if len(symbols) == 1 and trained:
        return trained[0]
    if trained:
        message = (
            f"{quoted(record.target)} is a name of several genes: {', '.join(symbols)}. Trained "
            f"{record.kind} targets among them: {', '.join(trained)}; name one."
        )
        raise NotFoundError(message)
    # For a gene that exists, or a cytokine that one makes, another name is another question.
    near = "" if symbols else did_you_mean(record.target, names)
    similar = [] if symbols else nearest(record.target, names, 1)
    shown = ", ".join(names[:40]) + (f" … ({len(names)} in all)" if len(names) > 40 else "")
    message = (
        f"{checkpoint.name!r} has no {record.kind} target {quoted(record.target)}."
        f"{near} Trained {record.kind} targets: {shown}."
    )
    raise NotFoundError(message, {record.target: next(iter(similar), None)})


def doses(checkpoint: Checkpoint, kind: str, target: str) -> set[float | None]:
    """Return the doses of a target that were trained on; None stands for cells without one."""
    return {
        intervention.get("dose")
        for entry in checkpoint.config["seen"]
        for intervention in entry["interventions"]
        if intervention["kind"] == kind and intervention["target"] == target
    }


def _check_dose(checkpoint: Checkpoint, intervention: Intervention) -> None:
    """Refuse a dose that was never trained on: nothing is known of what lies between doses."""
    target, dose = intervention.target, intervention.dose
    known = doses(checkpoint, intervention.kind, target)
    if not known or dose in known:
        return
    numbers = sorted(number for number in known if number is not None)
    if not numbers:
        message = (
            f"{checkpoint.name!r} was trained on {target!r} without doses, so dose={dose:g} means "
            "nothing to it; leave dose out"
        )
        raise InputError(message)
    problem = "no dose is given" if dose is None else f"dose={dose:g} is none of them"
    shown = ", ".join(f"{number:g}" for number in numbers)
    message = f"{checkpoint.name!r} was trained on {target!r} at doses {shown}: {problem}"
    raise InputError(message)


def _check_fit(design: Design) -> None:
    if not design.interventions or design.allow_unfit:
        return
    parts = design.mixture.parts if design.mixture else ()
    for context in [p.context for p in parts] or [design.context]:
        _check_fit_in(design, context)


def _check_fit_in(design: Design, context: Mapping[str, str]) -> None:
    reasons = design.checkpoint.unfit(context, design.interventions)
    if reasons:
        message = (
            f"{design.label} in {context_label(context)} is unfit in "
            f"{design.checkpoint.name!r}: its sampled cells do not deliver the effect "
            f"({'; '.join(reasons)}). Choose another condition, train the checkpoint again, "
            "or set allow_unfit=true to have the cells all the same."
        )
        raise InputError(message)


def _check_size(design: Design) -> None:
    genes = len(design.checkpoint.panel)
    if design.total_cells * genes > MAX_COUNTS:
        # Largest n_cells for this panel and number of arms.
        most = MAX_COUNTS // (genes * len(design.arms))
        message = (
            f"n_cells={design.n_cells} x {len(design.arms)} arms x {genes} genes is "
            f"{design.total_cells * genes:,} counts; at most {MAX_COUNTS:,} fit in one experiment. "
            f"Ask for n_cells between 1 and {most}, and go on with first_cell={most}."
        )
        raise InputError(message)
