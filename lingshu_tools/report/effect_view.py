"""A sealed perturbation as a result: genes with intervals, magnitude, target check, a summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.effects import NoEffectError, StoredEffect
from lingshu_model.contracts.messages import OWN_RNA
from lingshu_model.system.lazy import Lazy
from lingshu_tools.analysis import Effect, NullLabels, Residuals, interval
from lingshu_tools.calls.results import Truncated, call_text, finite
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.findings import strongest, unpack_effect
from lingshu_tools.experiments.gene_names import resolve_genes
from lingshu_tools.report.evidence import design_sentence
from lingshu_tools.report.experiment_views import Shown
from lingshu_tools.report.result_parts import GeneEffect, Magnitude, TargetCheck

UNITS = {
    "log2_fold_change": "log2((perturbed + 1) / (control + 1)) of mean counts per 10,000",
    "control_mean": "log1p_cp10k",
    "perturbed_mean": "log1p_cp10k",
    "change": "log1p_cp10k",
    "prediction_error": "log1p_cp10k",
    "magnitude": "log1p_cp10k (L2 norm over genes)",
    "model_mean": "log1p_cp10k",
    "sd": "log1p_cp10k",
    "lfsr": "probability",
}
MONTE_CARLO = (
    "mc_interval covers only the noise of sampling finitely many cells; prediction_error, the "
    "error against held-out cells, is usually the larger"
)
NO_NULL = "no null labels for this checkpoint: significance is not given"
NOT_STORED = "the cells of this experiment are not stored here; only the genes kept in its row are"
SINGLE_CELL = "one pair of cells has no interval; ask for n_cells of at least 2"


class EffectView:
    """The numbers of one succeeded perturbation, and views of them."""

    def __init__(self, design: Design, effect: Effect) -> None:
        self._design = design
        self.effect = effect
        self._checkpoint = design.checkpoint
        self._tier = design.support.tier
        self._stored = stored_effect(design)

    @Lazy
    def null(self) -> NullLabels | None:
        """The checkpoint's null labels, if it has any."""
        return NullLabels.from_evidence(self._checkpoint.evidence, self._checkpoint.panel)

    @Lazy
    def _errors(self) -> NDArray[np.float64]:
        residuals = Residuals.from_evidence(self._checkpoint.evidence, self._tier)
        panel = self._checkpoint.panel
        return residuals.of_genes(panel) if residuals else np.full(len(panel), np.nan)

    @Lazy
    def _q(self) -> NDArray[np.float64]:
        nothing = np.full(len(self._checkpoint.panel), np.nan)
        return self.null.gene_q(self.effect) if self.null else nothing

    @Lazy
    def order(self) -> list[int]:
        """Panel positions of the measured genes, strongest change first."""
        return strongest(self.effect.change)

    def gene(self, index: int) -> GeneEffect:
        """Return one gene's effect."""
        e = self.effect
        believed = self._stored.posterior if self._stored else None
        return GeneEffect(
            gene=self._checkpoint.panel[index],
            log2_fold_change=finite(e.log2_fold_change[index]),
            mc_interval=self._interval(e.log2_fold_change, e.log2_fold_change_se, index),
            control_mean=finite(e.control_mean[index]),
            perturbed_mean=finite(e.perturbed_mean[index]),
            change=finite(e.change[index]),
            change_mc_interval=self._interval(e.change, e.change_se, index),
            prediction_error=finite(self._errors[index]),
            sham_q=finite(self._q[index]),
            model_mean=finite(believed.mean[index]) if believed else None,
            sd=finite(believed.sd[index]) if believed else None,
            lfsr=finite(believed.lfsr[index]) if believed else None,
        )

    def magnitude(self) -> Magnitude:
        """Return the size of the whole effect beside those of null labels."""
        e, null = self.effect, self.null
        return Magnitude(
            value=e.magnitude,
            mc_interval=interval(e.magnitude, e.magnitude_se, e.n_cells),
            sham_median=finite(np.median(null.magnitudes)) if null else None,
            sham_q95=finite(np.quantile(null.magnitudes, 0.95)) if null else None,
            sham_p=null.magnitude_p(e) if null else None,
        )

    def target_checks(self) -> list[TargetCheck]:
        """Return what happens to each target's own gene; empty where none is on the panel."""
        panel = self._checkpoint.panel
        interventions = [i for i in self._design.interventions if i.target in panel]
        return [self._check(i.target, i.kind, panel.index(i.target)) for i in interventions]

    def _check(self, gene: str, kind: str, index: int) -> TargetCheck:
        change = finite(self.effect.change[index])
        span = self._interval(self.effect.change, self.effect.change_se, index)
        expected = OWN_RNA.get(kind)
        if change is None or span is None:
            note = "not measured, or too few cells to tell"
        elif span[0] <= 0 <= span[1]:
            note = "its own RNA does not change beyond Monte Carlo noise"
        else:
            note = f"its own RNA goes {'up' if change > 0 else 'down'}"
            if expected is not None:
                note += ", as expected" if change * expected > 0 else ", against expectation"
        return TargetCheck(gene=gene, change=change, mc_interval=span, note=note)

    def _interval(
        self, values: NDArray[np.float64], se: NDArray[np.float64] | None, index: int
    ) -> list[float] | None:
        if se is None:
            return None
        return interval(float(values[index]), float(se[index]), self.effect.n_cells)

    def summary(self) -> str:
        """Return what was found and what it is worth, fit to be quoted."""
        panel = self._checkpoint.panel
        targets = {i.target for i in self._design.interventions}
        top = [i for i in self.order if panel[i] not in targets][:3]
        genes = ", ".join(f"{panel[i]} {self.effect.change[i]:+.2f}" for i in top)
        sentence = f"{self._design.where}: strongest changes (log1p_cp10k) {genes or 'none'}"
        if self.null:
            below = int((self.null.magnitudes < self.effect.magnitude).sum())
            sentence += f"; its magnitude exceeds {below} of {self.null.n_shams} null labels"
        return f"{sentence}. {design_sentence(self._design)}"

    def caveats(self) -> list[str]:
        """Return what a reader must know before believing the numbers."""
        said = [MONTE_CARLO] if self.effect.n_cells > 1 else [SINGLE_CELL]
        if self.null is None:
            said.append(NO_NULL)
        elif self.null.steps not in (None, self._design.steps):
            said.append(
                f"the null labels were sampled with {self.null.steps} steps, this with "
                f"{self._design.steps}: sham_q and sham_p are approximate"
            )
        if any(i.kind == "sham" for i in self._design.interventions):
            said.append(
                "a null label is a label without a meaning: its effect is the model's noise"
            )
        return said


def stored_effect(design: Design) -> StoredEffect | None:
    """Return the effect that a checkpoint stores or works out; None where it stores none."""
    effects = design.checkpoint.effects
    if effects is None or not design.interventions:
        return None
    try:
        return effects.effect(design.context, design.interventions)
    except NoEffectError:
        return None


def effect_fields(
    record: Shown, *, genes: Sequence[str] | None, limit: int, offset: int = 0
) -> dict[str, Any]:
    """Return the fields of a succeeded perturbation: the asked genes, or the strongest ones."""
    blob = record.artifact("effects")
    if blob is None:
        return _from_row(record, limit)
    view = EffectView(record.design, unpack_effect(blob))
    panel = record.design.checkpoint.panel
    arguments = None if genes is None else resolve_genes(record.design.checkpoint, genes)
    order = view.order if arguments is None else [panel.index(g) for g in arguments]
    rows = order[offset : offset + limit]
    return {
        "summary": view.summary(),
        "units": UNITS,
        "caveats": view.caveats(),
        "magnitude": view.magnitude(),
        "target_check": view.target_checks(),
        "genes": [view.gene(i) for i in rows],
        "truncated": cut(len(rows), len(order), record.experiment.id, offset),
        "next_step": f"{call_text('plot_experiment', id=record.experiment.id, kind='volcano')} "
        f"draws it; {call_text('replay_experiment', id=record.experiment.id)} proves it.",
    }


def cut(shown: int, total: int, name: str, offset: int = 0) -> Truncated | None:
    """Return what was left out of a list of genes, or None."""
    if shown >= total:
        return None
    more = f'get_experiment(id="{name}", detail="effects", offset={offset + shown})'
    return Truncated(shown=shown, total=total, how_to_get_more=f"{more}, or name genes=[…]")


def _from_row(record: Shown, limit: int) -> dict[str, Any]:
    """Return what the outcome itself keeps, for a ledger whose objects are elsewhere."""
    n_cells = int(record.result["n_cells"])
    kept = record.result["kept"][:limit]
    top = ", ".join(f"{row['gene']} {row['value']:+.2f}" for row in kept[:3])
    sentence = design_sentence(record.design)
    return {
        "summary": f"{record.where}: strongest changes (log1p_cp10k) {top}. {sentence}",
        "units": UNITS,
        "caveats": [NOT_STORED, MONTE_CARLO],
        "genes": [kept_gene(row, n_cells) for row in kept],
        "truncated": cut(len(kept), record.result["measured_genes"], record.experiment.id),
        "next_step": f"{call_text('replay_experiment', id=record.experiment.id)} makes the cells "
        "again.",
    }


def kept_gene(row: dict[str, Any], n_cells: int) -> GeneEffect:
    """Return what an outcome itself keeps of a gene's effect."""
    return GeneEffect(
        gene=row["gene"],
        log2_fold_change=None,
        mc_interval=None,
        control_mean=None,
        perturbed_mean=None,
        change=row["value"],
        change_mc_interval=interval(row["value"], row["se"], n_cells),
        prediction_error=None,
        sham_q=None,
    )
