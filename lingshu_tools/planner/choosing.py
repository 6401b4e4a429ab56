"""From the candidates of a call to those of a plan: named, of rules, and within constraints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lingshu_model.contracts import Intervention
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import Design, label_of
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.planner.candidates import Perturbation, resolve_candidate
from lingshu_tools.planner.objectives.constraints import Constraints
from lingshu_tools.planner.objectives.wanted import Wanted
from lingshu_tools.planner.rules import ALL_SEEN, Rule, resolve_rule, rule_text
from lingshu_tools.planner.scoring import Scoring, scored

MAX_CANDIDATES = 2000
KEPT_FOR_EACH = 4
"""Candidates of rules that may be simulated, for each of the `top_n` that are wanted."""
NAMED = 5
"""Candidates that were left out of which the plan keeps the names."""
WHY = {
    "avoid": "targets to avoid",
    "only": "not of the allowed kinds or targets",
    "keep": "a gene to keep may change",
    "reference": "what candidates are compared with",
}
LeftOut = Mapping[str, tuple[int, tuple[str, ...]]]


@dataclass(frozen=True)
class Chosen:
    """The candidates of a plan.

    Attributes:
        candidates: to simulate, in canonical order.
        scoring: how they were chosen from rules; None where all were listed.
        repeated: labels of candidates that were named more than once, one by one.
        left_out: candidates, and parts of rules, that constraints leave out.
    """

    candidates: tuple[Perturbation, ...]
    scoring: Scoring | None
    repeated: tuple[str, ...]
    left_out: LeftOut


def split(candidates: Any) -> tuple[list[Any], list[str]]:
    """Return candidates named one by one, and the texts of rules."""
    if candidates == ALL_SEEN or (isinstance(candidates, list) and candidates == [ALL_SEEN]):
        return [ALL_SEEN], []
    items = [candidates] if isinstance(candidates, str | Mapping) else list(candidates)
    texts = [rule_text(item) for item in items]
    listed = [item for item, text in zip(items, texts, strict=True) if text is None]
    return listed, [text for text in texts if text is not None]


def chosen_of(
    workspace: Workspace, control: Design, wanted: Wanted, candidates: Any, top_n: int
) -> Chosen:
    """Return the candidates to simulate.

    Raises:
        InputError: a name or a rule is wrong, or no candidate is left within the constraints.
    """
    constraints, checkpoint = wanted.constraints, control.checkpoint
    listed, texts = split(candidates)
    if listed == [ALL_SEEN]:
        every = _all_seen(control)
        kept, left_out = within(constraints, control, every)
        _require(constraints, control, every, kept, left_out)
        return Chosen(_listed(kept), None, (), left_out)
    perturbations = [resolve_candidate(checkpoint, record) for record in listed]
    repeated = _repeated(perturbations)
    kept, left_out = within(constraints, control, perturbations)
    if not texts:
        _require(constraints, control, perturbations, kept, left_out)
        return Chosen(_listed(kept), None, repeated, left_out)
    home = workspace.home
    rules = [resolve_rule(checkpoint, control.context, text, home) for text in texts]
    rules, of_rules = allowed_rules(constraints, rules)
    keep = KEPT_FOR_EACH * top_n
    scoring, best = scored(
        checkpoint, control.context, wanted.objective, rules, keep, constraints.keep_of(control)
    )
    scoring = replace(scoring, n=scoring.n + len(kept))
    # Combinations that were measured are judged by their measured effect.
    best, of_best = within(constraints, control, best)
    _require(constraints, control, [*perturbations, *best], [*kept, *best], left_out)
    return Chosen(_listed([*kept, *best]), scoring, repeated, _sum(left_out, of_rules, of_best))


def within(
    constraints: Constraints, control: Design, candidates: Sequence[Perturbation]
) -> tuple[list[Perturbation], LeftOut]:
    """Return the candidates that keep to constraints, and how many do not, by constraint."""
    kept: list[Perturbation] = []
    refused: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(candidates):
        reason = constraints.reason(replace(control, interventions=candidate))
        if reason is None:
            kept.append(candidate)
        else:
            refused.setdefault(reason, []).append(label_of(candidate))
    return kept, {why: (len(n), tuple(sorted(n)[:NAMED])) for why, n in sorted(refused.items())}


def allowed_rules(constraints: Constraints, rules: Sequence[Rule]) -> tuple[list[Rule], LeftOut]:
    """Return rules without the parts that constraints leave out, and how many parts these are.

    Raises:
        InputError: a rule combines more perturbations than are left.
    """
    result: list[Rule] = []
    refused: dict[str, set[str]] = {}
    for rule in rules:
        parts = tuple(part for part in rule.parts if constraints.allows(part))
        for part in rule.parts:
            why = constraints.refused(part)
            if why is not None:
                refused.setdefault(why, set()).add(label_of([part]))
        if len(parts) < rule.size:
            message = (
                f"{rule.text[:200]!r} combines {rule.size} of {len(rule.parts)} perturbations, and "
                f"constraints ({', '.join(refused)}) leave {len(parts)}; avoid fewer, or allow more"
            )
            raise InputError(message)
        result.append(replace(rule, parts=parts))
    named = {why: (len(n), tuple(sorted(n)[:NAMED])) for why, n in sorted(refused.items())}
    return result, named


def left_out_words(left_out: LeftOut) -> list[str]:
    """Return a sentence on what constraints leave out; none without."""
    if not left_out:
        return []
    parts: list[str] = []
    for why, (n, names) in left_out.items():
        more = " …" if n > len(names) else ""
        parts.append(f"{n} ({WHY[why]}: {', '.join(names)}{more})")
    return [f"Constraints leave out {'; '.join(parts)}."]


def _require(
    constraints: Constraints,
    control: Design,
    candidates: Sequence[Perturbation],
    kept: Sequence[Perturbation],
    left_out: LeftOut,
) -> None:
    """Refuse constraints that leave nothing.

    Raises:
        InputError: with how many each leaves out, and the narrowest bound that would leave some.
    """
    if kept or not candidates:
        return
    reasons = "; ".join(
        f"{n} by {why} ({WHY[why]}: {', '.join(names)}{' …' if n > len(names) else ''})"
        for why, (n, names) in left_out.items()
    )
    designs = [replace(control, interventions=c) for c in dict.fromkeys(candidates)]
    judged = [d for d in designs if constraints.reason(d) == "keep"]
    farthest = min((constraints.farthest(d) for d in judged), default=np.inf)
    hint = (
        f" The candidate that keeps them best needs keep_within={np.ceil(farthest * 100) / 100:g}."
        if np.isfinite(farthest)
        else ""
    )
    message = (
        f"constraints leave none of {len(designs)} candidates: {reasons}.{hint} Loosen them, or "
        "name other candidates. Nothing was planned."
    )
    raise InputError(message)


def _sum(*parts: LeftOut) -> LeftOut:
    total: dict[str, tuple[int, tuple[str, ...]]] = {}
    for part in parts:
        for why, (n, names) in part.items():
            before = total.get(why, (0, ()))
            total[why] = (before[0] + n, (*before[1], *names)[:NAMED])
    return dict(sorted(total.items()))


def _listed(perturbations: Sequence[Perturbation]) -> tuple[Perturbation, ...]:
    unique = {tuple(i.sort_key for i in p): p for p in perturbations}
    if not 1 <= len(unique) <= MAX_CANDIDATES:
        message = (
            f"candidates hold {len(unique)} perturbations; 1 to {MAX_CANDIDATES} fit in one "
            'screen. Name targets, or ["all_seen"], or a rule such as "pairs_of all_seen", of '
            "which the best are simulated; describe_model lists targets."
        )
        raise InputError(message)
    return tuple(unique[key] for key in sorted(unique))


def _repeated(perturbations: Sequence[Perturbation]) -> tuple[str, ...]:
    """Return the labels of perturbations that are listed more than once."""
    times = Counter(perturbations)
    return tuple(sorted(label_of(p) for p, n in times.items() if n > 1))


def _all_seen(control: Design) -> list[Perturbation]:
    entries = [
        tuple(sorted((Intervention(**i) for i in e["interventions"]), key=lambda i: i.sort_key))
        for e in control.checkpoint.config["seen"]
        if e["context"] == dict(control.context)
    ]
    return [p for p in entries if p and all(i.kind != "sham" for i in p)]
