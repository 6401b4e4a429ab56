"""Cells of other models, read from folders, so that they are judged by the same numbers.

A folder holds one folder per seed (`seed-0`, `seed-1` …) with a file per condition over the
checkpoint's panel, named as `lingshu_model.train.split` names conditions (or as the evaluation's
tables do): `CONDITION.safetensors`, counts as `wire.cells.encode_cells` writes them, or
`CONDITION.log1p.safetensors`, `log1p_cp10k` float32 [cells, genes], of a peer that has no counts.
Knows nothing of how the peers made them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import load

from lingshu_model.evaluate.arms import Condition
from lingshu_model.evaluate.sparse import csr
from lingshu_model.train import cells
from lingshu_model.train.split import condition_name
from lingshu_model.wire import decode_cells

COUNTS, EXPRESSION = ".safetensors", ".log1p.safetensors"
ENOUGH = 0.9
"""Share of the model's cells that a peer needs: all are judged by as many as the one with fewest,
and the model's figures are to stay those of the cells it was asked for."""


@dataclass(frozen=True)
class Peers:
    """Cells over the panel by peer, then seed, then condition; floats are log1p_cp10k."""

    arms: Mapping[str, Sequence[Mapping[str, Any]]] = field(
        default_factory=dict[str, Sequence[Mapping[str, Any]]]
    )


def read_peers(
    folders: Mapping[str, Path],
    conditions: Mapping[str, Condition],
    sizes: Mapping[str, int],
    genes: int,
) -> Peers:
    """Return the peers' cells of the conditions that are asked for.

    Args:
        folders: by the peer's name.
        conditions: what each named condition is.
        sizes: how many cells the model samples of each condition; a peer's further ones are cut
            off. Of a few fewer as many of the model's will be compared.
        genes: of the panel.

    Raises:
        ValueError: a folder holds no seed, seeds hold different conditions, none of the conditions
            asked for is there, cells are over another panel, or there are too few.
    """
    files = {name: {name, _split_name(conditions[name])} for name in sizes}
    return Peers({name: _read(name, f, files, sizes, genes) for name, f in folders.items()})


def _split_name(condition: Condition) -> str:
    context = tuple(sorted(condition.context.items()))
    return condition_name(cells.Condition(context, condition.interventions))


def _read(
    name: str,
    folder: Path,
    files: Mapping[str, set[str]],
    sizes: Mapping[str, int],
    genes: int,
) -> list[dict[str, Any]]:
    folders = sorted(path for path in folder.glob("*") if path.is_dir())
    seeds = [_files(seed, files) for seed in folders]
    if not seeds or not seeds[0] or any(each.keys() != seeds[0].keys() for each in seeds):
        found = ", ".join(str(len(each)) for each in seeds)
        expected = ", ".join(sorted(min(each) for each in files.values())[:5])
        message = (
            f"{name}: {folder} has {found or 'no'} known conditions in its seed folders; expected "
            f"the same in every seed, among {expected} …"
        )
        raise ValueError(message)
    return [{c: _cells(path, sizes[c], genes) for c, path in each.items()} for each in seeds]


def _files(seed: Path, files: Mapping[str, set[str]]) -> dict[str, Path]:
    """Return the file of each condition that a seed's folder has, counts where there are both."""
    paths = {
        condition: path
        for condition, names in files.items()
        for suffix in (EXPRESSION, COUNTS)
        for name in names
        if (path := seed / f"{name}{suffix}").is_file()
    }
    return dict(sorted(paths.items()))


def _cells(path: Path, n: int, genes: int) -> Any:
    blob = path.read_bytes()
    is_counts = not path.name.endswith(EXPRESSION)
    found = decode_cells(blob).counts if is_counts else load(blob)["log1p_cp10k"]
    if found.shape[1] != genes:
        message = f"{path} has {found.shape[1]} genes; the panel has {genes}"
        raise ValueError(message)
    if len(found) < ENOUGH * n:
        message = f"{path} has {len(found)} cells; the model samples {n}: lower --n-cells"
        raise ValueError(message)
    return csr(found[:n])
