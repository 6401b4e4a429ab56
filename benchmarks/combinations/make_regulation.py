"""Simulated regulation: `python -m benchmarks.combinations.make_regulation --help`.

`lingshu_testing.Regulation` draws the network; its knock-outs are steady states, its cells
negative binomial counts around them. To train on: control, all singles, some doubles. Held out: the
other doubles, and triples and quadruples, none of which is ever trained on.
"""

from itertools import combinations
from pathlib import Path

import click
import numpy as np

from benchmarks.combinations.truth import Targets, Truth, write_cells, write_spec
from lingshu_testing import Regulation

NAME = "regulation"


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/combinations"))
@click.option("--cells", default=150, help="Per perturbed condition.")
@click.option("--controls", default=2_000)
@click.option("--doubles", default=30, help="Of 45, to train on.")
@click.option("--higher", default=40, help="Triples, and quadruples, held out.")
@click.option("--network-seed", default=0)
@click.option("--seed", default=0, help="Of the cells and of what is held out.")
def main(
    out: Path, cells: int, controls: int, doubles: int, higher: int, network_seed: int, seed: int
) -> None:
    """Write `regulation` as h5ad, truth (npz) and training spec (JSON)."""
    network = Regulation.draw(network_seed)
    rng = np.random.default_rng([seed, 0])
    pairs = _subsets(network, 2, rng)
    trained = [frozenset[str](), *_subsets(network, 1, rng), *pairs[:doubles]]
    held = [*pairs[doubles:], *(s for k in (3, 4) for s in _subsets(network, k, rng)[:higher])]
    conditions = (*trained, *held)
    share = np.stack([network.share(c) for c in conditions])
    known = np.arange(len(conditions)) < len(trained)
    truth = Truth(network.genes, conditions, known, share, np.zeros_like(share))
    sizes = [controls if not c else cells for c in conditions]
    counts = [network.cells(c, n, seed) for c, n in zip(conditions, sizes, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    h5ad = out / f"{NAME}.h5ad"
    about = {"what": "a simulated regulatory network", "network_seed": network_seed, "seed": seed}
    write_cells(h5ad, truth, counts, about)
    truth.write(out / f"{NAME}.truth.npz")
    write_spec(out / f"{NAME}.json", h5ad, "knockout", {"cell_line": "simulated"})
    click.echo(
        f"{h5ad}: {sum(sizes)} cells x {len(network.genes)} genes; {len(trained)} conditions to "
        f"train on, {len(held)} held out"
    )


def _subsets(network: Regulation, size: int, rng: np.random.Generator) -> list[Targets]:
    """Return all sets of `size` targets in random order; singles as they are."""
    subsets = [frozenset(s) for s in combinations(network.targets, size)]
    return subsets if size == 1 else [subsets[i] for i in rng.permutation(len(subsets))]


if __name__ == "__main__":
    main()
