"""A semi-synthetic K562 Perturb-seq: `python -m benchmarks.combinations.make_k562 --help`.

Norman's pooled UMI counts (see `norman`) say what share of its counts each gene has under control,
104 singles and 130 doubles of CRISPRa; the published K562 baseline says how much a gene scatters
from cell to cell (its negative binomial size). Cells are drawn from the two, at depths of their
own. No real cell is in it, and no joint distribution: genes are independent given the depth. What
it keeps of nature is what one and two activations do to every gene's mean, counting noise included,
and that noise is written beside it.

The two published tables are of two K562 cultures (haemoglobins differ 20-fold), so the means are
Norman's own and only the sizes are the baseline's.
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.combinations.norman import Floats, Recovered, read
from benchmarks.combinations.truth import Targets, Truth, write_cells, write_spec

NAME = "k562-semisynthetic"
DEPTH_SPREAD = 0.35
SMALLEST_SIZE = 0.2
"""A few genes are fitted with less: one cell in ten would hold all of such a gene's counts."""


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/combinations"))
@click.option("--genes", default=400, help="Those with most counts under control and singles.")
@click.option("--cells", default=100, help="Per perturbed condition.")
@click.option("--controls", default=2_000)
@click.option("--depth", default=20_000.0, help="Mean UMI per cell, the panel a part of them.")
@click.option("--real-depth", default=12_000.0, help="Assumed of Norman's cells, for their noise.")
@click.option("--seed", default=0, help="Of the cells and of which doubles are held out.")
def main(
    data: Path, out: Path, genes: int, cells: int, controls: int, depth: float, real_depth: float,
    seed: int,
) -> None:  # fmt: skip
    """Write `k562-semisynthetic` as h5ad, truth (npz) and training spec (JSON)."""
    published = read(data / "effects" / "norman2019_k562_crispra.npz")
    panel = most_counted(published, genes)
    sizes = nb_sizes(data, [published.genes[i] for i in panel])
    real = Measured.of(published, panel, sizes, real_depth)
    truth = real.truth(seed)
    rng = np.random.default_rng([seed, 1])
    counts = [
        draw(rng, cpm, sizes, cells if row else controls, depth) for row, cpm in enumerate(real.cpm)
    ]
    out.mkdir(parents=True, exist_ok=True)
    h5ad = out / f"{NAME}.h5ad"
    about = {
        "what": "semi-synthetic K562 CRISPRa: negative binomial cells around published means",
        "means": "Norman 2019, GEO GSE133344, pooled UMI counts",
        "sizes": "Katsevich-Lab/perturbplan, K562 baseline",
        "seed": seed,
        "depth": depth,
    }
    write_cells(h5ad, truth, counts, about)
    truth.write(out / f"{NAME}.truth.npz")
    write_spec(out / f"{NAME}.json", h5ad, "crispra", {"cell_line": "K562, semi-synthetic"})
    click.echo(
        f"{h5ad}: {sum(len(c) for c in counts)} cells x {len(panel)} genes, "
        f"{np.mean(np.concatenate(counts).sum(axis=1)):.0f} counts per cell; "
        f"{len(truth.of(2, trained=True))} doubles to train on, "
        f"{len(truth.of(2, trained=False))} held out; "
        f"counts recovered to {published.misfit:.3f} of a whole UMI"
    )


@dataclass(frozen=True)
class Measured:
    """What was published of the panel: counts per million and their variance, control first.

    Attributes:
        genes: the panel.
        conditions: targets of every row.
        cpm: UMI per million, [conditions, genes].
        noise: variance of `cpm` as a measurement, [conditions, genes].
        umi: all UMI of a condition, [conditions].
    """

    genes: tuple[str, ...]
    conditions: tuple[Targets, ...]
    cpm: Floats
    noise: Floats
    umi: Floats

    @classmethod
    def of(
        cls,
        published: Recovered,
        panel: NDArray[np.int64],
        sizes: Floats,
        real_depth: float,
        *,
        every_double: bool = False,
    ) -> "Measured":
        """Return control, singles and doubles; `noise` is of counting UMI and of finite cells.

        A total of N UMI is taken to be of N / `real_depth` cells. Doubles of which a single is
        missing are left out, unless `every_double`.
        """
        known = set(published.singles)
        kept = [i for i, c in enumerate(published.conditions) if every_double or set(c) <= known]
        total = np.concatenate([[published.control_total], published.total[kept]])[:, None]
        cpm = np.vstack([published.control_cpm[None], published.cpm[kept]])[:, panel]
        noise = cpm / total * 1e6 + cpm**2 / sizes * (real_depth / total)
        conditions = (frozenset[str](), *(frozenset(published.conditions[i]) for i in kept))
        genes = tuple(published.genes[i] for i in panel)
        return cls(genes, conditions, cpm, noise, total.ravel())

    def truth(self, seed: int) -> Truth:
        """Return shares of the panel's counts; half of the doubles, drawn by `seed`, held out.

        A double of which a single is missing is not held out: nothing could predict it.
        """
        singles = {target for c in self.conditions if len(c) == 1 for target in c}
        doubles = [i for i, c in enumerate(self.conditions) if len(c) == 2 and c <= singles]
        held = np.random.default_rng([seed, 0]).permutation(doubles)[: len(doubles) // 2]
        trained = np.ones(len(self.conditions), bool)
        trained[held] = False
        total = self.cpm.sum(axis=1, keepdims=True)
        return Truth(self.genes, self.conditions, trained, self.cpm / total, self.noise / total**2)


def most_counted(published: Recovered, n: int) -> NDArray[np.int64]:
    """Return the indices of the genes with most counts under control and singles, in order.

    Doubles have no say: half of them are held out.
    """
    singles = published.cpm[: len(published.singles)]
    mean = np.vstack([published.control_cpm[None], singles]).mean(axis=0)
    return np.sort(np.argsort(-mean)[:n])


def nb_sizes(data: Path, genes: Sequence[str]) -> Floats:
    """Return the negative binomial size of each gene; the median of the others where unknown."""
    with gzip.open(data / "effects" / "k562_baseline_nb.csv.gz", "rt", encoding="utf-8") as handle:
        by_id = {
            row["response_id"]: float(row["expression_size"]) for row in csv.DictReader(handle)
        }
    ids = _ensembl(data / "priors" / "hgnc_complete_set.txt.gz")
    sizes = np.array([by_id.get(ids.get(gene, ""), np.nan) for gene in genes])
    return np.maximum(np.where(np.isnan(sizes), np.nanmedian(sizes), sizes), SMALLEST_SIZE)


def draw(
    rng: np.random.Generator, cpm: Floats, sizes: Floats, n: int, depth: float
) -> NDArray[np.int32]:
    """Return counts of `n` cells whose mean is `cpm` at a mean depth of `depth` UMI."""
    each = depth * rng.lognormal(-(DEPTH_SPREAD**2) / 2, DEPTH_SPREAD, (n, 1))
    around = rng.gamma(sizes, 1 / sizes, (n, len(cpm)))
    return rng.poisson(each * cpm / 1e6 * around).astype(np.int32)


def _ensembl(hgnc: Path) -> dict[str, str]:
    """Return Ensembl ids by current and, where they are nobody's current one, earlier symbols."""
    with gzip.open(hgnc, "rt", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    ids: dict[str, str] = {}
    for column in ("symbol", "prev_symbol", "alias_symbol"):
        for row in rows:
            for name in row[column].strip('"').split("|"):
                ids.setdefault(name, row["ensembl_gene_id"])
    return ids


if __name__ == "__main__":
    main()
