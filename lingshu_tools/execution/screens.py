"""Screens in the ledger: which experiments count, and how those that stopped are begun again."""

from __future__ import annotations

from collections.abc import Sequence

from lingshu_tools.execution.resuming import in_place_of
from lingshu_tools.experiments.disk_space import require_free_space
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment, Ledger, Screen
from lingshu_tools.planner import Plan
from lingshu_tools.planner.ranking import race_state


def candidates_of(ledger: Ledger, screen_id: str) -> list[Experiment]:
    """Return the experiments of a screen that count, by position: of each position the newest."""
    # Children come by position and then by age, so the newest of a position stays.
    latest = {child.position: child for child in ledger.children(screen_id)}
    return list(latest.values())


def begin_screen(workspace: Workspace, plan: Plan, screen: Screen, tags: Sequence[str]) -> None:
    """Begin what a screen lacks: all its experiments, or those that were cancelled or failed.

    A failed one is begun again when nothing of the screen is unfinished, so that asking how far a
    running screen is repeats no failure.
    """
    # The rows have client keys, so that a second process begins none twice.
    there = candidates_of(workspace.ledger, screen.id)
    if plan.race:
        again = stopped_of(workspace.ledger, there)
        if again:
            workspace.ledger.begin_many([in_place_of(workspace, old) for old in again], tags=tags)
        else:
            begin_round(workspace, plan, screen, tags)
        return
    # Begun in one transaction: there are none of them, or all.
    if len(there) < len(plan.candidates):
        require_free_space(workspace, plan.designs[0], stored_cells=plan.total_cells)
        workspace.ledger.begin_many(plan.children(workspace, screen.id), tags=tags)
        return
    again = stopped_of(workspace.ledger, there)
    if again:
        # Their perturbed arms, and the control that they share.
        cells = (len(again) + 1) * plan.control.n_cells
        require_free_space(workspace, plan.designs[0], stored_cells=cells)
        workspace.ledger.begin_many([in_place_of(workspace, old) for old in again], tags=tags)


def begin_round(
    workspace: Workspace, plan: Plan, screen: Screen, tags: Sequence[str] = ()
) -> list[str]:
    """Return the unfinished experiments of a race, the missing ones of its round begun.

    Nothing is begun where the race is over, or where part of its round was cancelled.
    """
    race = plan.race
    there = candidates_of(workspace.ledger, screen.id)
    state = race_state(plan, workspace.ledger, there)
    if state.over or race is None:
        return []
    # Positions of a race: round times the number of candidates, plus the candidate's place.
    first = state.round * len(plan.candidates)
    at_work = {child.position: child for child in there}
    missing = [place for place in state.missing if first + place not in at_work]
    begun = [at_work[first + place].id for place in state.missing if first + place in at_work]
    if missing:
        # Cells of a batch of this round, and those of the control for it.
        cells = (len(missing) + 1) * race.rounds(plan.control.n_cells)[state.round][1]
        require_free_space(workspace, plan.designs[0], stored_cells=cells)
        rows = plan.batches(workspace, screen.id, state.round, missing)
        begun += [e.id for e in workspace.ledger.begin_many(rows, tags=tags)]
    outcomes = workspace.ledger.sealed(begun)
    return [i for i in begun if i not in outcomes]


def stopped_of(ledger: Ledger, candidates: Sequence[Experiment]) -> list[Experiment]:
    """Return the experiments of a screen that are to be begun again, in the order given."""
    outcomes = ledger.outcomes([e.id for e in candidates])
    unsealed = [e.id for e in candidates if e.id not in outcomes]
    stopping = ledger.cancellations(unsealed)
    # While any is at work failures are left alone.
    retried = {"cancelled"} if set(unsealed) - stopping else {"cancelled", "failed"}
    return [
        e
        for e in candidates
        if e.id in stopping or (e.id in outcomes and outcomes[e.id].kind in retried)
    ]
