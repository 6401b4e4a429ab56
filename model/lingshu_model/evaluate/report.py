"""One evaluation: sample, compare, and return rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lingshu_model.evaluate.arms import ArmStore, null_labels
from lingshu_model.evaluate.contrasts import Predicted, contrast_results, strengths
from lingshu_model.evaluate.copies import copy_rows
from lingshu_model.evaluate.distribution import distribution_rows
from lingshu_model.evaluate.figures import merged_sets, named_sets
from lingshu_model.evaluate.metrics.changes import paired_change
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.evaluate.metrics.matrices import Floats, Sparse, expression_levels
from lingshu_model.evaluate.metrics.resampling import Draws
from lingshu_model.evaluate.predictors import Predictor, Training
from lingshu_model.evaluate.rows import MODEL, HeldOut, NamedSet, Row, Unit
from lingshu_model.evaluate.sources import Source, Sources, in_population
from lingshu_model.evaluate.study import Population, Study

Each = Callable[[], object]
"""Called after every sampled arm."""


@dataclass(frozen=True)
class Report:
    """The rows of one split or of several, the contrasts, and named sets of units."""

    rows: list[Row]
    held_out: list[HeldOut]
    sets: list[NamedSet]

    def merged(self, other: "Report") -> "Report":
        """Return the report of both, another fold's rows after this one's."""
        rows = [*self.rows, *other.rows]
        return Report(rows, [*self.held_out, *other.held_out], merged_sets(self.sets, other.sets))


def evaluate(
    study: Study,
    sources: Sources,
    draws: Draws | None = None,
    further: Mapping[str, Predictor] | None = None,
    *,
    cells: bool = True,
) -> Report:
    """Return the rows of a study. Without a source called `model` the predictors are compared.

    Args:
        study: the real cells.
        sources: predicted cells over the panel: the model and its peers.
        draws: how often each random step is repeated.
        further: predictors besides the registered ones.
        cells: whether cells are compared too, and not mean changes alone.
    """
    draws = draws or Draws()
    rows: list[Row] = []
    held_out: list[HeldOut] = []
    strong: dict[Unit, float] = {}
    for population in study.populations:
        here = in_population(sources, population)
        training = Training(population, study.families)
        predicted: dict[str, Predicted] = {}
        for result in contrast_results(training, here, study.fold, draws, further or {}):
            rows += result.rows
            held_out.append(result.held_out)
            predicted[result.contrast.perturbed] = result.predicted
        if study.contexts == 1:
            by_name = strengths(training, draws)
            strong |= {(population.name, name): value for name, value in by_name.items()}
        if cells:
            rows += _cell_rows(population, study.fold, here, predicted, draws)
    # Sets last: the strongest perturbations are chosen over all populations.
    return Report(rows, held_out, named_sets(study, strong))


def _cell_rows(
    population: Population,
    fold: str,
    sources: Sources,
    predicted: Mapping[str, Predicted],
    draws: Draws,
) -> Iterator[Row]:
    frame = Frame.fit(population.train.values())
    yield from distribution_rows(population, sources, predicted, frame, fold, draws)
    if MODEL in sources:
        yield from copy_rows(population, sources[MODEL], fold)


def sample(
    store: ArmStore, study: Study, seeds: Sequence[int], each: Each, *, steps: int | None = None
) -> Source:
    """Return the model's cells of every condition of a study, over the panel."""
    arms: list[dict[str, Sparse]] = []
    for seed in seeds:
        cells: dict[str, Sparse] = {}
        for name, n in study.sizes(store.n_cells).items():
            cells[name] = store.counts(study.conditions[name], seed, n=n, steps=steps)
            each()
        arms.append(cells)
    # Arms of one seed share the streams of their cells, row by row.
    return Source([*seeds], arms, paired=True)


@dataclass(frozen=True)
class NullChanges:
    """Changes of the null labels, random control cells labelled as if perturbed.

    Attributes:
        genes: symbols that any of them measures.
        values: log1p_cp10k [labels, genes]; NaN where unmeasured.
    """

    genes: Sequence[str] = ()
    values: Floats = field(default_factory=lambda: np.zeros((0, 0)))


def null_changes(store: ArmStore, study: Study, seed: int, each: Each) -> NullChanges:
    """Return the model's changes under the null labels, over the genes that they measure."""
    panel = store.checkpoint.panel
    labels = null_labels(store.checkpoint)
    values = np.full((len(labels), len(panel)), np.nan)
    for i, label in enumerate(labels):
        # Genes that the context's population measures; the panel where nothing of it is held out.
        columns = next(
            (
                p.columns
                for p in study.populations
                if any(study.conditions[n].context == label.context for n in p.test)
            ),
            np.arange(len(panel)),
        )
        conditions = (label, replace(label, interventions=()))
        arms = (expression_levels(store.counts(c, seed)[:, columns]) for c in conditions)
        values[i, columns] = paired_change(*arms).value
        each()
    known = np.flatnonzero(np.isfinite(values).any(axis=0))  # a context may lack genes
    return NullChanges([panel[i] for i in known.tolist()], values[:, known])
