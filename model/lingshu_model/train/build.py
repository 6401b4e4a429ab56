"""A trained network made into a checkpoint folder, and what the network takes from data at birth.

Knows nothing of the training loop.
"""

import gzip
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

from lingshu_model.network import Network
from lingshu_model.tokens import MASK, VOCABULARY
from lingshu_model.train.data import TrainingCells
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.tilt import tilts
from lingshu_model.wire.canonical import digest_bytes, digest_json
from lingshu_model.wire.catalogue import FORMAT, pin

QUANTILES = (5, 25, 50, 75, 95)


def run_digest(spec: TrainingSpec, cells: TrainingCells) -> str:
    """Return what a training state must match to be gone on from: the spec and the very cells.

    How the checkpoint is sampled is no part of it, so that it can be chosen after training.
    """
    data = digest_bytes(cells.tokens.tobytes() + cells.condition.tobytes())
    return digest_json({"spec": spec.model_dump(mode="json", exclude={"sampler"}), "cells": data})


def config_json(spec: TrainingSpec, cells: TrainingCells) -> dict[str, Any]:
    """Return `config.json`: shape, conditions, what was seen how often, sampler, training."""
    fields: dict[str, list[str]] = {}
    for condition in cells.conditions:
        for field, value in condition.context:
            fields.setdefault(field, [])
            fields[field] += [value] if value not in fields[field] else []
    seen = [
        {
            "context": dict(condition.context),
            "interventions": [i.model_dump(exclude_none=True) for i in condition.interventions],
            "n_cells": len(cells.rows(index)),
        }
        for index, condition in enumerate(cells.conditions)
    ]
    interventions = [i for condition in cells.conditions for i in condition.interventions]
    network = spec.network
    return {
        "format": FORMAT,
        "name": spec.name,
        "network": network,
        "genes": len(cells.panel),
        "context_fields": {field: sorted(values) for field, values in sorted(fields.items())},
        "contexts": [
            {"context": entry["context"], "n_cells": entry["n_cells"], "measured": "all"}
            for entry in seen
            if not entry["interventions"]
        ],
        "kinds": sorted({i.kind for i in interventions}),
        "targets": sorted({i.target for i in interventions}),
        "gene_features": spec.gene_features,
        "seen": seen,
        "sampler": spec.sampler.model_dump(mode="json"),
        "training": spec.model_dump(mode="json"),
    }


def set_from_data(network: Network, cells: TrainingCells, targets: Sequence[str]) -> None:
    """Start the output bias at log frequencies, features at co-expression, tilts at effects.

    The ceiling of what may be drawn is set for good.
    """
    with torch.no_grad():
        network.ceiling.copy_(torch.from_numpy(_largest_tokens(cells)))
        if network.tilt is not None:
            network.tilt.theta.copy_(torch.from_numpy(tilts(cells, targets)))
        if network.gene_bias is not None:
            network.gene_bias.copy_(torch.from_numpy(_log_frequencies(cells)))
        features = network.prefix.gene_features
        features[1:].copy_(torch.from_numpy(_gene_features(cells, features.shape[1])))


def _largest_tokens(cells: TrainingCells) -> NDArray[np.int64]:
    measured = cells.tokens != MASK
    largest = np.where(measured, cells.tokens, 0).max(axis=0).astype(np.int64)
    return np.where(measured.any(axis=0), largest, VOCABULARY - 1)


def _log_frequencies(cells: TrainingCells) -> NDArray[np.float32]:
    genes = len(cells.panel)
    measured = cells.tokens != MASK
    flat = (np.arange(genes) * VOCABULARY + np.where(measured, cells.tokens, 0))[measured]
    counts = np.bincount(flat, minlength=genes * VOCABULARY).reshape(genes, VOCABULARY)
    # Unseen values keep a small, falling share, so that the tail stays reachable.
    smooth = counts + 0.5 * 0.8 ** np.arange(VOCABULARY) + 1e-4
    log = np.log(smooth / smooth.sum(axis=1, keepdims=True))
    return (log - log.mean(axis=1, keepdims=True)).astype(np.float32)


def _gene_features(cells: TrainingCells, width: int) -> NDArray[np.float32]:
    """Return the leading right singular vectors of standardised control expression, unit rows."""
    x = log1p_cp10k(cells.counts[cells.rows(0)])
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3)
    _, _, v = np.linalg.svd(x / np.sqrt(len(x)), full_matrices=False)
    features = np.zeros((x.shape[1], width))
    features[:, : len(v)] = v[:width].T
    return (features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-6)).astype(np.float32)


def log1p_cp10k(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return ln(1 + counts per 10,000) of UMI counts [cells, genes]."""
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.log1p(counts / total * 1e4)


def write(
    path: Path,
    spec: TrainingSpec,
    config: Mapping[str, Any],
    cells: TrainingCells,
    network: Network,
    weights: Mapping[str, Tensor],
    hgnc: Path | None,
) -> Path:
    """Write the folder `path/NAME` and its pinned digests beside it; return the folder.

    `hgnc` is HGNC's complete set, for the panel's aliases and Ensembl ids; None = symbols alone.
    """
    folder = path / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    tensors |= {name: buffer.contiguous().cpu() for name, buffer in network.named_buffers()}
    save_file(tensors, folder / "model.safetensors")
    save_arrays(_reference(cells), folder / "reference.safetensors")
    _write_json(folder / "config.json", dict(config))
    entries = _panel_entries(cells.panel)
    if hgnc is not None:
        add_aliases(entries, hgnc)
    _write_json(folder / "panel.json", {"genes": entries})
    pin(folder)
    return folder


def _reference(cells: TrainingCells) -> dict[str, NDArray[np.float64]]:
    groups = [cells.counts[cells.rows(i)] for i in range(len(cells.conditions))]
    library = [np.percentile(g.sum(axis=1), QUANTILES) for g in groups]
    return {
        "mean_count": np.stack([g.mean(axis=0) for g in groups]),
        "mean_log1p_cp10k": np.stack([log1p_cp10k(g).mean(axis=0) for g in groups]),
        "library_quantiles": np.stack(library),
        "zero_rate": np.array([(g == 0).mean() for g in groups]),
    }


def _panel_entries(panel: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"symbol": s, "ensembl": None, "aliases": [], "previous": []} for s in panel]


def add_aliases(entries: list[dict[str, Any]], hgnc: Path) -> None:
    """Fill Ensembl ids, aliases and previous symbols from HGNC's complete set (tab-separated)."""
    with gzip.open(hgnc, "rt", encoding="utf-8") as handle:
        header = handle.readline().rstrip("\n").split("\t")
        rows = [dict(zip(header, line.rstrip("\n").split("\t"), strict=False)) for line in handle]
    by_symbol = {row["symbol"]: row for row in rows}
    by_previous = {p: row for row in rows for p in _names(row["prev_symbol"])}
    for entry in entries:
        row = by_symbol.get(entry["symbol"]) or by_previous.get(entry["symbol"])
        if row is None:
            continue
        names = {row["symbol"], *_names(row["alias_symbol"])} - {entry["symbol"]}
        entry["ensembl"] = row["ensembl_gene_id"] or None
        entry["aliases"] = sorted(names)
        entry["previous"] = sorted(set(_names(row["prev_symbol"])) - {entry["symbol"]})


def _names(field: str) -> list[str]:
    return [name for name in field.strip('"').split("|") if name]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
