"""Experiments on a user's cells: a checkpoint with these cells as a further context.

Everything that reads a design (support, stored effects, evidence) reads it from its checkpoint, so
cells of a user need no other path: their context is added, with the effect carried to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lingshu_model.contracts import Checkpoint, Intervention, Support
from lingshu_model.contracts.effects import NoEffectError, StoredEffect, StoredEffects, identity
from lingshu_model.contracts.user_cells import CONTEXT, FOLDER, GoneError, UserCellsStore
from lingshu_model.system.lazy import Lazy

NOTE = "carried from {n} trained contexts to a user's cells"


class UserEffects(StoredEffects):
    """The effects of a checkpoint, and one carried to a user's cells."""

    def __init__(
        self,
        base: StoredEffects,
        context: Mapping[str, str],
        interventions: Sequence[Intervention],
        carried: StoredEffect,
    ) -> None:
        # All that the base has read already is shared; only the carried effect is added.
        self.__dict__.update(base.__dict__)
        self._user_context, self._carried = dict(context), carried
        self._user_identity = identity(interventions)

    def effect(
        self, context: Mapping[str, str], interventions: Sequence[Intervention]
    ) -> StoredEffect:
        """Return the effect of a perturbation in a context.

        Raises:
            NoEffectError: as that of a checkpoint; of a user's cells, another perturbation than
                the one that was carried to them.
        """
        if dict(context) != self._user_context:
            return super().effect(context, interventions)
        if identity(interventions) != self._user_identity:
            message = "only the whole perturbation was carried to these cells"
            raise NoEffectError(message)
        return self._carried

    def expected(
        self, context: Mapping[str, str], interventions: Sequence[Intervention]
    ) -> StoredEffect:
        """Return what single effects do together.

        Raises:
            NoEffectError: as `effect`; single effects are not stored for a user's cells.
        """
        if dict(context) == self._user_context:
            return self.effect(context, interventions)
        return super().expected(context, interventions)


@dataclass(frozen=True)
class UserCheckpoint(Checkpoint):
    """A checkpoint with a user's cells as a further context.

    Attributes:
        user: the `cells` of a request.
        user_context: the context that stands for them.
        interventions: whose effect was carried.
        folder: where users' cells are stored.
    """

    user: Mapping[str, Any] = field(default_factory=dict[str, Any])
    user_context: Mapping[str, str] = field(default_factory=dict[str, str])
    interventions: tuple[Intervention, ...] = ()
    folder: Path = Path()

    @property
    def contexts(self) -> list[dict[str, str]]:
        """The contexts it was trained on, and the user's cells."""
        return [*super().contexts, dict(self.user_context)]

    @Lazy
    def effects(self) -> StoredEffects | None:
        """The stored effects with the one carried to the user's cells; without it if it is gone."""
        # Not by super(): the Lazy value of the base would be kept in this instance under this name.
        base = _base(self).effects
        digest = self.user.get("effect")
        if base is None or not digest:
            return base
        try:
            carried = UserCellsStore(self.folder).effect(digest).effect
        # Its cells can be read again from the file; until then nothing is known of the effect.
        except GoneError:
            return base
        return UserEffects(base, self.user_context, self.interventions, carried)

    def support(self, context: Mapping[str, str], interventions: Iterable[Intervention]) -> Support:
        """Return what was seen of a condition: of a user's cells it is carried at best."""
        interventions = tuple(interventions)
        if dict(context) != dict(self.user_context) or self.effects is None:
            return super().support(context, interventions)
        # Contexts that had cells of the perturbation, from which its effect was carried.
        n = len(self.effects.measured_in(interventions))
        if not interventions:
            return Support("seen_elsewhere", 0, "a user's cells as they are")
        if n:
            return Support("seen_elsewhere", 0, NOTE.format(n=n))
        return Support("combination_of_seen", 0, "parts carried to a user's cells, not together")


def with_user_cells(
    checkpoint: Checkpoint, request: Mapping[str, Any], home: Path | None
) -> Checkpoint:
    """Return the checkpoint with the cells of a request as a further context; itself if none."""
    cells = request.get("cells")
    # Cells that are taken for a trained context need no further one.
    if not cells or request["context"].keys() != {CONTEXT}:
        return checkpoint
    same = {f.name: getattr(checkpoint, f.name) for f in fields(Checkpoint)}
    return UserCheckpoint(
        **same,
        user=cells,
        user_context=dict(request["context"]),
        interventions=tuple(Intervention(**i) for i in request["interventions"]),
        folder=Path() if home is None else home.absolute() / FOLDER,
    )


def _base(checkpoint: UserCheckpoint) -> Checkpoint:
    return Checkpoint(**{f.name: getattr(checkpoint, f.name) for f in fields(Checkpoint)})
