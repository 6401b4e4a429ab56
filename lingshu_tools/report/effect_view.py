"""A sealed perturbation as a result: genes with intervals, magnitude, target check, a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.messages import OWN_RNA
from lingshu_model.system.lazy import Lazy
from lingshu_tools.analysis import Effect, NullLabels, Residuals, interval
from lingshu_tools.analysis.certainty import LEAST_LFSR, SUGGESTIVE, SUPPORTED, word
from lingshu_tools.analysis.error_by_size import FEWEST, ErrorBySize, misjudged
from lingshu_tools.analysis.sizes import NullSizes, Size, matched_check
from lingshu_tools.calls.results import call_text, finite, rounded
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.findings import strongest, unpack_effect
from lingshu_tools.experiments.gene_names import resolve_genes
from lingshu_tools.experiments.needed_cells import NEVER, CountModel, RealCells, shown_cells
from lingshu_tools.experiments.sampling_options import sampling_caveats
from lingshu_tools.experiments.stored_effects import error_model, parts_of, stored_effect
from lingshu_tools.report.evidence import design_sentence
from lingshu_tools.report.experiment_views import Shown
from lingshu_tools.report.kept_rows import cut, kept_rows
from lingshu_tools.report.normalisation import (
    LARGE_SHARE,
    MOVED,
    NEEDS_CELLS,
    SMALL_PANEL,
    Rescaled,
    moved_share,
    rescaled,
)
from lingshu_tools.report.result_parts import (
    CertainGeneEffect,
    GeneEffect,
    Magnitude,
    TargetCheck,
)

UNITS = {
    "log2_fold_change": "log2((perturbed + 1) / (control + 1)) of mean counts per 10,000",
    "control_mean": "log1p_cp10k",
    "perturbed_mean": "log1p_cp10k",
    "change": "log1p_cp10k",
    "prediction_error": "log1p_cp10k",
    "magnitude": "log1p_cp10k (L2 norm over genes)",
    "unresponsive_change": "ln(1 + UMI per 10,000 by the UMI of genes without an effect)",
    "model_mean": "log1p_cp10k",
    "additive": "log1p_cp10k",
    "interval": "log1p_cp10k; posterior, replicates and error by size together; width from other "
    "data where under 3 contrasts of the tier were held out",
    "sd": "log1p_cp10k",
    "real_cells": "cells of either arm for 80 % power at p < .001: if the change is as predicted, "
    f'and with the doubt about it ("{NEVER}": no number of cells of one experiment is enough)',
    "lfsr": "probability; 0.001 is 0.001 or less",
    "certainty": "supported: lfsr <= 0.05; suggestive: <= 0.2",
}
MONTE_CARLO = (
    "mc_interval covers only the noise of sampling finitely many cells; prediction_error, the "
    "error against held-out cells, is usually the larger"
)
NO_ERROR = "prediction_error is null: fewer than three held-out contrasts of that size"
RANKED = (
    "sham_q is by rank among {n} null labels: no gene can be below 1 in {more}, however large its "
    "change"
)
PARALLEL_EFFECTS = (
    "parallel_effects: two parts do nearly the same alone (cosine {cosine:.2f}), as genes of one "
    "pathway do; what they do together is no sign of synergy"
)
BORROWED_WIDTH = "interval: width from other data"
"""Fewer than three contrasts of the tier were held out; the units of a detailed result say so."""
NORMAL = 1.959964
"""Half width of a 95 % interval, in standard deviations."""
NAMED = 3
"""Genes in a summary."""
NO_NULL = "no null labels for this checkpoint: significance is not given"
NOT_STORED = "the cells of this experiment are not stored here; only the genes kept in its row are"
UNFIT = (
    "this condition failed the fitness check ({reasons}): its simulated cells do not deliver its "
    "effect; model_mean and interval are the effect"
)
NOT_MEASURED = "not measured in this context"
NO_DOUBT = "shrunken to nothing: no interval"
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
        evidence, panel = self._checkpoint.evidence, self._checkpoint.panel
        # Errors by size have the noise of held-out cells taken off. Residuals by gene, which
        # earlier evidence has, do not, and are an upper bound.
        by_size = ErrorBySize.from_evidence(evidence, self._tier)
        if by_size is not None:
            # The size that counts is that of the prediction, not of one simulation of it.
            change = self._stored.posterior.mean if self._stored else self.effect.change
            return by_size.of(change)
        residuals = Residuals.from_evidence(evidence, self._tier)
        enough = residuals is not None and residuals.n_contrasts >= FEWEST
        return residuals.of_genes(panel) if residuals and enough else np.full(len(panel), np.nan)

    @Lazy
    def _q(self) -> NDArray[np.float64]:
        # Where effects are stored their lfsr says it; null labels are a check of that.
        nothing = np.full(len(self._checkpoint.panel), np.nan)
        tested = self.null is not None and self._stored is None
        return self.null.gene_q(self.effect) if self.null and tested else nothing

    @Lazy
    def order(self) -> list[int]:
        """Panel positions of the measured genes, strongest change first."""
        return strongest(self.effect.change)

    def gene(self, index: int) -> GeneEffect:
        """Return one gene's effect."""
        e = self.effect
        # Which fields a concise row leaves out depends on what is known, so there are two classes.
        kind = CertainGeneEffect if self._stored else GeneEffect
        # Of a gene that the context does not measure, nothing is known: no effect is not.
        stored = self._stored if e.measured[index] else None
        believed = stored.posterior if stored else None
        summed = stored.additive if stored else None
        return kind(
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
            additive=finite(summed.mean[index]) if summed else None,
            interval=self._wide(index) if believed else None,
            sd=finite(believed.sd[index]) if believed else None,
            real_cells=self._real_cells(index) if believed else None,
            lfsr=finite(max(believed.lfsr[index], LEAST_LFSR)) if believed else None,
            certainty=self._word(index),
        )

    def _word(self, index: int) -> str | None:
        """Return how certain a gene's change is, in a word; None without stored effects."""
        if not self.effect.measured[index]:
            return NOT_MEASURED
        if self._stored is None:
            return None
        if not self._stored.posterior.sd[index] > 0:
            return NO_DOUBT
        return word(float(self._stored.posterior.lfsr[index]))

    def _wide(self, index: int) -> list[float] | None:
        """Return the 95 % interval of a gene's change in a new experiment."""
        if self._stored is None:
            return None
        mean, sd = (
            float(x[index]) for x in (self._stored.posterior.mean, self._stored.posterior.sd)
        )
        # An effect that is shrunken to nothing has no doubt in it either: that is no interval.
        if sd <= 0:
            return None
        # sd is that of a new experiment (`stored_effect`); normal, as t^2 is fitted for that.
        return [mean - NORMAL * sd, mean + NORMAL * sd]

    @Lazy
    def _counts(self) -> CountModel | None:
        if self._design.cells is not None:
            return None  # a user's cells have depths of their own
        return CountModel.of(self._checkpoint, self._design.context)

    def _real_cells(self, index: int) -> RealCells | None:
        """Return how many real cells of either arm would show a gene's change."""
        if self._counts is None or self._stored is None:
            return None
        change, sd = (
            float(x[index]) for x in (self._stored.posterior.mean, self._stored.posterior.sd)
        )
        return shown_cells(self._counts.cells_for(index, change, sd))

    def magnitude(self) -> Magnitude:
        """Return the size of the whole effect beside those of null labels."""
        size, null = self.size, self.null_sizes
        return Magnitude(
            value=size.value,
            raw=self.effect.magnitude,
            mc_interval=list(size.interval) if size.interval else None,
            sham_median=finite(null.median) if null else None,
            sham_q95=finite(null.q95) if null else None,
            sham_p=null.p(size) if null else None,
            n_null_labels=null.n if null else None,
        )

    @Lazy
    def size(self) -> Size:
        """The magnitude without Monte Carlo noise."""
        return Size.of(self.effect)

    @Lazy
    def null_sizes(self) -> NullSizes | None:
        """Magnitudes of null labels as they would be with as many cells."""
        # The closed-form check of this context where there is one, else sampled labels.
        check = self._null_record
        if check is not None:
            return NullSizes.of_check(check, self.effect)
        return NullSizes.of_labels(self.null, self.effect) if self.null else None

    @Lazy
    def _null_record(self) -> Mapping[str, Any] | None:
        return matched_check(self._checkpoint.evidence, self._design.context, self._trained)

    @property
    def _trained(self) -> int:
        return self._design.support.n_cells

    def null_check(self) -> str | None:
        """Return how many null labels of this context, of about as many cells, were called."""
        check = self._null_record
        if check is None:
            return None
        return (
            f"{check['labels_with_a_call']} of {check['n_labels']} null labels of "
            f"{check['n_cells']} control cells had a gene called at lfsr {check['called_lfsr']:g}"
        )

    def target_checks(self) -> list[TargetCheck]:
        """Return what happens to each target's own gene; empty where none is on the panel."""
        panel = self._checkpoint.panel
        interventions = [i for i in self._design.interventions if i.target in panel]
        return [self._check(i.target, i.kind, panel.index(i.target)) for i in interventions]

    def _check(self, gene: str, kind: str, index: int) -> TargetCheck:
        change = finite(self.effect.change[index])
        span = self._interval(self.effect.change, self.effect.change_se, index)
        # +1 or -1: the sign that the kind gives to its target's RNA; None where it gives none.
        expected = OWN_RNA.get(kind)
        if change is None or span is None:
            note = "not measured, or too few cells to tell"
        elif span[0] <= 0 <= span[1]:
            note = "its own RNA does not change beyond Monte Carlo noise"
        else:
            note = f"its own RNA goes {'up' if change > 0 else 'down'}"
            if expected is not None:
                note += ", as expected" if change * expected > 0 else ", against expectation"
            # What is certain of the simulation need not be of real cells.
            if self._stored and self._stored.posterior.lfsr[index] > SUGGESTIVE:
                note += "; by training cells not distinguishable from no effect"
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
        # A target's own gene changes by construction and would be the strongest finding each time.
        order = [i for i in self.order if panel[i] not in targets]
        sentence = f"{self._design.where}: {self._changes(order)}"
        if self.null_sizes:
            sentence += f"; {self.null_sizes.sentence(self.size)}"
        return f"{sentence}. {design_sentence(self._design)}"

    def _changes(self, order: Sequence[int]) -> str:
        """Return the strongest changes as a phrase, the supported ones where certainty is known."""
        panel, change = self._checkpoint.panel, self.effect.change
        if self._stored is None:
            genes = ", ".join(f"{panel[i]} {change[i]:+.2f}" for i in order[:NAMED])
            return f"strongest changes (log1p_cp10k) {genes or 'none'}"
        lfsr = self._stored.posterior.lfsr
        # Suggestive ones are named only where no change is supported.
        for most, text in ((SUPPORTED, "supported"), (SUGGESTIVE, "suggestive")):
            sure = [i for i in order if lfsr[i] <= most]
            if sure:
                # The simulated change, as in the rows: one number for a gene in an answer.
                genes = ", ".join(f"{panel[i]} {change[i]:+.2f}" for i in sure[:NAMED])
                n = f"{len(sure)} of {len(order)} genes' changes are {text} (lfsr <= {most:g})"
                none = "" if most == SUPPORTED else "no change is supported; "
                return f"{none}{n}, strongest (log1p_cp10k) {genes}"
        return f"no gene's change is distinguishable from no effect ({len(order)} genes)"

    def _additive(self) -> list[str]:
        """Return how much larger the plain sum of a combination's parts is, as a sentence."""
        stored = self._stored
        if stored is None or stored.additive is None:
            return []
        # L2 norms over genes, log1p_cp10k.
        here, summed = (float(np.linalg.norm(p.mean)) for p in (stored.posterior, stored.additive))
        if not here > 0:
            return []
        return [
            "never trained together: its parts are taken to saturate. The plain sum of their "
            f"changes is {summed / here:.2f} times as large (`additive`, by gene, in "
            "detail=detailed)"
        ]

    def _coverage(self, rows: Sequence[int]) -> list[str]:
        """Return where the intervals of the genes `rows` are not what they say."""
        if self._stored is None:
            return []
        # Then the widths are not the tier's, and its coverage says nothing of them.
        if error_model(self._design).is_default:
            return [BORROWED_WIDTH]
        shown = self._stored.posterior.mean[list(rows)]
        return misjudged(self._checkpoint.evidence, self._tier, shown)

    def caveats(self, rows: Sequence[int] = ()) -> list[str]:
        """Return what a reader must know before believing the numbers of the genes `rows`."""
        said = [MONTE_CARLO] if self.effect.n_cells > 1 else [SINGLE_CELL]
        if reasons := self._checkpoint.unfit(self._design.context, self._design.interventions):
            # Before all others: the simulated columns do not show the effect.
            said.insert(0, UNFIT.format(reasons="; ".join(reasons)))
        said += self._coverage(rows)
        if self._design.cells is None:
            said += sampling_caveats(self._checkpoint, self._design.sampling)
        if self._stored is None and self.null is None:
            said.append(NO_NULL)
        elif self._stored is None and self.null is not None:
            n = self.null.n_shams
            said.append(RANKED.format(n=n, more=n + 1))
        if np.isnan(self._errors).any():
            said.append(NO_ERROR)
        if (
            # p by rank compares like with like only if labels and effect had equally many steps.
            self._stored is None
            and self.null is not None
            and self.null.steps not in (None, self._design.steps)
        ):
            said.append(
                f"the null labels were sampled with {self.null.steps} steps, this with "
                f"{self._design.steps}: sham_q and sham_p are approximate"
            )
        parts = parts_of(self._design, self._stored)
        if parts is not None and parts.parallel:
            said.append(PARALLEL_EFFECTS.format(cosine=parts.similarity))
        if any(i.kind == "sham" for i in self._design.interventions):
            said.append(
                "a null label is a label without a meaning: its effect is the model's noise"
            )
        return [*said, *self._additive()]


def effect_fields(
    record: Shown,
    *,
    genes: Sequence[str] | None,
    limit: int,
    offset: int = 0,
    normalise: str = "cp10k",
) -> dict[str, Any]:
    """Return the fields of a succeeded perturbation: the asked genes, or the strongest ones.

    Raises:
        InputError: `normalise` is "unresponsive", and the cells are not stored here.
    """
    blob = record.artifact("effects")
    if blob is None:
        if normalise == "unresponsive":
            raise InputError(NEEDS_CELLS.format(name=record.experiment.id))
        return _from_row(record, genes, limit, offset)
    view = EffectView(record.design, unpack_effect(blob))
    panel = record.design.checkpoint.panel
    arguments = None if genes is None else resolve_genes(record.design.checkpoint, genes)
    # Named genes come in the order of the call, others by the size of their change.
    order = view.order if arguments is None else [panel.index(g) for g in arguments]
    rows = order[offset : offset + limit]
    scaled = rescaled(record, rows) if normalise == "unresponsive" else None
    share = moved_share(record.design, view.effect)
    # Only small panels: on large ones the moved genes hold little of the UMI.
    small = int(view.effect.measured.sum()) <= SMALL_PANEL
    large = small and share is not None and share >= LARGE_SHARE
    return {
        "summary": view.summary(),
        "units": UNITS,
        "caveats": [
            *view.caveats(rows),
            *([MOVED.format(share=share)] if large and scaled is None else []),
            *([scaled.sentence] if scaled else []),
        ],
        "moved_umi_share": finite(share),
        "magnitude": view.magnitude(),
        "null_check": view.null_check(),
        "target_check": view.target_checks(),
        "genes": [_scaled(view.gene(i), scaled, i) for i in rows],
        "truncated": cut(len(rows), len(order), record.experiment.id, offset, arguments),
        "next_step": f"{call_text('plot_experiment', id=record.experiment.id, kind='volcano')} "
        f"draws it; {call_text('replay_experiment', id=record.experiment.id)} proves it.",
    }


def _scaled(gene: GeneEffect, scaled: Rescaled | None, place: int) -> GeneEffect:
    if scaled is None:
        return gene
    span = scaled.intervals.get(place)
    return gene.model_copy(
        update={
            "unresponsive_change": finite(scaled.changes[place]),
            "unresponsive_mc_interval": span and [rounded(edge) for edge in span],
        }
    )


def _from_row(
    record: Shown, genes: Sequence[str] | None, limit: int, offset: int
) -> dict[str, Any]:
    """Return what the outcome itself keeps, for a ledger whose objects are elsewhere."""
    n_cells = int(record.result["n_cells"])
    again = f"{call_text('replay_experiment', id=record.experiment.id)} makes the cells again"
    page = kept_rows(
        record.result,
        record.experiment.id,
        limit=limit,
        offset=offset,
        genes=None if genes is None else resolve_genes(record.design.checkpoint, genes),
        total=record.result["measured_genes"],
        rest=again,
    )
    top = ", ".join(f"{row['gene']} {row['value']:+.2f}" for row in record.result["kept"][:NAMED])
    sentence = design_sentence(record.design)
    return {
        "summary": f"{record.where}: strongest changes (log1p_cp10k) {top}. {sentence}",
        "units": UNITS,
        "caveats": [NOT_STORED, *page.caveats, MONTE_CARLO],
        "genes": [kept_gene(row, n_cells) for row in page.rows],
        "truncated": page.truncated,
        "next_step": f"{again}.",
    }


def kept_gene(row: dict[str, Any], n_cells: int) -> GeneEffect:
    """Return what an outcome itself keeps of a gene's effect."""
    return GeneEffect(
        gene=row["gene"],
        # A row keeps the change alone (`findings`): the rest needs the stored arrays.
        log2_fold_change=None,
        mc_interval=None,
        control_mean=None,
        perturbed_mean=None,
        change=row["value"],
        change_mc_interval=interval(row["value"], row["se"], n_cells),
        prediction_error=None,
        sham_q=None,
    )
