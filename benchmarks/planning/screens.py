"""Must-show 2: real screens planned in rounds, against simple strategies.

    python -m benchmarks.planning.screens --data DATA --seeds 10 --out benchmarks/results

Five rounds of 128 (32 for a screen of about 1,000 genes). Features: Reactome pathways and Hallmark
sets as 96 principal components, essential and non-essential genes, transcription factors, and the
scores of the *other* screens. Never the screen's own. Pairs have the sum of their genes' features,
their products, and which genes they have. A hit is what the file calls one; what strategies learn
from is the size of the score, as hits are extreme scores of either sign in one screen.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lingshu_tools.planner.portfolio import Credit, credited, fill, shares
from lingshu_tools.planner.surrogate import Surrogate, ranked

Floats = NDArray[np.float64]
SINGLE = ("schmidt2022_ifng", "sanchez2021_tau_down", "steinhart2022_crispra",
          "scharenberg2022_choline")  # fmt: skip
PAIRS = "horlbeck2018_k562_pairs"
ROUNDS = 5
COMPONENTS = 96
PAIR_COMPONENTS = 12
NEIGHBOURS = 10


@dataclass(frozen=True)
class Task:
    """A screen to plan: features without its own scores, and the truth."""

    name: str
    targets: list[str]
    values: Floats
    hits: NDArray[np.bool_]
    essential: NDArray[np.bool_]
    features: Floats
    prior: Floats
    size: int


def read(folder: Path, name: str) -> tuple[list[str], Floats, NDArray[np.bool_]]:
    with gzip.open(folder / "screens" / f"{name}.csv.gz", "rt") as handle:
        rows = list(csv.DictReader(handle))
    scores = np.array([float(r["score"]) for r in rows])
    hits = np.array([r["hit"] == "1" for r in rows])
    return [r["target"] for r in rows], scores, hits


def learned_from(scores: Floats) -> Floats:
    """Return the size of scores over their median, at most 10: the bulk is noise, the tail not."""
    size = np.abs(scores)
    return np.minimum(size / (np.median(size) + 1e-9), 10.0)


def gene_sets(folder: Path) -> dict[str, set[str]]:
    sets: dict[str, set[str]] = {}
    for file in ("reactome.gmt", "msigdb_hallmark.gmt"):
        for line in (folder / "priors" / file).read_text().splitlines():
            name, _, *genes = line.split("\t")
            if 5 <= len(genes) <= 500:
                sets[name] = set(genes)
    return sets


def pathway_components(folder: Path, genes: list[str], n: int) -> Floats:
    place = {gene: i for i, gene in enumerate(genes)}
    sets = gene_sets(folder)
    x = np.zeros((len(genes), len(sets)), np.float32)
    for column, members in enumerate(sets.values()):
        rows = [place[g] for g in members if g in place]
        x[rows, column] = 1.0 / np.sqrt(max(len(rows), 1))
    values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
    best = np.argsort(-values)[:n]
    components = x @ vectors[:, best]
    return components / (components.std() + 1e-9)


def names(folder: Path, file: str) -> set[str]:
    return {line.split("\t")[0].strip() for line in (folder / "priors" / file).open()}


def single_task(folder: Path, name: str, size: int) -> Task:
    targets, scores, hits = read(folder, name)
    essential = names(folder, "CEGv2.txt")
    flags = [essential, names(folder, "NEGv1.txt"), names(folder, "lambert2018.txt")]
    columns = [pathway_components(folder, targets, COMPONENTS)]
    columns.append(np.array([[float(t in group) for group in flags] for t in targets]) * 2.0)
    prior = np.zeros(len(targets))
    for other in SINGLE:
        if other == name:
            continue
        others, theirs, _ = read(folder, other)
        by_gene = dict(zip(others, learned_from(theirs), strict=True))
        column = np.array([by_gene.get(t, 0.0) for t in targets])
        column = (column - column.mean()) / (column.std() + 1e-9)
        prior += column
        columns.append(2.0 * column[:, None])
    is_essential = np.array([t in essential for t in targets])
    return Task(name, targets, learned_from(scores), hits, is_essential,
                np.hstack(columns), prior, size)  # fmt: skip


def pair_task(folder: Path, size: int) -> Task:
    targets, scores, hits = read(folder, PAIRS)
    parts = [tuple(t.split("+")) for t in targets]
    genes = sorted({g for pair in parts for g in pair})
    place = {g: i for i, g in enumerate(genes)}
    index = np.array([[place[a], place[b]] for a, b in parts])
    components = pathway_components(folder, genes, PAIR_COMPONENTS)
    essential = np.array([g in names(folder, "CEGv2.txt") for g in genes], float)
    prior = np.zeros(len(genes))
    for other in SINGLE:
        others, theirs, _ = read(folder, other)
        by_gene = dict(zip(others, learned_from(theirs), strict=True))
        prior += np.array([by_gene.get(g, 0.0) for g in genes])
    a, b = index.T
    membership = np.zeros((len(targets), len(genes)), np.float32)
    membership[np.arange(len(targets)), a] = 1.0
    membership[np.arange(len(targets)), b] = 1.0
    x = np.hstack([components, essential[:, None], (prior / prior.std())[:, None]])
    features = np.hstack([membership, 0.3 * (x[a] + x[b]), 0.3 * x[a] * x[b]]).astype(np.float32)
    both = (essential[a] + essential[b]) > 0
    return Task(PAIRS, targets, learned_from(scores), hits, both, features,
                prior[a] + prior[b], size)  # fmt: skip


Planner = Callable[
    [Task, NDArray[np.intp], NDArray[np.intp], np.random.Generator], NDArray[np.intp]
]


def random(task: Task, measured, free, rng: np.random.Generator):  # noqa: ARG001
    return rng.permutation(free)[: task.size]


def essential_first(task: Task, measured, free, rng: np.random.Generator):  # noqa: ARG001
    order = rng.permutation(free)
    return order[np.argsort(~task.essential[order], kind="stable")][: task.size]


def greedy_ridge(task: Task, measured, free, rng: np.random.Generator):
    if not len(measured):
        return random(task, measured, free, rng)
    x, y = task.features[measured].astype(float), task.values[measured]
    centred = x - x.mean(0)
    kernel = centred @ centred.T + np.eye(len(measured)) * x.shape[1] * 0.1
    weights = centred.T @ np.linalg.solve(kernel, y - y.mean())
    return free[np.argsort(-(task.features[free] @ weights), kind="stable")[: task.size]]


def nearest(task: Task, measured, free, rng: np.random.Generator):
    if not len(measured):
        return random(task, measured, free, rng)
    unit = task.features / (np.linalg.norm(task.features, axis=1, keepdims=True) + 1e-9)
    similar = unit[free] @ unit[measured].T
    near = np.argpartition(-similar, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    predicted = task.values[measured][near].mean(axis=1)
    return free[np.lexsort((rng.random(len(free)), -predicted))[: task.size]]


def neighbour_order(task: Task, measured, free, n: int):
    """Order by similarity to the measured hits, less that to other measured candidates."""
    if not task.hits[measured].any():
        return free[:0]
    unit = task.features / (np.linalg.norm(task.features, axis=1, keepdims=True) + 1e-9)
    similar = unit[free] @ unit[measured].T
    near = np.argpartition(-similar, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    rate = task.hits[measured][near].mean(axis=1)
    return free[np.argsort(-rate, kind="stable")[:n]]


class Portfolio:
    """The default: strategies share the plate by what they have hit."""

    def __init__(self, only: str | None = None) -> None:
        self.only, self.credits = only, dict[str, Credit]()
        self.last: dict[int, list[str]] = {}

    def __call__(self, task: Task, measured, free, rng: np.random.Generator):
        if self.last:
            hits = {int(c) for c in measured if task.hits[c]}
            self.credits = credited(self.credits, self.last, hits)
        orders = self.orders(task, measured, free, rng)
        if self.only in orders:
            orders = {self.only: orders[self.only], "random": orders["random"]}
            share = {self.only: 1.0, "random": 0.0}
        else:
            rate = float(task.hits[measured].mean()) if len(measured) else 0.0
            share = shares({name: self.credits.get(name, Credit()) for name in orders}, rate)
        self.last = fill(orders, share, task.size)
        return np.array(list(self.last), np.intp)

    def orders(self, task: Task, measured, free, rng: np.random.Generator):
        n = 2 * task.size
        shuffled = rng.permutation(free)
        orders = {"random": shuffled[:n]}
        known = shuffled[np.argsort(~task.essential[shuffled], kind="stable")]
        if task.essential[free].any():
            orders["known genes"] = known[: min(n, int(task.essential[free].sum()))]
        orders["other screens"] = free[np.argsort(-task.prior[free], kind="stable")[:n]]
        if len(measured):
            near = neighbour_order(task, measured, free, n)
            if len(near):
                orders["neighbours"] = near
            x = task.features
            surrogate = Surrogate.fit(x[measured].astype(float), task.values[measured])
            orders |= ranked(surrogate, x, free, n, rng)
        return orders


STRATEGIES: dict[str, Callable[[], Planner]] = {
    "random": lambda: random,
    "known-essential-first": lambda: essential_first,
    "greedy ridge": lambda: greedy_ridge,
    "k nearest neighbours": lambda: nearest,
    "default (mixture)": Portfolio,
    "exploit": lambda: Portfolio("exploit"),
    "ucb": lambda: Portfolio("ucb"),
    "thompson": lambda: Portfolio("thompson"),
    "diverse": lambda: Portfolio("diverse"),
}


def cumulative(task: Task, propose: Planner, seed: int, allowed: NDArray[np.intp]) -> list[int]:
    rng = np.random.Generator(np.random.Philox(key=[seed, 128]))
    measured = np.empty(0, np.intp)
    hits: list[int] = []
    for _ in range(ROUNDS):
        free = np.setdiff1d(allowed, measured)
        chosen = propose(task, measured, free, rng)
        assert len(set(chosen) | set(measured)) == len(chosen) + len(measured)
        measured = np.concatenate([measured, chosen])
        hits.append(int(task.hits[measured].sum()))
    return hits


def write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[*SINGLE, PAIRS])
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name in arguments.only:
        size = 32 if name == "scharenberg2022_choline" else 128
        task = pair_task(arguments.data, size) if name == PAIRS else single_task(
            arguments.data, name, size
        )  # fmt: skip
        everything = np.arange(len(task.targets))
        for genes, allowed in (("all", everything), ("non-essential", everything[~task.essential])):
            if name == PAIRS and genes != "all":
                continue
            for label in arguments.strategies:
                runs = np.array(
                    [
                        cumulative(task, STRATEGIES[label](), s, allowed)
                        for s in range(arguments.seeds)
                    ]
                )
                final = runs[:, -1]
                row = {"screen": name, "genes": genes, "strategy": label, "wells": size * ROUNDS,
                       "hits": round(float(final.mean()), 1),
                       "sd": round(float(final.std(ddof=1)), 1) if len(final) > 1 else "",
                       "by_round": " ".join(f"{v:.1f}" for v in runs.mean(axis=0)),
                       "hits_in_screen": int(task.hits[allowed].sum()), "targets": len(allowed),
                       "seeds": arguments.seeds}  # fmt: skip
                rows.append(row)
                print(row, flush=True)
                write(arguments.out / "planning-screens.csv", rows)


if __name__ == "__main__":
    main()
