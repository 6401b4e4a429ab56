"""What a screen is to find: an objective and constraints, resolved, and their ledger record.

A record of genes to raise and to lower alone is what it was before there was more, so that equal
plans keep their digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lingshu_model.contracts import Checkpoint
from lingshu_tools.analysis import Aim, Objective
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.planner.objectives.aim_records import (
    aim_records,
    aims_of,
    perturbation_of,
    scaled,
)
from lingshu_tools.planner.objectives.constraints import KEEP_WITHIN, Constraints, constraints_of
from lingshu_tools.planner.objectives.gene_lists import UsedSet, measured_genes, weighted
from lingshu_tools.planner.objectives.requests import Request, few, joined

EXAMPLE = '{"lower": ["STAT1"]} or {"like": ["STAT1 knockout"]}'


@dataclass(frozen=True)
class Wanted:
    """An objective and its constraints, as a plan has them.

    Attributes:
        objective: what is scored.
        constraints: what candidates must not do.
        sets: gene sets of the objective, by argument.
        aims: what aims are about, as JSON values.
        left_out: candidates that constraints leave out, by constraint: how many, and some names.
    """

    objective: Objective
    constraints: Constraints = field(default_factory=Constraints)
    sets: Mapping[str, tuple[UsedSet, ...]] = field(default_factory=dict[str, tuple[UsedSet, ...]])
    aims: tuple[dict[str, Any], ...] = ()
    left_out: Mapping[str, tuple[int, tuple[str, ...]]] = field(
        default_factory=dict[str, tuple[int, tuple[str, ...]]]
    )

    @property
    def record(self) -> dict[str, Any]:
        """JSON values; more than `lower` and `raise` only where there is more."""
        o, c = self.objective, self.constraints
        optional: dict[str, Any] = {
            "weights": dict(o.gene_weights),
            "sets": {verb: [s.record for s in sets] for verb, sets in self.sets.items() if sets},
            "aims": list(self.aims),
            "keep": list(c.keep),
            "avoid": sorted(c.avoid),
            "kinds": list(c.kinds),
            "targets": sorted(c.targets),
            "left_out": {why: [n, list(names)] for why, (n, names) in self.left_out.items()},
        }
        given = {name: value for name, value in optional.items() if value}
        given |= {"keep_within": c.within} if c.keep else {}
        given |= {"scale": o.scale} if o.scale != 1.0 else {}
        return {"lower": list(o.down), "raise": list(o.up), **given}

    @property
    def shown(self) -> dict[str, list[str]]:
        """The objective as results have it; a gene set is one entry, with its coverage."""
        o, c = self.objective, self.constraints
        texts = {
            "lower": self._named("lower", o.down),
            "raise": self._named("raise", o.up),
            **{
                kind: [a.label or _size_word(a) for a in o.aims if a.kind == kind] for kind in _AIMS
            },
            "keep": [*self._named("keep", c.keep), *([f"within {c.within:g}"] if c.keep else [])],
            "avoid": few(sorted(c.avoid)),
            "only": [*c.kinds, *few(sorted(c.targets))],
        }
        return {name: value for name, value in texts.items() if value or name in ("lower", "raise")}

    @property
    def words(self) -> str:
        """The objective as a phrase: `lower PSMB9, STAT1 and raise CD86`."""
        shown = self.shown
        phrases = [
            *(f"{verb} {joined(shown[verb])}" for verb in ("lower", "raise") if shown[verb]),
            *(f"{_VERBS[kind]} {joined(shown[kind])}" for kind in _AIMS if shown.get(kind)),
        ]
        kept = self._named("keep", self.constraints.keep)
        phrases += [f"keep {joined(kept)}"] if kept else []
        return " and ".join(phrases)

    def _named(self, verb: str, genes: Sequence[str]) -> list[str]:
        """Return genes named alone, weights with them, and sets by their names."""
        sets = self.sets.get(verb, ())
        of_sets = {gene for each in sets for gene in each.measured}
        weights = self.objective.gene_weights
        alone = [f"{g}:{weights[g]:g}" if g in weights else g for g in genes if g not in of_sets]
        return [*(each.words for each in sets), *alone]


_AIMS = ("like", "unlike", "toward", "magnitude")
_VERBS = {"like": "act like", "unlike": "reverse", "toward": "move toward", "magnitude": "have"}


def wanted_of(workspace: Workspace, control: Design, request: Request) -> Wanted:
    """Return an objective and constraints, every name resolved.

    Raises:
        InputError: a name is unknown or not measured, the objective is empty or contradicts itself,
            or needs effects that the checkpoint does not store.
    """
    checkpoint, home = control.checkpoint, workspace.home
    up = measured_genes(checkpoint, request.up, home, "raise")
    down = measured_genes(checkpoint, request.down, home, "lower")
    keep = measured_genes(checkpoint, request.keep, home, "keep")
    with_weight = [item for item in request.keep if weighted(item)[1] != 1.0]
    if with_weight:
        message = f"keep has {with_weight[0]!r}: genes that are to stay have a bound and no weight"
        raise InputError(message)
    _no_contradiction({"raise": up.weights, "lower": down.weights, "keep": keep.weights})
    weights = {g: w for g, w in sorted((up.weights | down.weights).items()) if w != 1.0}
    if len({*(up.weights | down.weights).values()}) == 1:
        # One weight for all is none.
        weights = {}
    aims = aim_records(workspace, control, request)
    if not (up.weights or down.weights or aims):
        message = (
            "objective names no gene and no other aim; give genes to raise or to lower, or a "
            f"perturbation that others are to be like, e.g. {EXAMPLE}"
        )
        raise InputError(message)
    objective = Objective(
        tuple(up.weights), tuple(down.weights), weights, aims_of(checkpoint, control.context, aims)
    )
    objective, aims = scaled(control, objective, aims)
    sets = {"raise": up.sets, "lower": down.sets, "keep": keep.sets}
    references = tuple(perturbation_of(a["interventions"]) for a in aims if a["kind"] == "like")
    constraints = constraints_of(checkpoint, home, request, tuple(keep.weights), references)
    return Wanted(objective, constraints, sets, tuple(aims))


def wanted_of_record(
    record: Mapping[str, Any], checkpoint: Checkpoint, context: Mapping[str, str]
) -> Wanted:
    """Return what a plan's record says of its objective."""
    aims: list[dict[str, Any]] = record.get("aims", [])
    objective = Objective(
        tuple(record.get("raise", ())),
        tuple(record.get("lower", ())),
        dict(record.get("weights", {})),
        aims_of(checkpoint, context, aims),
        record.get("scale", 1.0),
    )
    constraints = Constraints(
        tuple(record.get("keep", ())),
        record.get("keep_within", KEEP_WITHIN),
        frozenset(record.get("avoid", ())),
        tuple(record.get("kinds", ())),
        frozenset(record.get("targets", ())),
        tuple(perturbation_of(a["interventions"]) for a in aims if a["kind"] == "like"),
    )
    sets = {v: tuple(map(UsedSet.of_record, s)) for v, s in record.get("sets", {}).items()}
    left_out = {why: (n, tuple(names)) for why, (n, names) in record.get("left_out", {}).items()}
    return Wanted(objective, constraints, sets, tuple(aims), left_out)


def shown_of_record(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the objective of a plan's record as results have it, without its checkpoint."""
    plain = {**record, "aims": []}
    shown = wanted_of_record(plain, _NO_CHECKPOINT, {}).shown
    for aim in record.get("aims", []):
        label = aim.get("label") or ("small effect" if aim["weight"] < 0 else "large effect")
        shown.setdefault(aim["kind"], []).append(label)
    return shown


_NO_CHECKPOINT: Any = None


def _no_contradiction(lists: Mapping[str, Mapping[str, float]]) -> None:
    names = list(lists)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = sorted(set(lists[first]) & set(lists[second]))
            if both:
                message = (
                    f"objective {first}s and {second}s {_quoted(both)}, which "
                    "contradict each other; name each gene once"
                )
                raise InputError(message)


def _quoted(genes: Sequence[str]) -> str:
    return ", ".join(repr(name) if name in genes else name for name in few(genes))


def _size_word(aim: Aim) -> str:
    return "a small effect" if aim.weight < 0 else "a large effect"
