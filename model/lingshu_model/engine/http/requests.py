"""What a checkpoint can be asked: an arm is checked before anything is computed for it.

It reads the checkpoint's JSON alone.
"""

import difflib
from collections.abc import Iterable

from lingshu_model.contracts import ArmRequest, Checkpoint
from lingshu_model.contracts.effects import NoEffectError
from lingshu_model.contracts.user_cells import GoneError, UserCellsStore

# UMI; beyond any count of a gene in a cell, and within int32.
MAX_COUNT = 1_000_000


class BadRequestError(Exception):
    """An arm that cannot be computed: the text says what can, `status` is the HTTP status."""

    def __init__(self, text: str, status: int = 422) -> None:
        super().__init__(text)
        self.status = status


def check_arm(
    arm: ArmRequest,
    checkpoint: Checkpoint,
    *,
    allow_unfit: bool = False,
    store: UserCellsStore | None = None,
) -> None:
    """Return if a checkpoint can compute an arm.

    Args:
        arm: what is asked for.
        checkpoint: of which.
        allow_unfit: whether cells may be asked for that do not deliver their effect.
        store: the cells of users.

    Raises:
        BadRequestError: 422, a context, an intervention or a clamp that it does not know, an effect
            that it does not have, or a condition that failed its fitness check.
    """
    if arm.cells:
        _check_user_cells(arm, checkpoint, store)
    elif arm.mixture:
        _check_mixture(arm, checkpoint)
    else:
        _check_context(arm.context, checkpoint)
    # A user's cells are any context; their interventions and clamps must still be known.
    _check_interventions(arm, checkpoint)
    _check_clamp(arm.clamp, checkpoint)
    if arm.interventions and not arm.cells:
        for part in map(arm.within, arm.contexts):
            _check_effect(part, checkpoint)
            if not allow_unfit:
                _check_fit(part, checkpoint)


def _check_mixture(arm: ArmRequest, checkpoint: Checkpoint) -> None:
    """Refuse a population of contexts that are not known, or that measure different genes."""
    trained = checkpoint.contexts
    for context in arm.contexts:
        if context not in trained:
            _check_context(context, checkpoint)
        if not arm.context.items() <= context.items():
            message = f"the part {context!r} of the mixture is not of the context {arm.context!r}"
            raise BadRequestError(message)
    # One mask holds for all cells of an arm.
    if not checkpoint.measure_alike(arm.contexts):
        message = f"the contexts of the mixture of {arm.context!r} measure different genes"
        raise BadRequestError(message)


def _check_user_cells(
    arm: ArmRequest, checkpoint: Checkpoint, store: UserCellsStore | None
) -> None:
    """Refuse an arm whose cells or effect are not stored here, or do not fit the checkpoint."""
    if store is None:
        message = "this engine has no home, and so no cells of users"
        raise BadRequestError(message)
    try:
        cells = store.cells(arm.cells)
        n_effect = len(store.effect(arm.effect).effect.posterior.mean) if arm.effect else None
    except (GoneError, ValueError) as error:
        message = f"{error}: make the experiment again from the file"
        raise BadRequestError(message) from error
    n_genes = len(checkpoint.panel)
    if cells.shape[1] != n_genes or n_effect not in (None, n_genes):
        message = (
            f"the cells are over {cells.shape[1]} genes, and {checkpoint.name} has {n_genes}: "
            "make the experiment again for this checkpoint"
        )
        raise BadRequestError(message)
    if arm.first_cell + arm.n_cells > len(cells):
        message = f"cells {arm.first_cell} to {arm.first_cell + arm.n_cells - 1} of {len(cells)}"
        raise BadRequestError(message)
    # Only scoring and completing need tokens of a context.
    for context in (*arm.against, *((arm.context,) if arm.complete else ())):
        _check_context(context, checkpoint)


def _check_effect(arm: ArmRequest, checkpoint: Checkpoint) -> None:
    if checkpoint.delivery is None or checkpoint.effects is None:
        return
    try:
        checkpoint.effects.effect(arm.context, arm.interventions)
    except NoEffectError as error:
        message = f"{checkpoint.name}: {error}"
        raise BadRequestError(message) from error


def _check_fit(arm: ArmRequest, checkpoint: Checkpoint) -> None:
    reasons = checkpoint.unfit(arm.context, arm.interventions)
    if reasons:
        message = (
            f"{_list(i.target for i in arm.interventions)} in {arm.context} is unfit in "
            f"{checkpoint.name}: its sampled cells do not deliver the effect ({'; '.join(reasons)})"
            ". Ask with allow_unfit=true to have them all the same"
        )
        raise BadRequestError(message)


def _check_context(context: dict[str, str], checkpoint: Checkpoint) -> None:
    # Field by field: a combination of known values that was never trained is an extrapolation.
    allowed: dict[str, set[str]] = {}
    for entry in checkpoint.config["seen"]:
        for field, value in entry["context"].items():
            allowed.setdefault(field, set()).add(value)
    if set(context) != set(allowed):
        message = (
            f"the context {context!r} has the fields {_list(context)}; {checkpoint.name} needs "
            f"exactly {_list(allowed)}"
        )
        raise BadRequestError(message)
    for field, value in context.items():
        _check_known(value, allowed[field], f"{field} of the context", checkpoint)


def _check_interventions(arm: ArmRequest, checkpoint: Checkpoint) -> None:
    targets = checkpoint.targets
    for item in arm.interventions:
        _check_known(item.kind, targets, "kind of intervention", checkpoint)
        # Null labels, ligands and drugs are no genes of the panel: only trained ones have a
        # meaning.
        panel = () if item.kind in ("sham", "cytokine", "drug") else checkpoint.panel
        _check_known(
            item.target, {*targets[item.kind], *panel}, f"target of {item.kind}", checkpoint
        )
    names = [item.target for item in arm.interventions]
    if len(set(names)) < len(names):
        message = f"the interventions {_list(names)} name a target twice: each only once"
        raise BadRequestError(message)


def _check_clamp(clamp: dict[str, int], checkpoint: Checkpoint) -> None:
    panel = set(checkpoint.panel)
    for gene, count in clamp.items():
        _check_known(gene, panel, "clamped gene", checkpoint)
        if not 0 <= count <= MAX_COUNT:
            message = f"clamp {gene!r} is {count!r}: a count from 0 to {MAX_COUNT}"
            raise BadRequestError(message)


def _check_known(value: str, known: Iterable[str], what: str, checkpoint: Checkpoint) -> None:
    known = set(known)
    if value in known:
        return
    near = difflib.get_close_matches(value, known, cutoff=0.5)
    offer = f"near it: {_list(near)}" if near else f"it knows {_list(known)}"
    message = f"{value!r} is no {what} that {checkpoint.name} knows; {offer}"
    raise BadRequestError(message)


def _list(names: Iterable[str], limit: int = 12) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return (", ".join(map(repr, ordered[:limit])) or "none") + more
