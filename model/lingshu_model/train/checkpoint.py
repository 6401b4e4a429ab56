"""Checkpoint folders: weights, `config.json`, panel, and summaries of the training cells."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor

from lingshu_model.contracts.catalogue import FORMAT, pack_genes, pin
from lingshu_model.contracts.levels import log1p_cp10k
from lingshu_model.network.cell_network import Network
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.gene_names import Hgnc
from lingshu_model.train.scratch import scratch
from lingshu_model.train.spec import TrainingSpec

QUANTILES = (5, 25, 50, 75, 95)
"""Percentiles of UMI per cell in the reference."""
DEPTHS = 33
"""Number of evenly spaced quantiles of a condition's depths, from which the sampler draws."""
SHARD_BYTES = 15_000_000
"""Largest size of a file: hosts of git repositories limit files."""
Tables = Mapping[str, NDArray[Any]]
"""Tensors by name."""


def config_json(spec: TrainingSpec, cells: TrainingCells) -> dict[str, Any]:
    """Return the part of `config.json` that depends on specification and cells alone.

    Args:
        spec: of the training.
        cells: training cells, null labels included.
    """
    fields: dict[str, list[str]] = {}
    for condition in cells.conditions:
        for field, value in condition.context:
            fields.setdefault(field, [])
            fields[field] += [value] if value not in fields[field] else []
    trained = [i for i in range(len(cells.conditions)) if len(cells.rows(i))]
    seen = [_seen(cells, index) for index in trained]
    interventions = [i for index in trained for i in cells.conditions[index].interventions]
    sets = {f"source-{i}": pack_genes(mask) for i, mask in enumerate(cells.measured)}
    sources = {i: int(cells.source[cells.rows(i)[0]]) for i in trained}
    return {
        "format": FORMAT,
        "name": spec.name,
        "network": spec.network,
        "genes": len(cells.panel),
        "context_fields": {field: sorted(values) for field, values in sorted(fields.items())},
        "ontology": dict(spec.ontology),
        "contexts": [
            {
                "context": dict(cells.conditions[i].context),
                "n_cells": len(cells.rows(i)),
                "measured": "all" if cells.measured_by(i).all() else f"source-{sources[i]}",
            }
            for i in trained
            if not cells.conditions[i].interventions
        ],
        "measured_sets": sets if not cells.measured.all() else {},
        "kinds": sorted({i.kind for i in interventions}),
        "targets": sorted({i.target for i in interventions}),
        "gene_features": spec.gene_features,
        "seen": seen,
        "sampler": spec.sampler.model_dump(mode="json"),
        "training": spec.model_dump(mode="json"),
    }


def _seen(cells: TrainingCells, index: int) -> dict[str, Any]:
    condition = cells.conditions[index]
    return {
        "context": dict(condition.context),
        "interventions": [i.model_dump(exclude_none=True) for i in condition.interventions],
        "n_cells": len(cells.rows(index)),
        "depth_quantiles": _depths(cells.take(cells.rows(index))),
    }


def _depths(cells: TrainingCells) -> list[float]:
    """Return evenly spaced quantiles of ln UMI per cell."""
    # Four decimals of a logarithm are 0.01 % of a depth.
    quantiles = np.quantile(np.log(cells.depth()), np.linspace(0, 1, DEPTHS))
    return [round(float(value), 4) for value in quantiles]


def write(
    path: Path,
    spec: TrainingSpec,
    config: Mapping[str, Any],
    cells: TrainingCells,
    network: Network,
    weights: Mapping[str, Tensor],
    hgnc: Path | None,
) -> Path:
    """Write a checkpoint of a network without effects; return its folder, `path/NAME`.

    Args:
        path: folder of checkpoints.
        spec: of the training.
        config: of `config.json`.
        cells: training cells, null labels included.
        network: as trained.
        weights: averaged weights by name, which replace those of `network`.
        hgnc: HGNC's complete set, for the panel's aliases and Ensembl ids; None = symbols alone.
    """
    path.mkdir(parents=True, exist_ok=True)
    with scratch(path, ".partial-") as place:
        new = place / spec.name
        write_folder(new, config, cells, stored(network, weights), hgnc)
        return install(new, path)


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    cells: TrainingCells,
    tensors: Mapping[str, Tensor],
    hgnc: Path | None,
    tables: Mapping[str, Tables] | None = None,
) -> Path:
    """Write the files of a checkpoint into a new folder, and pin them; return the folder.

    Args:
        folder: named as the checkpoint.
        config: of `config.json`.
        cells: training cells, null labels among them.
        tensors: of the network; none = there is no network.
        hgnc: as in `write`.
        tables: further tensors by the prefix of their files (`lingshu_model.finishing.tables`).
    """
    folder.mkdir(parents=True)
    for number, shard in enumerate(_shards(tensors) if tensors else []):
        save_file(shard, folder / f"model-{number:02d}.safetensors")
    for prefix, each in (tables or {}).items():
        write_tables(folder, prefix, each)
    controls = config["training"].get("reference") == "controls"
    save_arrays(reference(cells, controls=controls), folder / "reference.safetensors")
    write_json(folder / "config.json", dict(config))
    write_json(folder / "panel.json", {"genes": panel_entries(cells.panel, hgnc)})
    pin(folder)
    return folder


def install(new: Path, path: Path) -> Path:
    """Move a finished checkpoint folder and its digests to `path`; return its new path.

    A rename: a full disk leaves no incomplete checkpoint, and a process that reads meanwhile gets
    the old one or the new one.
    """
    folder, pins = path / new.name, pin(new)
    if folder.exists():
        folder.rename(new.parent / "replaced")
    new.rename(folder)
    pins.replace(path / pins.name)
    return folder


def stored(network: Network, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's tensors in the types of a checkpoint, with `weights` in their place."""
    return {n: _stored(n, tensor) for n, tensor in {**network.state_dict(), **weights}.items()}


def _stored(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor in its stored type.

    bf16 for large matrices, which are rounded to it in products anyway; unchanged for biases, which
    are log frequencies, and for small tensors.
    """
    exact = tensor.numel() < 100_000 or not tensor.is_floating_point() or ".bias" in name
    return (tensor if exact else tensor.to(torch.bfloat16)).contiguous().cpu()


def _shards(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the tensors in groups of at most `SHARD_BYTES`, or of one larger tensor."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in sorted(tensors.items()):
        size += tensor.nbytes
        if size > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = tensor.nbytes
        shards[-1][name] = tensor
    return shards


def reference(cells: TrainingCells, *, controls: bool = False) -> dict[str, NDArray[np.float16]]:
    """Return summaries of the training cells, with one row per entry of `config["seen"]`.

    With `controls` the rows of control conditions alone, which are the first entries.

    `mean_count` (UMI) and `mean_log1p_cp10k` are [conditions, genes], NaN where no cell of the
    condition measures the gene; `library_quantiles` [conditions, 5]; `zero_rate` [conditions].
    """
    kept = [i for i, c in enumerate(cells.conditions) if not (controls and c.interventions)]
    rows = [(i, r) for i in kept if len(r := cells.rows(i))]
    parts = [_summary(cells.take(r), cells.measured_by(i)) for i, r in rows]
    # float16: its three digits are below the sampling noise of a mean.
    return {name: np.stack([part[name] for part in parts]).astype(np.float16) for name in parts[0]}


def _summary(cells: TrainingCells, measured: NDArray[np.bool_]) -> dict[str, Any]:
    mean, log, zeros = np.zeros(len(measured)), np.zeros(len(measured)), 0
    for block in cells.blocks():
        counts = block.counts()
        mean += counts.sum(axis=0) / len(cells)
        log += log1p_cp10k(counts, counts.sum(axis=1, keepdims=True)).sum(axis=0) / len(cells)
        zeros += int((counts[:, measured] == 0).sum())
    return {
        "mean_count": np.where(measured, mean, np.nan),
        "mean_log1p_cp10k": np.where(measured, log, np.nan),
        "library_quantiles": np.percentile(cells.depth(), QUANTILES),
        "zero_rate": np.array(zeros / max(1, len(cells) * int(measured.sum()))),
    }


def panel_entries(panel: Sequence[str], hgnc: Path | None) -> list[dict[str, Any]]:
    """Return the rows of `panel.json`, with Ensembl ids and other names where HGNC has them."""
    known = Hgnc.read(hgnc) if hgnc else None
    entries: list[dict[str, Any]] = []
    for symbol in panel:
        gene = known.find(symbol) if known else None
        aliases = {gene.symbol, *gene.aliases} - {symbol} if gene else set[str]()
        entries.append(
            {
                "symbol": symbol,
                "ensembl": gene.ensembl if gene else None,
                "aliases": sorted(aliases),
                "previous": sorted(set(gene.previous) - {symbol}) if gene else [],
            }
        )
    return entries


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object with one line per entry of a list, for reading and for diffs."""
    parts = [f" {json.dumps(name)}: {_laid_out(part)}" for name, part in value.items()]
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def _laid_out(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = (json.dumps(entry, ensure_ascii=False) for entry in value)  # pyright: ignore
        return "[\n  " + ",\n  ".join(lines) + "\n ]"
    return json.dumps(value, ensure_ascii=False, indent=1).replace("\n", "\n ")


def write_tables(folder: Path, prefix: str, tables: Tables) -> None:
    """Write `PREFIX-NN.safetensors`; tables are split along the first axis, to 15 MB each."""
    shards: list[dict[str, NDArray[Any]]] = [{}]
    size = 0
    for name, whole in tables.items():
        for part in _table_parts(whole):
            if (size + part.nbytes > SHARD_BYTES and shards[-1]) or name in shards[-1]:
                shards.append({})
                size = 0
            shards[-1][name] = np.ascontiguousarray(part)
            size += part.nbytes
    for number, shard in enumerate(shards):
        save_arrays(shard, folder / f"{prefix}-{number:02d}.safetensors")


def _table_parts(whole: NDArray[Any]) -> list[NDArray[Any]]:
    if whole.nbytes <= SHARD_BYTES or not len(whole):
        return [whole]
    rows = max(1, SHARD_BYTES // (whole.nbytes // len(whole)))
    return [whole[i : i + rows] for i in range(0, len(whole), rows)]
