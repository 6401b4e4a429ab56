"""Aims of an objective, resolved: what a plan keeps, and the vectors that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_tools.analysis import Aim, Objective
from lingshu_tools.analysis.certainty import SUPPORTED
from lingshu_tools.analysis.effects import Floats
from lingshu_tools.errors import InputError, MissingCheckpointError, quoted
from lingshu_tools.experiments.designs import (
    Design,
    context_label,
    label_of,
    resolve_context,
)
from lingshu_tools.experiments.lookup import locate
from lingshu_tools.experiments.stored_effects import aimed_posterior, stored_effect
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.planner.candidates import Perturbation, resolve_candidate
from lingshu_tools.planner.objectives.gene_lists import weighted
from lingshu_tools.planner.objectives.requests import Request
from lingshu_tools.planner.rules import seen_alone

FEWEST = 3
"""Trained perturbations from which the spread of an aim is known."""
_SIMULATED = ("perturb_cells", "sample_cells")


def aim_records(workspace: Workspace, control: Design, request: Request) -> list[dict[str, Any]]:
    """Return what aims are about, as JSON values, in a fixed order."""
    aims: list[dict[str, Any]] = []
    for kind, items in (("like", request.like), ("unlike", request.unlike)):
        aims += [_compared(control, kind, item) for item in items]
    keys = [str(a["interventions"]) for a in aims]
    if len(set(keys)) < len(keys):
        (twice, *_) = [a["label"] for a, key in zip(aims, keys, strict=True) if keys.count(key) > 1]
        message = f"like and unlike name {twice} more than once; it cannot be both, name it once"
        raise InputError(message)
    aims.sort(key=lambda a: (a["kind"], a["label"]))
    if request.toward:
        aims.append(_toward(workspace, control, request.toward, request.toward_weight))
    if request.magnitude is not None:
        if not isfinite(request.magnitude) or request.magnitude == 0:
            message = f"magnitude={request.magnitude} is no weight; give 1, or -1 for small effects"
            raise InputError(message)
        aims.append({"kind": "magnitude", "label": "", "weight": float(request.magnitude)})
    if aims and control.checkpoint.effects is None:
        message = (
            f"{control.checkpoint.name!r} stores no effects, which like, unlike, toward and "
            "magnitude are worked out from; give genes to raise or to lower"
        )
        raise InputError(message)
    return aims


def _compared(control: Design, kind: str, item: str) -> dict[str, Any]:
    """Return `like` or `unlike` one perturbation, whose effect must have a direction."""
    name, weight = weighted(item)
    perturbation = resolve_candidate(control.checkpoint, name)
    aim = {
        "kind": kind,
        "label": label_of(perturbation),
        "weight": weight,
        "interventions": [i.model_dump(mode="json") for i in perturbation],
    }
    if control.checkpoint.effects is None:
        return aim
    stored = stored_effect(replace(control, interventions=perturbation))
    targets = {i.target for i in perturbation}
    others = np.array([gene not in targets for gene in control.checkpoint.panel])
    if stored is None or not (stored.posterior.lfsr[others] <= SUPPORTED).any():
        message = (
            f"{kind} {aim['label']}: no gene beside its own changes with a supported sign in "
            f"{context_label(control.context)}, so its effect has no direction to compare with; "
            "perturb_cells shows what is known of it"
        )
        raise InputError(message)
    return aim


def _toward(
    workspace: Workspace, control: Design, toward: str | Mapping[str, str], weight: float
) -> dict[str, Any]:
    """Return the aim to move toward an experiment's cells, or control cells of a context."""
    checkpoint = control.checkpoint
    interventions: Perturbation = ()
    if isinstance(toward, str):
        _, experiment = locate(workspace, toward)
        request = experiment.request
        if request.get("cells") is not None or experiment.tool not in _SIMULATED:
            message = (
                f"toward={quoted(toward)} is of {experiment.tool}; give an experiment of "
                "perturb_cells or sample_cells on simulated cells, or a context"
            )
            raise InputError(message)
        if request["checkpoint_digest"] != checkpoint.digest:
            message = (
                f"toward={quoted(toward)} was made with the checkpoint {request['checkpoint']!r} "
                f"({request['checkpoint_digest'][:19]}…), and this screen is of "
                f"{checkpoint.name!r}; give one of this checkpoint"
            )
            raise MissingCheckpointError(message)
        context = dict(request["context"])
        interventions = tuple(Intervention(**i) for i in request["interventions"])
    else:
        context = resolve_context(checkpoint, toward)
    if not interventions and context == dict(control.context):
        message = (
            f"toward {context_label(context)} is where the screen's cells are: no distance is left "
            "to close; give another context, or an experiment of perturb_cells"
        )
        raise InputError(message)
    with_it = f"{label_of(interventions)} in " if interventions else ""
    return {
        "kind": "toward",
        "label": f"{with_it}{context_label(context)}",
        "weight": weight,
        "interventions": [i.model_dump(mode="json") for i in interventions],
        "context": context,
    }


def aims_of(
    checkpoint: Checkpoint, context: Mapping[str, str], records: Sequence[Mapping[str, Any]]
) -> tuple[Aim, ...]:
    """Return aims with the vectors that they compare with, from their records."""
    return tuple(
        Aim(
            r["kind"],
            r["label"],
            r["weight"],
            r.get("scale", 1.0),
            _target_change(checkpoint, context, r),
        )
        for r in records
    )


def _target_change(
    checkpoint: Checkpoint, context: Mapping[str, str], record: Mapping[str, Any]
) -> Floats | None:
    """Return what an aim compares changes with, log1p_cp10k, [genes]; NaN where not known."""
    effects = checkpoint.effects
    if record["kind"] == "magnitude" or effects is None:
        return None
    perturbation = perturbation_of(record["interventions"])
    there: Mapping[str, str] = record.get("context", context)
    change = np.zeros(len(checkpoint.panel))
    if perturbation:
        change = effects.effect(there, perturbation).posterior.mean.copy()
    if record["kind"] == "toward":
        numbers = [effects.context(each) for each in (there, context)]
        if None in numbers:
            message = f"toward {record['label']}: there are no control cells of it to compare with"
            raise InputError(message)
        start, end = (effects.control(n) for n in (numbers[1] or 0, numbers[0] or 0))
        return end + change - start
    # The genes that are perturbed themselves are no sign of the same effect.
    change[[g in {i.target for i in perturbation} for g in checkpoint.panel]] = np.nan
    return change


def scaled(
    control: Design, objective: Objective, records: list[dict[str, Any]]
) -> tuple[Objective, list[dict[str, Any]]]:
    """Return an objective whose parts are divided by their spread, where there are several.

    The spread is over trained single perturbations, three digits: a plan has the same on any
    machine.
    """
    if len(records) + bool(objective.genes) < 2:
        signs = [{**r, "weight": 1.0 if r["weight"] > 0 else -1.0} for r in records]
        alone = tuple(
            replace(a, weight=r["weight"]) for a, r in zip(objective.aims, signs, strict=True)
        )
        return replace(objective, aims=alone), signs
    trained = seen_alone(control.checkpoint, control.context)
    designs = [replace(control, interventions=(i,)) for i in trained]
    spread = _spread(designs, replace(objective, aims=())) if objective.genes else 1.0
    aims: list[Aim] = []
    for aim in objective.aims:
        unit = replace(aim, weight=1.0, scale=1.0)
        aims.append(replace(aim, scale=_spread(designs, Objective(aims=(unit,)))))
    scaled = [{**r, "scale": a.scale} for r, a in zip(records, aims, strict=True)]
    return replace(objective, aims=tuple(aims), scale=spread), scaled


def _spread(designs: Sequence[Design], objective: Objective) -> float:
    values: list[float] = []
    for design in designs:
        posterior = aimed_posterior(design)
        if posterior is None:
            continue
        targets = {i.target for i in design.interventions}
        value = objective.value(design.checkpoint.panel, posterior.mean, targets, posterior.sd**2)
        values += [] if value is None else [value]
    sd = float(np.std(values)) if len(values) >= FEWEST else 0.0
    return float(f"{sd:.3g}") if sd > 0 else 1.0


def perturbation_of(records: Sequence[Mapping[str, Any]]) -> Perturbation:
    """Return the perturbation of an aim's record."""
    return tuple(Intervention(**record) for record in records)
