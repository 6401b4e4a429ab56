"""Features of genes from gene sets: `python -m lingshu_model.train.priors SETS.gmt … --out FILE`.

The table genes x sets holds ln(genes / genes in the set) for a member and 0 otherwise (inverse
document frequency: a rare set says more). Its rows, at length 1, are reduced by a truncated
singular value decomposition (latent semantic analysis, Deerwester et al. 1990) and brought to
length 1 again. The result is a CSV of symbols and numbers, which a training specification names as
its `priors`; a table from another source, such as a protein language model, works as well.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

Floats = NDArray[np.float64]


class PriorsError(ValueError):
    """A table of gene features, or a file of gene sets, is not what it should be."""


@click.command(context_settings={"show_default": True})
@click.argument("sets", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=Path("gene-priors.csv"))
@click.option("--width", type=click.IntRange(1), default=32, help="Numbers per gene.")
def main(sets: Sequence[Path], out: Path, width: int) -> None:
    """Write the features of every gene in the gene sets SETS (GMT)."""
    try:
        members = {f"{path.name}: {n}": m for path in sets for n, m in read_gmt(path).items()}
        table = features_of_sets(members, width)
    except PriorsError as error:
        raise click.ClickException(str(error)) from error
    with out.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["gene", *(f"x{i}" for i in range(width))])
        writer.writerows([gene, *(f"{x:.5f}" for x in row)] for gene, row in table.items())
    click.echo(f"{out}: {len(table)} genes of {len(members)} sets, {width} numbers each")


def read_gmt(path: Path) -> dict[str, list[str]]:
    """Return genes by set: name, description, genes, tab-separated, a set a line.

    Raises:
        PriorsError: a line has no genes.
    """
    by_name: dict[str, list[str]] = {}
    # A description may hold line separators other than those of files, which end no line.
    for number, line in enumerate(io.StringIO(path.read_text("utf-8")), 1):
        name, *rest = line.rstrip("\n").split("\t")
        genes = [gene for gene in rest[1:] if gene]
        if not genes:
            message = f"{path}, line {number}: {line[:40]!r} is no name, description and genes"
            raise PriorsError(message)
        by_name[name] = genes
    return by_name


def features_of_sets(sets: Mapping[str, Iterable[str]], width: int) -> dict[str, Floats]:
    """Return a vector of `width` numbers and length 1 for every gene of any set.

    Raises:
        PriorsError: there are not more sets and genes than `width`.
    """
    genes = sorted({gene for members in sets.values() for gene in members})
    if width >= min(len(genes), len(sets)):
        message = (
            f"{len(genes)} genes in {len(sets)} sets do not give {width} numbers: ask for less"
        )
        raise PriorsError(message)
    row = {gene: i for i, gene in enumerate(genes)}
    pairs = sorted({(row[g], column) for column, m in enumerate(sets.values()) for g in m})
    rows, columns = np.array(pairs).T
    in_set = np.bincount(columns, minlength=len(sets))
    weight = np.log(len(genes) / in_set)[columns]
    table = sparse.csr_matrix((weight, (rows, columns)), (len(genes), len(sets)))
    lengths = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
    scaled = sparse.csr_matrix(sparse.diags_array(1 / np.maximum(lengths, 1e-9)) @ table)
    # A fixed start makes the table a function of the sets alone.
    start = np.random.Generator(np.random.Philox(0)).standard_normal(min(len(genes), len(sets)))
    # The type stubs lack the return value.
    left, singular, _ = cast("Any", svds(scaled, k=width, v0=start))
    order = np.argsort(-singular)
    x = left[:, order] * singular[order]
    # The sign of a singular vector is arbitrary: its largest entry is made positive.
    x *= np.sign(x[np.abs(x).argmax(axis=0), np.arange(width)])
    return dict(zip(genes, unit_rows(x), strict=True))


def read_features(path: Path) -> dict[str, Floats]:
    """Return the features of every gene of a table that `main` wrote, or of another like it.

    Raises:
        PriorsError: a row is not a symbol and as many finite numbers as the first row has.
    """
    with path.open(newline="", encoding="utf-8") as handle:
        header, *rows = list(csv.reader(handle)) or [[]]
    by_name: dict[str, Floats] = {}
    for number, (gene, *cells) in enumerate((row for row in rows if row), 2):
        try:
            values = np.array(cells, np.float64)
        except ValueError as error:
            message = f"{path}, row {number} ({gene}): {error}"
            raise PriorsError(message) from error
        if len(values) != len(header) - 1 or not np.isfinite(values).all():
            message = f"{path}, row {number} ({gene}): wanted {len(header) - 1} finite numbers"
            raise PriorsError(message)
        by_name[gene] = values
    if not by_name:
        message = f"{path} has no genes: wanted a header, then a symbol and numbers a row"
        raise PriorsError(message)
    return by_name


def unit_rows(x: Floats) -> Floats:
    """Return the rows of `x` at length 1; a row of zeros stays one."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


if __name__ == "__main__":
    main()
