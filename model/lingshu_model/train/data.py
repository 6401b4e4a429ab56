"""Training cells read from h5ad files, and which of them are kept out.

Raw integer counts in `X`, genes in `var_names`. Knows nothing of the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model import tokens
from lingshu_model.train.cells import Condition, TrainingCells, joined
from lingshu_model.train.genes import Hgnc, match
from lingshu_model.train.spec import Source, TrainingSpec
from lingshu_model.wire import Intervention


class DataError(ValueError):
    """A training file is not what its spec says; the file and the value are named."""


@dataclass(frozen=True)
class Parts:
    """Row numbers of the cells of each part, ascending.

    Attributes:
        train: what the weights are learned from.
        validation: what settings are chosen on, stratified by condition.
        test: what nothing is chosen on, stratified by condition.
        unseen: the cells of conditions that are never trained on.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    unseen: NDArray[np.int64]


def read_cells(spec: TrainingSpec, folder: Path) -> TrainingCells:
    """Return the cells of all sources of `spec`, whose files lie in `folder`.

    Raises:
        DataError: a file, column or value is missing, or the counts are not raw UMI.
    """
    hgnc = Hgnc.read(_existing(folder / spec.aliases)) if spec.aliases else None
    panel = _panel(spec, folder)
    return joined([_read_source(source, folder, panel, hgnc) for source in spec.sources])


def split(cells: TrainingCells, spec: TrainingSpec) -> Parts:
    """Return the parts, a function of the spec's fractions, its seed and the cells alone."""
    generator = np.random.Generator(np.random.Philox(key=[spec.seed, 1]))
    found: dict[str, list[NDArray[np.int64]]] = {"validation": [], "test": [], "unseen": []}
    for index, condition in enumerate(cells.conditions):
        rows = cells.rows(index)
        if any(condition.is_about(one.context, one.target) for one in spec.unseen):
            found["unseen"].append(rows)
            continue
        shuffled = generator.permutation(rows)
        tested, chosen = round(spec.test * len(rows)), round(spec.validation * len(rows))
        found["test"].append(shuffled[:tested])
        found["validation"].append(shuffled[tested : tested + chosen])
    out = {n: np.sort(np.concatenate([*p, np.zeros(0, np.int64)])) for n, p in found.items()}
    held = np.concatenate([*out.values()])
    return Parts(train=np.setdiff1d(np.arange(len(cells)), held), **out)


def _panel(spec: TrainingSpec, folder: Path) -> tuple[str, ...]:
    if spec.panel is not None:
        lines = _existing(folder / spec.panel).read_text("utf-8").splitlines()
        return tuple(line.split(",")[0].strip() for line in lines if line.strip())
    adata = anndata.read_h5ad(_existing(folder / spec.sources[0].file), backed="r")
    names = tuple(str(name) for name in adata.var_names)
    adata.file.close()
    return names


def _existing(path: Path) -> Path:
    if not path.is_file():
        message = f"{path} does not exist; give the folder of the data files with --data"
        raise DataError(message)
    return path


def _read_source(
    source: Source, folder: Path, panel: Sequence[str], hgnc: Hgnc | None
) -> TrainingCells:
    path = _existing(folder / source.file)
    adata = anndata.read_h5ad(path)
    names = [str(name) for name in adata.var_names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        message = f"{path} names the gene {twice!r} twice; make var_names unique"
        raise DataError(message)
    keep = _wanted(adata, source, path)
    if not keep.any():
        message = f"{path}: no cell has {source.where} and a name for {[*source.rename]}"
        raise DataError(message)
    adata = adata[keep]
    counts, measured = _tokens(adata, names, panel, hgnc, path)
    labels = _conditions(adata, source, path)
    order = list(dict.fromkeys(labels))
    number = {condition: i for i, condition in enumerate(order)}
    return TrainingCells(
        tuple(panel),
        counts,
        np.zeros(len(labels), np.int64),
        measured[None],
        np.array([number[label] for label in labels], np.int64),
        tuple(order),
    )


def _wanted(adata: anndata.AnnData, source: Source, path: Path) -> NDArray[np.bool_]:
    keep = np.ones(adata.n_obs, bool)
    for column, values in source.where.items():
        keep &= np.isin(_column(adata, column, path), values)
    for field, names in source.rename.items():
        keep &= np.isin(_column(adata, source.context[field].removeprefix("obs:"), path), [*names])
    for combination in source.without:
        matches = [_column(adata, c, path) == value for c, value in combination.items()]
        keep &= ~np.logical_and.reduce(matches)
    return keep


def _tokens(
    adata: anndata.AnnData,
    names: Sequence[str],
    panel: Sequence[str],
    hgnc: Hgnc | None,
    path: Path,
) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
    """Return tokens [cells, panel] in compressed rows and which panel genes the file measures."""
    found = match(panel, names, hgnc)
    if not found:
        message = f"{path} has none of the panel's {len(panel)} genes; it names {names[:3]} …"
        raise DataError(message)
    counts = sparse.csr_matrix(adata.X)[:, [*found.values()]].tocoo()  # pyright: ignore
    try:
        data = tokens.encode(counts.data).astype(np.uint16)
    except ValueError as error:
        message = f"{path}: {error}"
        raise DataError(message) from error
    columns = np.array([*found], np.int64)[counts.col]
    out = sparse.csr_matrix((data, (counts.row, columns)), (adata.n_obs, len(panel)))
    out.eliminate_zeros()
    out.sort_indices()
    measured = np.zeros(len(panel), bool)
    measured[[*found]] = True
    return out, measured


def _conditions(adata: anndata.AnnData, source: Source, path: Path) -> list[Condition]:
    fields = {f: _values(adata, source, f, path) for f in sorted(source.context)}
    contexts = zip(*fields.values(), strict=True)
    interventions = _interventions(adata, source, path)
    return [
        Condition(tuple(zip(fields, map(str, values), strict=True)), done)
        for values, done in zip(contexts, interventions, strict=True)
    ]


def _values(adata: anndata.AnnData, source: Source, field: str, path: Path) -> Sequence[str]:
    value = source.context[field]
    if not value.startswith("obs:"):
        return [value] * adata.n_obs
    names: Mapping[str, str] = source.rename.get(field, {})
    return [names.get(v, v) for v in _column(adata, value.removeprefix("obs:"), path).tolist()]


def _interventions(
    adata: anndata.AnnData, source: Source, path: Path
) -> list[tuple[Intervention, ...]]:
    rule = source.perturbation
    if rule is None:
        return [()] * adata.n_obs
    labels = _column(adata, rule.column, path).tolist()
    if rule.control not in labels:
        message = f"{path}: obs[{rule.column!r}] has no control cells called {rule.control!r}"
        raise DataError(message)

    def done(label: str) -> tuple[Intervention, ...]:
        targets = label.split(rule.separator) if rule.separator else [label]
        named = [rule.targets.get(t, t) for t in targets if t != rule.control]
        return tuple(Intervention(kind=rule.kind, target=t) for t in sorted(named))

    made = {label: done(label) for label in set(labels)}
    return [made[label] for label in labels]


def _column(adata: anndata.AnnData, column: str, path: Path) -> NDArray[np.str_]:
    if column not in adata.obs:
        message = f"{path} has no obs column {column!r}; it has {', '.join(adata.obs.columns)}"
        raise DataError(message)
    return adata.obs[column].astype(str).to_numpy(dtype=str)
