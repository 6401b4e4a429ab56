"""Must-show 3: does simulation help to choose what to measure next?

    python -m benchmarks.planning.simulation --data DATA --out benchmarks/results

THP-1: half of the 25 knock-outs are measured (replicates 1 and 2), the others hidden, ten times;
what hidden knock-outs do is predicted from features of their genes. K562 (semi-synthetic): the
singles are measured, and half of the doubles, as in `k562-crispra-semisynthetic`; hidden are the
other 63 doubles. The best quarter of the hidden is to be chosen, for many objectives of three
genes, and judged by the real (K562: published) changes:

    gain = (mean of the chosen - mean of all hidden) / (mean of the best - mean of all hidden),

0 of random choices, 1 of those that know. Choices are made by stored effects (closed form); by 256
simulated cells of each hidden perturbation; by a ridge surrogate on the measured scores with
features of the genes alone, and with the predicted score as a further feature, which is what
`record_measurements` does. Then with the labels of the measured perturbations shuffled between the
rounds: whatever is learned is of another perturbation, and no gain should be left.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.combinations.k562_checkpoint import NAME, REAL_DEPTH, published_truth
from benchmarks.combinations.make_k562 import draw
from benchmarks.planning.fitted import Floats, Model, Targets, change, training_cells
from benchmarks.planning.power import FILE
from benchmarks.planning.screens import pathway_components
from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_model.contracts.effects import NoEffectError
from lingshu_model.effects import fit_mover
from lingshu_model.effects.moments import expression_levels
from lingshu_tools.planner.surrogate import Surrogate

SPLITS, OBJECTIVES, SHARE, SIMULATED, COMPONENTS = 10, 40, 0.25, 256, 8
CELLS, CONTROLS = 300, 1_500
"""Most cells of a knock-out and of the control."""
TRUTH_CELLS = 600
CONTROL = "non-targeting"
Counts = NDArray[np.int32]


@dataclass(frozen=True)
class Round:
    """What is known after one round, and what is hidden.

    Attributes:
        hidden: perturbations to choose from.
        predicted: change of each by stored effects, [hidden, genes].
        simulated: the same, of simulated cells; None where none are simulated.
        real: the real changes.
        measured: changes that were measured, [measured, genes].
        features: of the measured perturbations' genes, [measured, features].
        hidden_features: the same of the hidden.
        fitted: predictions for the measured ones had they been hidden, [measured, genes].
    """

    hidden: Sequence[Targets]
    predicted: Floats
    simulated: Floats | None
    real: Floats
    measured: Floats
    features: Floats
    hidden_features: Floats
    fitted: Floats


def chosen(scores: Floats, n: int) -> NDArray[np.intp]:
    return np.argsort(-scores, kind="stable")[:n]


def strategies(r: Round, weights: Floats) -> Mapping[str, Floats]:
    """Return the scores by which each strategy orders the hidden."""
    y = r.measured @ weights
    alone = Surrogate.fit(r.features, y)
    fitted, predicted = r.fitted @ weights, r.predicted @ weights
    scale = 2.0 / (fitted.std() + 1e-9)
    extended = Surrogate.fit(np.column_stack([r.features, scale * fitted]), y)
    with_effect = np.column_stack([r.hidden_features, scale * predicted])
    simulated = {} if r.simulated is None else {"simulated cells": r.simulated @ weights}
    return simulated | {
        "closed form": r.predicted @ weights,
        "surrogate, features of genes": alone.mean(r.hidden_features),
        "surrogate, features and predicted effect": extended.mean(with_effect),
    }


def gains(r: Round, rng: np.random.Generator, genes: Sequence[int]) -> dict[str, list[float]]:
    """Return the gain of every strategy for `OBJECTIVES` objectives."""
    result: dict[str, list[float]] = {}
    n = max(1, round(SHARE * len(r.hidden)))
    for _ in range(OBJECTIVES):
        weights = np.zeros(r.real.shape[1])
        weights[rng.choice(genes, 3, replace=False)] = rng.choice([-1.0, 1.0], 3) / 3
        real = r.real @ weights
        scale = np.sort(real)[-n:].mean() - real.mean()
        for name, scores in strategies(r, weights).items():
            picked = real[chosen(scores, n)].mean() - real.mean()
            result.setdefault(name, []).append(float(picked / scale))
        order = rng.permutation(len(real))
        by_chance = real[order[:n]].mean() - real.mean()
        result.setdefault("random", []).append(float(by_chance / scale))
    return result


def simulated_change(control: sparse.csr_matrix, predicted: Floats) -> Floats:
    """Return the mean change of control cells that are moved by a predicted effect."""
    moved = fit_mover(control, predicted).move(control, seed=1)
    after, before = (expression_levels(c) for c in (moved, control))
    return np.asarray((after - before).mean(axis=0)).ravel()


def moving_genes(changes: Floats, genes: Sequence[str], targets: Sequence[str]) -> NDArray[np.intp]:
    """Return the half of the genes that measured perturbations move most, targets left out.

    What a knock-out does to its own gene is known without any measurement.
    """
    size = np.where(np.isin(genes, targets), 0.0, (changes**2).mean(axis=0))
    return np.flatnonzero(size > np.median(size))


def thp1_rounds(data: Path, *, shuffled: bool) -> list[tuple[Round, NDArray[np.intp]]]:
    adata = anndata.read_h5ad(data / FILE)
    labels = adata.obs["perturbation"].to_numpy(str)
    training = adata.obs["bio_rep"].isin(["rep_1", "rep_2"]).to_numpy()
    matrix = sparse.csr_matrix(adata.X)
    genes = tuple(map(str, adata.var_names))
    targets = sorted(set(labels) - {CONTROL})

    def cells(label: str) -> Counts:
        rows = np.flatnonzero((labels == label) & training)
        kept = np.random.default_rng(0).permutation(rows)[: CONTROLS if label == CONTROL else CELLS]
        return matrix[kept].toarray().astype(np.int32)

    counts = {t: cells(t) for t in targets}
    control = cells(CONTROL)
    real = {t: change(counts[t], control)[0] for t in targets}
    features = pathway_components(data, targets, COMPONENTS)
    place = {t: i for i, t in enumerate(targets)}
    pool = sparse.csr_matrix(control[:SIMULATED], dtype=np.float64)
    rounds = []
    for split in range(SPLITS):
        rng = np.random.default_rng([split, 1])
        order = [targets[i] for i in rng.permutation(len(targets))]
        measured, hidden = order[: len(order) // 2 + 1], order[len(order) // 2 + 1 :]
        # A label of another measured perturbation: between the rounds the tubes were exchanged.
        named = [measured[i] for i in rng.permutation(len(measured))] if shuffled else measured
        data_of = dict(zip(measured, named, strict=True))
        known = {frozenset([t]): counts[data_of[t]] for t in measured} | {frozenset(): control}
        model = Model.of(training_cells(genes, known, "knockout"), "knockout", judge=False)
        predicted = np.stack([_unseen(model, t) for t in hidden])
        fitted = []
        for t in measured:
            others = {k: v for k, v in known.items() if k != frozenset([t])}
            left = Model.of(training_cells(genes, others, "knockout"), "knockout", judge=False)
            fitted.append(_unseen(left, t))
        rounds.append((Round(
            [frozenset([t]) for t in hidden],
            predicted,
            np.stack([simulated_change(pool, p) for p in predicted]),
            np.stack([real[t] for t in hidden]),
            np.stack([real[data_of[t]] for t in measured]),
            features[[place[t] for t in measured]],
            features[[place[t] for t in hidden]],
            np.stack(fitted),
        ), moving_genes(np.stack([real[t] for t in measured]), genes, targets)))  # fmt: skip
    return rounds


def _unseen(model: Model, target: str) -> Floats:
    """Return the predicted change of a target; no change where nothing is known."""
    try:
        return model.posterior(frozenset([target])).mean
    except NoEffectError:
        return np.zeros(len(model.genes))


def k562_rounds(
    data: Path, checkpoint: Checkpoint, *, shuffled: bool
) -> list[tuple[Round, NDArray[np.intp]]]:
    published, sizes, truth = published_truth(data, 0)
    rng = np.random.default_rng(3)
    context, effects = checkpoint.contexts[0], checkpoint.effects
    assert effects is not None
    place = {c: i for i, c in enumerate(published.conditions)}
    control = draw(rng, published.cpm[0], sizes, 3 * TRUTH_CELLS, REAL_DEPTH)

    def real(targets: Targets) -> Floats:
        cells = draw(rng, published.cpm[place[targets]], sizes, TRUTH_CELLS, REAL_DEPTH)
        return change(cells, control)[0]

    singles = sorted({t for c in truth.of(1, trained=True) for t in c})
    hidden = truth.of(2, trained=False)
    measured = [c for c in truth.of(2, trained=True) if c <= set(singles)]
    changes = {c: real(c) for c in [*hidden, *measured]}
    by_gene = pathway_components(data, singles, COMPONENTS)
    number = {t: i for i, t in enumerate(singles)}
    pool = sparse.csr_matrix(control[:SIMULATED], dtype=np.float64)
    moving = moving_genes(np.stack([changes[c] for c in measured]), checkpoint.panel, singles)
    rounds = []
    for split in range(SPLITS if shuffled else 1):
        rng = np.random.default_rng([split, 2])
        names = [singles[i] for i in rng.permutation(len(singles))] if shuffled else singles
        label = dict(zip(singles, names, strict=True))
        order = rng.permutation(len(measured)) if shuffled else np.arange(len(measured))

        def expected(targets: Targets, label: Mapping[str, str] = label) -> Floats:
            parts = [Intervention(kind="crispra", target=label[t]) for t in sorted(targets)]
            return effects.expected(context, parts).posterior.mean

        def features(doubles: Sequence[Targets]) -> Floats:
            return np.stack([by_gene[[number[t] for t in c]].sum(axis=0) for c in doubles])

        predicted = np.stack([expected(c) for c in hidden])
        # Cells moved by the effects of other perturbations would say what those effects say.
        moved = None if shuffled else np.stack([simulated_change(pool, p) for p in predicted])
        rounds.append((Round(
            hidden, predicted, moved, np.stack([changes[c] for c in hidden]),
            np.stack([changes[measured[i]] for i in order]), features(measured), features(hidden),
            np.stack([expected(c) for c in measured]),
        ), moving))  # fmt: skip
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["thp1", "k562"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sets: dict[str, Callable[..., list[tuple[Round, NDArray[np.intp]]]]] = {
        "thp1": lambda *, shuffled: thp1_rounds(arguments.data, shuffled=shuffled),
        "k562": lambda *, shuffled: k562_rounds(
            arguments.data, Catalogue().load(NAME), shuffled=shuffled
        ),
    }
    rows = []
    for name in arguments.sets:
        for shuffled in (False, True):
            by_round: dict[str, list[float]] = {}
            for i, (each, genes) in enumerate(sets[name](shuffled=shuffled)):
                n = 1 if shuffled or name == "thp1" else 10
                for repeat in range(n):
                    rng = np.random.default_rng([i, repeat, 9])
                    for strategy, values in gains(each, rng, genes).items():
                        by_round.setdefault(strategy, []).append(float(np.mean(values)))
            for strategy, values in by_round.items():
                se = np.std(values, ddof=1) / len(values) ** 0.5
                rows.append({"set": name, "labels": "shuffled" if shuffled else "right",
                             "strategy": strategy, "gain": round(float(np.mean(values)), 3),
                             "se": round(float(se), 3), "rounds": len(values)})  # fmt: skip
                print(rows[-1], flush=True)
    if arguments.out:
        with (arguments.out / "planning-simulation.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
