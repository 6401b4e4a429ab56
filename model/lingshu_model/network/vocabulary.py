"""The prefix values of a checkpoint, and conditions as indices of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch

from lingshu_model.contracts import Intervention
from lingshu_model.network.conditions import Conditions, VocabularySizes


class ConditionError(ValueError):
    """A context value or an intervention that the checkpoint has no token for."""


@dataclass(frozen=True)
class Vocabulary:
    """Ordered prefix values: context fields with their values, kinds, targets, and the panel."""

    context_fields: Mapping[str, Sequence[str]]
    kinds: Sequence[str]
    targets: Sequence[str]
    panel: Sequence[str]
    gene_features: int
    tilts: Sequence[Mapping[str, Any]] = ()
    """Rows of effect offsets (format 1) from row 1 on: a `target` and `context` fields."""
    depth: float = 0.0
    """ln UMI of a cell whose depth is not given: that of the median training cell."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], panel: Sequence[str]) -> "Vocabulary":
        """Return the vocabulary that a checkpoint's `config.json` and panel describe."""
        return cls(
            config["context_fields"],
            config["kinds"],
            config["targets"],
            panel,
            config["gene_features"],
            config.get("tilts", ()),
            config.get("depth", 0.0),
        )

    @property
    def sizes(self) -> VocabularySizes:
        """Table sizes for the network; index 0 of targets and kinds is the control token."""
        values = sum(len(v) for v in self.context_fields.values())
        return VocabularySizes(
            context_values=values,
            targets=len(self.targets) + 1,
            kinds=len(self.kinds) + 1,
            gene_features=self.gene_features,
            tilts=len(self.tilts) + 1,
        )

    def conditions(
        self, context: Mapping[str, str], interventions: Iterable[Intervention]
    ) -> Conditions:
        """Return one condition as indices, batch 1; no interventions give the control token.

        Raises:
            ConditionError: an unknown field, value or kind, or a target that is neither known nor
                in the panel; the allowed ones are listed.
        """
        slots = [self._slot(intervention, context) for intervention in interventions] or [
            (0, 0, 0, 0, 0.0)
        ]
        target, kind, gene, tilt, dose = zip(*slots, strict=True)
        return Conditions(
            context=torch.tensor([self._context(context)]),
            target=torch.tensor([target]),
            kind=torch.tensor([kind]),
            gene=torch.tensor([gene]),
            tilt=torch.tensor([tilt]),
            dose=torch.tensor([dose], dtype=torch.float32),
            depth=torch.tensor([self.depth], dtype=torch.float32),
        )

    def _context(self, context: Mapping[str, str]) -> list[int]:
        if set(context) != set(self.context_fields):
            message = f"context has {sorted(context)}; it must have {sorted(self.context_fields)}"
            raise ConditionError(message)
        # Values of all fields share one embedding table, one field after the other.
        indices, offset = [], 0
        for field, values in self.context_fields.items():
            if context[field] not in values:
                message = f"context {field} is {context[field]!r}; known: {', '.join(values)}"
                raise ConditionError(message)
            indices.append(offset + list(values).index(context[field]))
            offset += len(values)
        return indices

    def _tilt(self, intervention: Intervention, context: Mapping[str, str]) -> int:
        """Return the first row of the target whose context fields agree; 0 = none."""
        for row, about in enumerate(self.tilts, 1):
            here = all(context[field] == value for field, value in about["context"].items())
            if about["target"] == intervention.target and here:
                return row
        return 0

    def _slot(
        self, intervention: Intervention, context: Mapping[str, str]
    ) -> tuple[int, int, int, int, float]:
        """Return the indices (target, kind, gene, offset row) and ln dose of an intervention."""
        if intervention.kind not in self.kinds:
            message = (
                f"intervention kind {intervention.kind!r} was never trained; known: {self.kinds}"
            )
            raise ConditionError(message)
        target = (
            self.targets.index(intervention.target) + 1
            if intervention.target in self.targets
            else 0
        )
        gene = self.panel.index(intervention.target) + 1 if intervention.target in self.panel else 0
        if not target and not gene:
            message = (
                f"target {intervention.target!r} was never perturbed in training and is not in "
                "the panel"
            )
            raise ConditionError(message)
        kind = self.kinds.index(intervention.kind) + 1
        return (
            target,
            kind,
            gene,
            self._tilt(intervention, context),
            log(intervention.dose) if intervention.dose else 0.0,
        )


def stack(conditions: Sequence[Conditions]) -> Conditions:
    """Return many one-row conditions as one batch, padded to the most interventions."""
    slots = max(c.target.shape[1] for c in conditions)
    used = torch.tensor([[i < c.target.shape[1] for i in range(slots)] for c in conditions])

    def pad(name: str) -> torch.Tensor:
        parts = [getattr(c, name) for c in conditions]
        return torch.cat([torch.nn.functional.pad(p, (0, slots - p.shape[1])) for p in parts])

    return Conditions(
        context=torch.cat([c.context for c in conditions]),
        target=pad("target"),
        kind=pad("kind"),
        gene=pad("gene"),
        tilt=pad("tilt"),
        dose=pad("dose"),
        depth=torch.cat([c.depth for c in conditions]),
        present=None if bool(used.all()) else used,
    )
