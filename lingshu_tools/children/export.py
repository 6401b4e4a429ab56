"""The child that writes AnnData: cells of stored arms to one h5ad file.

Counts stay sparse and integer from the stored blob to the file, and go there a block of cells at a
time.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lingshu_model.contracts import Cells, decode_cells
from lingshu_tools.children.h5ad import (
    Categories,
    Column,
    CountsWriter,
    begin,
    write_table,
    write_texts_of_uns,
)
from lingshu_tools.children.objects import checked

COUNTS_AT_ONCE = 1 << 22


def run(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the numbers of observations and variables of the file written to `folder`.

    Args:
        job: `arms` (each `blob`, a path, its `digest`, and `obs`, values shared by its cells,
            `first_cell` among them; of a mixture also `parts`, the values of each part, and
            `part_of_cell`, the number of the part of each cell), `var` (column name to texts,
            `symbol` among them), `uns` (texts), and `name`, the name of the file.
        folder: where the file is put.
    """
    arms = [decode_cells(checked(Path(arm["blob"]), arm["digest"])) for arm in job["arms"]]
    measured = np.logical_and.reduce([arm.measured for arm in arms])
    symbols: list[str] = job["var"]["symbol"]
    with h5py.File(folder / job["name"], "w") as file:
        begin(file)
        counts = CountsWriter(file, len(symbols))
        for block in (block for arm in arms for block in _blocks(arm)):
            counts.append(block.values[:], block.indices[:], block.indptr)
        names, columns = _obs(arms, job["arms"])
        write_table(file, "obs", names, columns)
        write_table(file, "var", symbols, {**job["var"], "measured": measured})
        write_texts_of_uns(file, job["uns"])
    return {"n_obs": len(names), "n_vars": len(symbols)}


def _blocks(cells: Cells) -> Iterator[Cells]:
    start = 0
    while start < len(cells):
        end = int(np.searchsorted(cells.indptr, cells.indptr[start] + COUNTS_AT_ONCE, "right")) - 1
        yield cells[start : max(end, start + 1)]
        start = max(end, start + 1)


def _obs(
    arms: Sequence[Cells], described: Sequence[Mapping[str, Any]]
) -> tuple[list[str], dict[str, Column | Categories]]:
    """Return the name of each cell and the columns of `obs`, over all arms."""
    shared = [arm["obs"] for arm in described]
    names: list[str] = []
    cell_index: list[int] = []
    for arm, values in zip(arms, shared, strict=True):
        cells = range(values["first_cell"], values["first_cell"] + len(arm))
        names += [f"{values['experiment_id']}-{values['arm']}-{i}" for i in cells]
        cell_index += cells
    parts = [part for arm in described for part in arm.get("parts", ())]
    titles = dict.fromkeys(key for values in (*shared, *parts) for key in values)
    del titles["first_cell"]
    columns: dict[str, Column | Categories] = {}
    for title in titles:
        repeated = [
            value
            for arm, values in zip(arms, described, strict=True)
            for value in _values(title, values, len(arm))
        ]
        if all(isinstance(value, int) for value in repeated):
            columns[title] = np.array(repeated, np.int64)
        else:
            columns[title] = Categories(None if v is None else str(v) for v in repeated)
        # Beside the arm, which it counts the cells of.
        columns.setdefault("cell_index", np.array(cell_index, np.int64))
    return names, columns


def _values(title: str, arm: Mapping[str, Any], n: int) -> list[Any]:
    """Return the values of a column of `obs` for the `n` cells of an arm."""
    parts = arm.get("parts", ())
    if not any(title in part for part in parts):
        return [arm["obs"].get(title)] * n
    return [parts[number].get(title) for number in arm["part_of_cell"]]
