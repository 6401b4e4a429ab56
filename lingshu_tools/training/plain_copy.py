"""A user's AnnData written to a file as training reads it: labels, genes and counts alone.

The user's object stays as it is. AnnData's writer would turn its labels into categories, point an
object that is backed by a file at the copy, and refuse values that no training reads (`uns`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lingshu_tools.errors import InputError


def write_plain(cells: Any, path: Path) -> None:
    """Write `obs`, `var`, `X`, `layers` and `raw` of an AnnData to an h5ad file.

    Raises:
        InputError: it is no AnnData, or cannot be written.
    """
    needed = ("obs", "var", "X", "layers", "raw", "write_h5ad")
    # Of an object of two assays, `obs` is there and X is not.
    if not all(hasattr(cells, name) for name in needed):
        message = (
            f"cells are an AnnData or the path of an h5ad file, not {type(cells).__name__}; of a "
            "MuData give one assay, such as mdata['rna']"
        )
        raise InputError(message)
    try:
        _written(cells, path)
    # Whatever AnnData and h5py raise for what a user put in: the user can mend it.
    except Exception as error:
        message = (
            f"the AnnData cannot be written to a file ({type(error).__name__}: {error}): mend it "
            "until adata.write_h5ad(file) succeeds"
        )
        raise InputError(message) from error


def _written(cells: Any, path: Path) -> None:
    if getattr(cells, "isbacked", False):
        cells = cells.to_memory()
    raw = cells.raw
    raw = None if raw is None else {"X": raw.X, "var": _plain_table(raw.var)}
    copy = type(cells)(
        X=cells.X,
        obs=_plain_table(cells.obs),
        var=_plain_table(cells.var),
        layers=dict(cells.layers.items()),
        raw=raw,
    )
    copy.write_h5ad(path)


def _plain_table(frame: Any) -> Any:
    """Return a table whose columns can be written: numbers, truth values, categories and text."""
    # `_index` is the writer's; the index is written whatever the column holds.
    names = [name for name in frame.columns if name != "_index"]
    plain = frame[names].copy()
    plain.columns = [str(name) for name in names]
    for name, column in _others(plain):
        plain[name] = column.astype(object).map(str, na_action="ignore")
    plain.index = plain.index.map(str)
    return plain


def _others(frame: Any) -> Iterator[tuple[str, Any]]:
    """Yield columns of other kinds: times, intervals, objects of several types."""
    for name in frame.columns:
        column = frame[name]
        dtype = getattr(column, "dtype", None)
        categories = getattr(dtype, "categories", None)
        kind = getattr(categories.dtype if categories is not None else dtype, "kind", "O")
        if kind not in "biuf":
            yield name, column
