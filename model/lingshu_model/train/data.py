"""Training cells from h5ad files: tokens, which condition each cell has, and which genes count.

Raw integer counts in `X`, gene symbols in `var_names`. A panel gene that a file lacks is
unmeasured, which is not zero. Control cells also appear under the sham conditions. Knows nothing
of the network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray

from lingshu_model import tokens
from lingshu_model.train.spec import Source, TrainingSpec
from lingshu_model.wire import Intervention


class DataError(ValueError):
    """A training file is not what its spec says; the file and the value are named."""


@dataclass(frozen=True)
class Condition:
    """One (context, interventions) pair of the training cells."""

    context: tuple[tuple[str, str], ...]
    interventions: tuple[Intervention, ...] = ()


@dataclass(frozen=True)
class TrainingCells:
    """Cells of all sources over one panel.

    Attributes:
        panel: gene symbols.
        tokens: uint16 [cells, genes]; MASK where unmeasured.
        condition: int64 [cells], an index into `conditions`.
        conditions: control conditions first, then perturbed ones, in order of appearance.
    """

    panel: tuple[str, ...]
    tokens: NDArray[np.uint16]
    condition: NDArray[np.int64]
    conditions: tuple[Condition, ...]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Decoded UMI [cells, genes], 0 where unmeasured."""
        return tokens.decode(np.where(self.tokens == tokens.MASK, 0, self.tokens))

    def rows(self, condition: int) -> NDArray[np.int64]:
        """Return the row numbers of the cells of one condition."""
        return np.flatnonzero(self.condition == condition)

    def take(self, rows: NDArray[np.int64]) -> "TrainingCells":
        """Return the cells `rows`, with the same conditions."""
        return TrainingCells(self.panel, self.tokens[rows], self.condition[rows], self.conditions)


def read_cells(spec: TrainingSpec, folder: Path) -> TrainingCells:
    """Return the cells of all sources of `spec`, whose files lie in `folder`.

    Raises:
        DataError: a file, column or value is missing, or the counts are not raw UMI.
    """
    panel = _panel(spec, folder)
    parts = [_read_source(source, folder, panel) for source in spec.sources]
    known: dict[Condition, int] = {}
    labels = [condition for _, conditions in parts for condition in conditions]
    for condition in sorted(set(labels), key=lambda c: (c.interventions != (), repr(c))):
        known[condition] = len(known)
    index = np.array([known[label] for label in labels], np.int64)
    return TrainingCells(panel, np.concatenate([t for t, _ in parts]), index, tuple(known))


def split(
    cells: TrainingCells, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and the rows to validate on, stratified by condition."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    held = [
        generator.permutation(rows)[: round(fraction * len(rows))]
        for rows in (cells.rows(c) for c in range(len(cells.conditions)))
    ]
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(cells.condition)), held_out), held_out


def add_shams(cells: TrainingCells, count: int, seed: int) -> TrainingCells:
    """Return the cells and, below them, `count` random control subsets under sham conditions.

    Each subset is as large as the median perturbed condition and drawn without replacement from
    one control condition (the first); what the model makes of it is its null.
    """
    if not count:
        return cells
    perturbed = [len(cells.rows(i)) for i, c in enumerate(cells.conditions) if c.interventions]
    control = cells.rows(0)
    size = min(int(np.median(perturbed)) if perturbed else len(control) // 2, len(control))
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    subsets = [generator.choice(control, size, replace=False) for _ in range(count)]
    shams = [
        Condition(cells.conditions[0].context, (Intervention(kind="sham", target=f"sham-{i:02d}"),))
        for i in range(count)
    ]
    labels = [np.full(size, len(cells.conditions) + i) for i in range(count)]
    return TrainingCells(
        cells.panel,
        np.concatenate([cells.tokens, *(cells.tokens[s] for s in subsets)]),
        np.concatenate([cells.condition, *labels]),
        (*cells.conditions, *shams),
    )


def _panel(spec: TrainingSpec, folder: Path) -> tuple[str, ...]:
    if spec.panel is not None:
        lines = (folder / spec.panel).read_text("utf-8").splitlines()
        return tuple(line.split(",")[0].strip() for line in lines if line.strip())
    adata = anndata.read_h5ad(_existing(folder / spec.sources[0].file), backed="r")
    names = tuple(str(name) for name in adata.var_names)
    adata.file.close()
    return names


def _existing(path: Path) -> Path:
    if not path.is_file():
        message = f"{path} does not exist; give the folder of the h5ad files with --data"
        raise DataError(message)
    return path


def _read_source(
    source: Source, folder: Path, panel: Sequence[str]
) -> tuple[NDArray[np.uint16], list[Condition]]:
    path = _existing(folder / source.file)
    adata = anndata.read_h5ad(path)
    names = [str(name) for name in adata.var_names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        message = f"{path} names the gene {twice!r} twice; make var_names unique"
        raise DataError(message)
    keep = np.ones(adata.n_obs, bool)
    for column, values in source.where.items():
        keep &= np.isin(_column(adata, column, path), values)
    adata = adata[keep]
    if adata.n_obs == 0:
        message = f"{path}: no cell has {source.where}"
        raise DataError(message)
    return _tokens(adata, names, panel, path), list(_conditions(adata, source, path))


def _tokens(
    adata: anndata.AnnData, names: Sequence[str], panel: Sequence[str], path: Path
) -> NDArray[np.uint16]:
    matrix = adata.X
    dense = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)  # pyright: ignore
    where = {name: i for i, name in enumerate(names)}
    shared = [(i, where[gene]) for i, gene in enumerate(panel) if gene in where]
    if not shared:
        message = f"{path} has none of the panel's {len(panel)} genes; it names {names[:3]} …"
        raise DataError(message)
    out = np.full((dense.shape[0], len(panel)), tokens.MASK, np.uint16)
    to, of = (list(part) for part in zip(*shared, strict=True))
    try:
        out[:, to] = tokens.encode(dense[:, of])
    except ValueError as error:
        message = f"{path}: {error}"
        raise DataError(message) from error
    return out


def _conditions(adata: anndata.AnnData, source: Source, path: Path) -> Iterator[Condition]:
    fields = {
        field: _column(adata, value[4:], path)
        if value.startswith("obs:")
        else np.full(adata.n_obs, value)
        for field, value in source.context.items()
    }
    rule = source.perturbation
    labels = _column(adata, rule.column, path) if rule else None
    if rule and labels is not None and rule.control not in labels:
        message = f"{path}: obs[{rule.column!r}] has no control cells called {rule.control!r}"
        raise DataError(message)
    for i in range(adata.n_obs):
        context = tuple(sorted((field, str(values[i])) for field, values in fields.items()))
        if rule is None or labels is None or labels[i] == rule.control:
            yield Condition(context)
        else:
            yield Condition(context, (Intervention(kind=rule.kind, target=str(labels[i])),))


def _column(adata: anndata.AnnData, column: str, path: Path) -> NDArray[np.str_]:
    if column not in adata.obs:
        message = f"{path} has no obs column {column!r}; it has {', '.join(adata.obs.columns)}"
        raise DataError(message)
    return adata.obs[column].astype(str).to_numpy(dtype=str)
