"""`python -m lingshu_model.evaluate CHECKPOINT`: sample, compare, print the tables.

Knows nothing of the numbers it prints.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from lingshu_model.evaluate.arms import ArmStore, profile_digest
from lingshu_model.evaluate.data import DEFAULT, Split, load_observed, load_validation
from lingshu_model.evaluate.evidence import dumps, evidence, rounded
from lingshu_model.evaluate.observed import Observed
from lingshu_model.evaluate.report import (
    conditions,
    make_pairing,
    make_report,
    n_arms,
    n_pairing_arms,
)
from lingshu_model.evaluate.tables import pairing_table, report_tables
from lingshu_model.wire import Catalogue, CheckpointError, digest_file
from lingshu_model.wire.catalogue import pin

VALIDATION = "validation"


@click.command()
@click.argument("checkpoint")
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT, show_default=True)
@click.option(
    "--held-out",
    default="bio_rep=rep_3",
    show_default=True,
    help="FIELD=VALUE in obs, or `validation`.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Sampling seeds.")
@click.option("--n-cells", type=click.IntRange(2), default=600, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Default: the checkpoint's own.")
@click.option("--guidance", type=click.FloatRange(0), help="Default: the checkpoint's own.")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count(), help="Tiles at a time.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("evaluation"))
@click.option("--write-evidence", is_flag=True, help="Into the checkpoint folder, then pin it.")
@click.option("--pairing", is_flag=True, help="Only the table of what pairing saves.")
def main(checkpoint: str, data: Path, held_out: str, out: Path, **options: Any) -> None:
    """Compare CHECKPOINT (a name or a folder) with held-out cells and with its baselines."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        store = _store(checkpoint, out, options)
        if options["pairing"]:
            return _pairing(store, out, options)
        _evaluate(store, data, held_out, out, options)
    except (ValueError, CheckpointError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error


def _evaluate(
    store: ArmStore, data: Path, held_out: str, out: Path, options: dict[str, Any]
) -> None:
    seeds = _seeds(options["seeds"])
    split = _split(held_out)
    if split is None and options["write_evidence"]:
        message = "evidence comes from cells that chose nothing: not from the validation slice"
        raise ValueError(message)
    panel = store.checkpoint.panel
    observed = (
        load_observed(data, panel, split) if split else load_validation(data, store.checkpoint)
    )
    with tqdm(total=n_arms(store, observed, seeds), unit="arm", disable=None) as bar:
        report = make_report(store, observed, seeds, bar.update)
    found = rounded(evidence(report, _head(store, observed, seeds, data, split)))
    tables = report_tables(found)
    (out / "evidence.json").write_text(dumps(found), "utf-8")
    (out / "tables.md").write_text(tables, "utf-8")
    click.echo(tables)
    if options["write_evidence"]:
        (store.checkpoint.path / "evidence.json").write_text(dumps(found), "utf-8")
        click.echo(f"pinned {pin(store.checkpoint.path)}")


def _pairing(store: ArmStore, out: Path, options: dict[str, Any]) -> None:
    with tqdm(total=n_pairing_arms(), unit="arm", disable=None) as bar:
        seed = _seeds(options["seeds"])[0]
        gains = make_pairing(store, store.checkpoint.panel, seed, bar.update)
    table = pairing_table(gains, store.n_cells)
    (out / "pairing.md").write_text(table, "utf-8")
    click.echo(table)


def _store(name: str, out: Path, options: dict[str, Any]) -> ArmStore:
    folder = Path(name)
    catalogue = Catalogue([folder.resolve().parent]) if folder.is_dir() else Catalogue()
    checkpoint = catalogue.load(folder.resolve().name if folder.is_dir() else name)
    chosen = checkpoint.config.get("sampler", {})
    steps, guidance = options["steps"], options["guidance"]
    return ArmStore(
        checkpoint=checkpoint,
        folder=out / "cells",
        n_cells=options["n_cells"],
        steps=int(chosen.get("steps", 8)) if steps is None else steps,
        guidance=float(chosen.get("guidance", 0.0)) if guidance is None else guidance,
        workers=options["workers"],
    )


def _head(
    store: ArmStore, observed: Observed, seeds: Sequence[int], data: Path, split: Split | None
) -> dict[str, Any]:
    """Return what the evidence says besides the figures."""
    arms = conditions(store, observed.perturbations).values()
    notes = store.notes([store.request(arm, seed) for seed in seeds for arm in arms])
    seconds = sum(note["seconds"] for note in notes)
    return {
        "checkpoint_digest": store.checkpoint.digest,
        "data": {
            "file": data.name,
            "digest": digest_file(data),
            "held_out": {"field": split.field, "value": split.value} if split else VALIDATION,
        },
        "settings": {
            "steps": store.steps,
            "guidance": store.guidance,
            "n_cells": store.n_cells,
            "seeds": list(seeds),
            "profile_digest": profile_digest(notes),
        },
        "cost": {
            "seconds_per_cell": seconds / (len(notes) * store.n_cells),
            "machine": _machine(notes[0]["profile"]),
        },
    }


def _machine(profile: Mapping[str, Any]) -> str:
    """Return the device the cells were sampled on: a GPU's name, or this machine's processor."""
    device = str(profile.get("device", "cpu"))
    if device != "cpu":
        return device
    named = Path("/proc/cpuinfo")
    lines = named.read_text("utf-8").splitlines() if named.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def _seeds(text: str) -> list[int]:
    return [int(word) for word in text.replace(",", " ").split()]


def _split(text: str) -> Split | None:
    if text == VALIDATION:
        return None
    field, _, value = text.partition("=")
    return Split(field=field, value=value)


if __name__ == "__main__":
    main()
