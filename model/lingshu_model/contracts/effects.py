"""The effects that a checkpoint stores, read without torch or SciPy, and how they are stored.

A *row* is one perturbation in one context: posterior mean, sd and lfsr of the change of mean
log1p_cp10k per gene. Training writes a row for every pair of a trained perturbation and a context
with control cells, whether the context has cells of it or not. Combinations are worked out from
the rows of their parts (`lingshu_model.contracts.combining`), and targets that were never perturbed
from what training found of the others (`Unseen`).

Stored are means as float16, sd as exp(`SD_LOWEST` + `SD_STEP` code) with 0 for none, and lfsr as
exp(-code / `LFSR_STEPS`), one byte each: 2 % of an sd, 5 % of a rate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.combining import Range, Saturation, together
from lingshu_model.contracts.messages import Intervention
from lingshu_model.contracts.posterior import Floats, Posterior
from lingshu_model.contracts.responders import Responders

CELLS = "this condition's cells"
BOTH = "this condition's cells and other contexts"
CARRIED = "carried from other contexts"
COMBINATION = "combination"
FEATURES = "features"
MEASURED = (CELLS, BOTH)
"""Sources with cells of the condition target_rows."""
# exp(-9.3) = 9e-5 for code 1, to exp(2.1) = 8.4 for code 255, in units of log1p_cp10k.
SD_LOWEST, SD_STEP = -9.3, 0.045
# Code 255 stands for exp(-25.5) = 8e-12 and less.
LFSR_STEPS = 10.0
ROWS = "effects-rows"
"""Files of tables with a line per row: `mean`, `sd`, `lfsr`, `log_fold`."""
CONTEXTS = "effects-contexts"
"""Files of tables with a line per context, for moving cells: `log_rate`, `log_size`."""
GENES = "effects-genes"
"""The file of what holds for all contexts: `log_largest`; and of unseen targets, by context."""
Identity = tuple[tuple[str, str, float], ...]


class NoEffectError(ValueError):
    """The checkpoint has no effect of what is asked for; the text says what it has."""


def identity(interventions: Iterable[Intervention]) -> Identity:
    """Return what a set of interventions is looked up by."""
    return tuple(sorted((i.target, i.kind, i.dose or 0.0) for i in interventions))


def entry_identity(entry: Mapping[str, Any]) -> Identity:
    """Return the same of an entry of `config.json`."""
    interventions = entry["interventions"]
    return tuple(sorted((i["target"], i["kind"], i.get("dose") or 0.0) for i in interventions))


def pack_sd(sd: Floats) -> NDArray[np.uint8]:
    """Return one byte for each sd."""
    # log(0) would warn; such an sd gets code 0 in the next line.
    code = 1 + np.rint((np.log(np.maximum(sd, 1e-300)) - SD_LOWEST) / SD_STEP)
    return np.where(sd > 0, np.clip(code, 1, 255), 0).astype(np.uint8)


def unpack_sd(code: NDArray[np.uint8]) -> Floats:
    """Return the sd that `pack_sd` stored."""
    value = np.exp(SD_LOWEST + SD_STEP * (code.astype(np.float64) - 1))
    return np.where(code > 0, value, 0.0)


def pack_lfsr(lfsr: Floats) -> NDArray[np.uint8]:
    """Return one byte for each local false sign rate."""
    code = np.rint(-LFSR_STEPS * np.log(np.maximum(lfsr, 1e-300)))
    return np.clip(code, 0, 255).astype(np.uint8)


def unpack_lfsr(code: NDArray[np.uint8]) -> Floats:
    """Return the rates that `pack_lfsr` stored."""
    return np.exp(-code.astype(np.float64) / LFSR_STEPS)


@dataclass(frozen=True)
class StoredEffect:
    """The effect of a perturbation in a context.

    Attributes:
        posterior: of the change of mean log1p_cp10k, [genes].
        source: where it comes from: one of the constants of this module.
        note: how it came about, with the numbers that limit it.
        row: its number among the rows; None where it is worked out from others.
        library: library size of its cells over that of control cells.
        dispersion: additional dispersion of its moved counts, a squared coefficient of variation.
        additive: of a combination the plain sum of its parts; else None.
        responders: strengths of its cells; None = all have the mean change.
    """

    posterior: Posterior
    source: str
    note: str
    row: int | None = None
    library: float = 1.0
    additive: Posterior | None = None
    responders: Responders | None = None
    dispersion: float = 0.0


@dataclass(frozen=True)
class Unseen:
    """What one context's perturbed targets say of targets that were never perturbed.

    With f the features of a target, its change is share_mean + f slope, no lower than `floor`; its
    variance is max(base + per_square change^2, least).

    Attributes:
        share_mean: [genes].
        slope: [features, genes]; no features where the mean predicts as well.
        features: of every gene of the panel as a target, [genes, features].
        base, per_square, least, floor: [genes].
        own: change of a target's own gene; None where too few are known.
        note: a sentence.
    """

    share_mean: Floats
    slope: Floats
    features: Floats
    base: Floats
    per_square: Floats
    least: Floats
    floor: Floats
    own: float | None
    note: str

    def of(self, gene: int) -> Posterior:
        """Return the effect of perturbing panel gene number `gene`."""
        # [genes] + [features] @ [features, genes].
        mean = self.share_mean + self.features[gene] @ self.slope
        if self.own is not None:
            mean[gene] = self.own
        # The floor is minus the mean level of control cells: no level falls below 0.
        mean = np.maximum(mean, self.floor)
        return Posterior.normal(
            mean, np.sqrt(np.maximum(self.base + self.per_square * mean**2, self.least))
        )


class StoredEffects:
    """All effects of a checkpoint."""

    def __init__(
        self,
        config: Mapping[str, Any],
        panel: Sequence[str],
        controls: Floats,
        tables: Mapping[str, NDArray[Any]],
        genes: Mapping[str, NDArray[Any]],
    ) -> None:
        """Take what `config.json` says of effects, and the tables.

        Args:
            config: the `effects` of `config.json`.
            panel: gene symbols.
            controls: mean log1p_cp10k of control cells, [contexts, genes], NaN where not measured.
            tables: those of `ROWS`.
            genes: those of `GENES`.
        """
        self.config, self._controls, self._tables, self._genes = config, controls, tables, genes
        self._place = {gene: i for i, gene in enumerate(panel)}
        self.rows: Sequence[Mapping[str, Any]] = config["rows"]
        self.contexts: Sequence[Mapping[str, str]] = [c["context"] for c in config["contexts"]]
        self._row = {
            (_key(row["context"]), entry_identity(row)): i for i, row in enumerate(self.rows)
        }
        self._context = {_key(context): i for i, context in enumerate(self.contexts)}

    def row(self, context: Mapping[str, str], interventions: Iterable[Intervention]) -> int | None:
        """Return the number of a perturbation's row in a context; None where it has none."""
        return self._row.get((_key(context), identity(interventions)))

    def context(self, context: Mapping[str, str]) -> int | None:
        """Return the number of a context; None where it has no control cells."""
        return self._context.get(_key(context))

    def posterior(self, row: int) -> Posterior:
        """Return what is stored of a row, [genes]."""
        t = self._tables
        return Posterior(
            t["mean"][row].astype(np.float64), unpack_sd(t["sd"][row]), unpack_lfsr(t["lfsr"][row])
        )

    def effect(
        self, context: Mapping[str, str], interventions: Sequence[Intervention]
    ) -> StoredEffect:
        """Return the effect of a perturbation in a context.

        Raises:
            NoEffectError: the context has no control cells, or nothing is known of a target there.
        """
        number = self._known(context)
        row = self.row(context, interventions)
        # A stored row before all else: a combination with cells needs no model of combinations.
        if row is not None:
            entry = self.rows[row]
            library = float(entry["library"])
            return StoredEffect(
                self.posterior(row),
                entry["source"],
                entry["note"],
                row,
                library,
                responders=Responders.of_entry(entry),
                # Checkpoints before format 4 have none.
                dispersion=float(entry.get("dispersion", 0.0)),
            )
        if len(interventions) > 1:
            return self._combined(number, context, interventions)
        return self._unseen(number, interventions[0])

    def expected(
        self, context: Mapping[str, str], interventions: Sequence[Intervention]
    ) -> StoredEffect:
        """Return what single effects do together where they saturate, with or without its cells.

        Raises:
            NoEffectError: the context has no control cells, or nothing is known of a part there.
        """
        return self._combined(self._known(context), context, interventions)

    def measured_in(self, interventions: Iterable[Intervention]) -> list[tuple[int, int]]:
        """Return the rows of a perturbation that come from its cells, each with its context.

        Rows carried from other contexts add nothing to those that they come from.
        """
        wanted = identity(interventions)
        return [
            (i, self._context[_key(row["context"])])
            for i, row in enumerate(self.rows)
            if row["source"] in MEASURED and entry_identity(row) == wanted
        ]

    def control(self, context: int) -> Floats:
        """Return the mean log1p_cp10k of a context's control cells, [genes]; NaN: not measured."""
        return self._controls[context]

    @property
    def saturation(self) -> Saturation:
        """How much less than their sum several perturbations do."""
        return Saturation(**self.config["saturation"])

    def combining(self, context: Mapping[str, str]) -> tuple[Saturation, Range]:
        """Return what single effects of a context are combined with.

        Raises:
            NoEffectError: the context has no control cells.
        """
        control = self._controls[self._known(context)]
        here = [i for i, row in enumerate(self.rows) if self._means_something(row, context)]
        means = self._tables["mean"][here].astype(np.float64)
        return self.saturation, Range.of(means, control)

    def measured_combinations(self, context: Mapping[str, str]) -> list[Identity]:
        """Return the combinations of which the context has a row."""
        rows = (row for row in self.rows if len(row["interventions"]) > 1)
        return [entry_identity(row) for row in rows if self._means_something(row, context)]

    def _known(self, context: Mapping[str, str]) -> int:
        number = self.context(context)
        if number is None:
            known = "; ".join(str(dict(c)) for c in self.contexts[:8])
            message = f"there are no control cells of {dict(context)}; there are of {known}"
            raise NoEffectError(message)
        return number

    def _combined(
        self, number: int, context: Mapping[str, str], interventions: Sequence[Intervention]
    ) -> StoredEffect:
        parts = [self.effect(context, [intervention]).posterior for intervention in interventions]
        control = self._controls[number]
        saturation, value_range = self.combining(context)
        target_genes = [self._place.get(intervention.target, -1) for intervention in interventions]
        combination = together(parts, saturation, value_range, target_genes)
        measured = np.isfinite(control)
        kept = Posterior(
            np.where(measured, combination.effect.mean, 0.0),
            combination.effect.sd,
            np.where(measured, combination.effect.lfsr, 1.0),
        )
        return StoredEffect(kept, COMBINATION, combination.note, additive=combination.additive)

    def _means_something(self, row: Mapping[str, Any], context: Mapping[str, str]) -> bool:
        kinds = {intervention["kind"] for intervention in row["interventions"]}
        return row["context"] == dict(context) and "sham" not in kinds

    def _unseen(self, number: int, intervention: Intervention) -> StoredEffect:
        said = self.config["contexts"][number].get("unseen")
        gene = self._place.get(intervention.target)
        if said is None or gene is None or intervention.kind not in said["kinds"]:
            message = (
                f"nothing is known of {intervention.kind} of {intervention.target!r} in "
                f"{self.contexts[number]}: it was not trained, and too few other targets were to "
                "predict it"
            )
            raise NoEffectError(message)
        tables = {n: self._genes[f"unseen-{number}/{n}"].astype(np.float64) for n in UNSEEN_TABLES}
        model = Unseen(**tables, own=said["own"], note=said["note"])
        return StoredEffect(model.of(gene), FEATURES, said["note"])


UNSEEN_TABLES = ("share_mean", "slope", "features", "base", "per_square", "least", "floor")


def _key(context: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(context.items()))
