"""Replays: an experiment run again from its row, and the verdict on what came back.

exact       the same cells, bit for bit, under the same numerics profile
same_kind   the same cells under another profile, named in `differs`
equivalent  other cells under another profile, but effects that agree within Monte Carlo error
different   anything else; under the same profile, a fault worth reporting
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_model.contracts import Blob, decode_cells, row_blocks
from lingshu_model.contracts.canonical import digest_pieces
from lingshu_tools.errors import NotFoundError
from lingshu_tools.experiments.designs import design_of, new_experiment, replaces
from lingshu_tools.experiments.disk_space import require_free_space
from lingshu_tools.experiments.lookup import is_screen, locate
from lingshu_tools.experiments.roots import require_same_file
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment, Ledger, Outcome, Verdict

# A field of the request, in rows whose original is in another ledger.
REPLAY_OF = "replay_of"
CELL_ROLES = ("control", "perturbed", "cells", "given", "scores")
AGREE_SE = 3.0
AGREE_SHARE = 0.98
"""Fixed beforehand: 98 % of the kept genes within 3 combined standard errors."""


@dataclass(frozen=True)
class Comparison:
    """A verdict and what is not the same; `differs` holds JSON values only."""

    verdict: Verdict
    differs: dict[str, Any]


def replayed(experiment: Experiment) -> str | None:
    """Return the id of what an experiment replays, or None.

    A replay of this home's ledger has the original as its parent; one of the reference ledger,
    whose rows are not here, names it in its request. A parent may also be the cancelled experiment
    that one was begun in place of, which is no replay.
    """
    parent = experiment.parent or ""
    # An id of a screen begins otherwise, and a replaced experiment is recognised by its client key.
    if parent.startswith("exp_") and parent != replaces(experiment):
        return parent
    return experiment.request.get(REPLAY_OF)


def begin_replay(workspace: Workspace, ledger: Ledger, original: Experiment) -> Experiment:
    """Return the experiment that is to replay one of `ledger`, begun but not launched.

    Raises:
        InputError: the checkpoint here is not the one it was made with, or the file of the user's
            cells that it is on is not as it was.
    """
    design = design_of(workspace, original)
    require_same_file(workspace.home, original.id, design.cells)
    require_free_space(workspace, design)
    # A parent must be in the same ledger.
    if ledger.read_only:
        return workspace.ledger.begin(
            new_experiment(workspace, design, extra={REPLAY_OF: original.id})
        )
    return workspace.ledger.begin(new_experiment(workspace, design, parent=original.id))


def group_of(workspace: Workspace, experiment: Experiment) -> str:
    """Return the name under which the engine schedules an experiment's arms.

    A screen's experiments have one, the replays of a screen's experiments another; any other
    experiment has its own.
    """
    parent = experiment.parent or ""
    if is_screen(parent):
        return parent
    if original := replayed(experiment):
        with suppress(NotFoundError):  # as in `verdict_of`
            screen = locate(workspace, original)[1].parent or ""
            if is_screen(screen):
                return f"replay of {screen}"
    return experiment.id


def profile_of(ledger: Ledger, environment: str | None) -> str | None:
    """Return the digest of the numerics profile of an environment, by the environment's digest."""
    return ledger.environment(environment).get("profile_digest") if environment else None


def verdict_of(workspace: Workspace, replay: Experiment) -> Comparison | None:
    """Return how a replay compares with what it replays; None unless both succeeded.

    None too where the original is in a ledger that is not at hand: it was replayed from somebody
    else's file (`lingshu replay --all --ledger FILE`).
    """
    try:
        ledger, original = locate(workspace, replayed(replay) or "")
    except NotFoundError:
        return None
    before, after = ledger.outcome(original.id), workspace.ledger.outcome(replay.id)
    if before is None or after is None or {before.kind, after.kind} != {"succeeded"}:
        return None
    return compared(ledger, before, workspace.ledger, after)


def record_verdict(workspace: Workspace, replay: Experiment) -> None:
    """Write a replay's verdict beside the original, once; the reference ledger is never written."""
    verdict = verdict_of(workspace, replay)
    if verdict is None:
        return
    ledger, original = locate(workspace, replayed(replay) or "")
    if ledger.read_only:
        return
    # Another process may have recorded it meanwhile.
    if replay.id in [v.replay_id for v in ledger.verifications(original.id)]:
        return
    ledger.record_verification(
        original.id,
        verdict.verdict,
        differs=verdict.differs,
        environment=_environment(workspace.ledger, workspace.ledger.outcome(replay.id)),
        replay_id=replay.id,
    )


def compared(before_in: Ledger, before: Outcome, after_in: Ledger, after: Outcome) -> Comparison:
    """Return how an outcome compares with an earlier one, both of which succeeded."""
    roles = [role for role in CELL_ROLES if role in before.artifacts or role in after.artifacts]
    changed = [
        r
        for r in roles
        if not _same_cells(before_in, before.artifacts.get(r), after_in, after.artifacts.get(r))
    ]
    profile = _difference(_environment(before_in, before), _environment(after_in, after))
    # Versions of packages alone do not make it another kind: counts follow from the profile.
    numerics = {k: v for k, v in profile.items() if k.startswith("profile")}
    differs: dict[str, Any] = {"environment": profile} if profile else {}
    # Effects, for instance: derived from cells, but stored by themselves.
    others = set(before.artifacts) - set(roles)
    changed_others = sorted(r for r in others if before.artifacts[r] != after.artifacts.get(r))
    if changed or changed_others:
        differs["artifacts"] = [*changed, *changed_others]
    if not changed:
        return Comparison("same_kind" if numerics else "exact", differs)
    differs["counts"] = {r: _counts(before_in, before, after_in, after, r) for r in changed}
    agreement = _agreement(before, after)
    differs["agreement"] = agreement
    # Under the same profile other cells are a fault, however close the effects are.
    agree = agreement is not None and agreement["share_within"] >= AGREE_SHARE
    return Comparison("equivalent" if agree and numerics else "different", differs)


def _same_cells(before_in: Ledger, before: str | None, after_in: Ledger, after: str | None) -> bool:
    """Return whether two artifacts hold the same cells; one may not say whose they are."""
    if before == after or before is None or after is None:
        return before == after
    return _of_cells_alone(before_in, before) == _of_cells_alone(after_in, after)


def _of_cells_alone(ledger: Ledger, digest: str) -> str:
    """Return the digest that stored cells have without their origin in the header."""
    if not ledger.has_object(digest):
        return digest
    return digest_pieces(Blob([decode_cells(ledger.object_file(digest))]))


def _counts(
    before_in: Ledger, before: Outcome, after_in: Ledger, after: Outcome, role: str
) -> dict[str, Any] | None:
    """Return how many counts are the same and how far the others are; None if no longer stored."""
    first, second = before.artifacts.get(role), after.artifacts.get(role)
    if not (first and second and before_in.has_object(first) and after_in.has_object(second)):
        return None
    a = decode_cells(before_in.object_file(first))
    b = decode_cells(after_in.object_file(second))
    if a.shape != b.shape:
        return {"shapes": [list(a.shape), list(b.shape)]}
    # Number of counts that differ, the largest gap in UMI, and [cell, gene] of the first.
    others, largest, at = 0, 0, None
    for rows in row_blocks(*a.shape):
        # int64, since a difference of int32 counts could wrap around.
        gap = np.abs(a[rows].counts.astype(np.int64) - b[rows].counts)
        where = np.argwhere(gap)
        if at is None and len(where):
            at = [rows.start + int(where[0, 0]), int(where[0, 1])]
        others, largest = others + len(where), max(largest, int(gap.max(initial=0)))
    n_counts = len(a) * len(a.measured)
    return {
        "identical_share": (n_counts - others) / n_counts,
        "largest_difference": largest,
        "first_difference": at,
    }


def _agreement(before: Outcome, after: Outcome) -> dict[str, Any] | None:
    """Return the share of the kept genes that agree within Monte Carlo error."""
    old = {row["gene"]: row for row in (before.result or {}).get("kept", [])}
    new = {row["gene"]: row for row in (after.result or {}).get("kept", [])}
    gaps = [
        # In combined standard errors; a gene without an error (of one pair of cells) is left out.
        abs(old[g]["value"] - new[g]["value"]) / math.hypot(old[g]["se"], new[g]["se"])
        for g in old.keys() & new.keys()
        if old[g]["se"] and new[g]["se"]
    ]
    if not gaps:
        return None
    return {
        "genes": len(gaps),
        "share_within": sum(gap <= AGREE_SE for gap in gaps) / len(gaps),
        "within_standard_errors": AGREE_SE,
        "largest_gap": max(gaps),
    }


def _environment(ledger: Ledger, outcome: Outcome | None) -> dict[str, Any]:
    digest = outcome.environment_digest if outcome else None
    return dict(ledger.environment(digest)) if digest else {}


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return `path -> [before, after]` of every leaf that is not the same."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return {k: [old.get(k), new.get(k)] for k in sorted(old | new) if old.get(k) != new.get(k)}


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner
