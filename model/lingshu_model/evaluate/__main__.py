"""`python -m lingshu_model.evaluate CHECKPOINT`: sample, compare, print the tables.

Knows nothing of the numbers it prints.
"""

import os
import platform
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from lingshu_model.evaluate.arms import ArmStore, profile_digest
from lingshu_model.evaluate.curve import make_curve, n_curve_arms
from lingshu_model.evaluate.data import (
    DEFAULT,
    RELATED,
    VALIDATION,
    data_files,
    load_study,
    read_gene_sets,
)
from lingshu_model.evaluate.evidence import dumps, evidence, rounded
from lingshu_model.evaluate.pairing import make_pairing, n_pairing_arms
from lingshu_model.evaluate.peers import Peers, read_peers
from lingshu_model.evaluate.report import Asked, Report, make_report, n_arms
from lingshu_model.evaluate.study import Study
from lingshu_model.evaluate.tables import curve_table, pairing_table, report_tables
from lingshu_model.redaction import protect_streams
from lingshu_model.wire import Catalogue, CheckpointError
from lingshu_model.wire.catalogue import pin

HALLMARK = Path("priors/msigdb_hallmark.gmt")
INTERFERON = "HALLMARK_INTERFERON_ALPHA_RESPONSE"


@click.command()
@click.argument("checkpoint")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=DEFAULT,
    show_default=True,
    help="The folder of the data files, or the specification's first file.",
)
@click.option(
    "--held-out",
    help="`validation`, `test` or FIELD=VALUE in obs; default: what its training held out.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Sampling seeds.")
@click.option(
    "--n-cells",
    type=click.IntRange(2),
    default=300,
    show_default=True,
    help="Cells of either arm of a perturbation that was trained on, and of the shams.",
)
@click.option("--steps", type=click.IntRange(1), help="Default: the checkpoint's own.")
@click.option("--guidance", type=click.FloatRange(0), help="Default: the checkpoint's own.")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count(), help="Tiles at a time.")
@click.option("--peer", multiple=True, help="NAME=FOLDER of another model's cells; repeatable.")
@click.option("--related", help="Families of related contexts, by how they begin: A,B;C,D.")
@click.option(
    "--gene-set",
    multiple=True,
    help="Of --gmt; default for cytokines: the interferon-alpha response.",
)
@click.option("--gene", multiple=True, help="A gene looked at alone; default for cytokines: ISG15.")
@click.option("--gmt", type=click.Path(path_type=Path), help="Default: Hallmark, under --data.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("evaluation"))
@click.option("--write-evidence", is_flag=True, help="Into the checkpoint folder, then pin it.")
@click.option("--pairing", is_flag=True, help="Only the table of what pairing saves.")
@click.option("--curve", help="STEPS,STEPS,…: only quality against steps, on the validation cells.")
def main(checkpoint: str, data: Path, held_out: str | None, out: Path, **options: Any) -> None:
    """Compare CHECKPOINT (a name or a folder) with held-out cells and with its baselines."""
    # `lingshu evaluate` keeps Ctrl-C back until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    out.mkdir(parents=True, exist_ok=True)
    try:
        store = _store(checkpoint, out, options)
        if options["pairing"]:
            _pairing(store, out, options)
        elif options["curve"]:
            _curve(store, _study(store, data, held_out or VALIDATION, options), out, options)
        else:
            _evaluate(store, data, held_out, out, options)
    except (ValueError, CheckpointError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error


def _evaluate(
    store: ArmStore, data: Path, held_out: str | None, out: Path, options: dict[str, Any]
) -> None:
    seeds = _numbers(options["seeds"])
    if held_out == VALIDATION and options["write_evidence"]:
        message = "evidence comes from cells that chose nothing: not from the validation slice"
        raise ValueError(message)
    study = _study(store, data, held_out, options)
    asked = _asked(store, study, data, options)
    with tqdm(total=n_arms(store, study, seeds), unit="arm", disable=None) as bar:
        report = make_report(store, study, seeds, bar.update, asked)
    found = rounded(evidence(report, _head(store, report, data)))
    tables = report_tables(found)
    (out / "evidence.json").write_text(dumps(found), "utf-8")
    (out / "tables.md").write_text(tables, "utf-8")
    click.echo(tables)
    if options["write_evidence"]:
        (store.checkpoint.path / "evidence.json").write_text(dumps(found), "utf-8")
        click.echo(f"pinned {pin(store.checkpoint.path)}")


def _study(store: ArmStore, data: Path, held_out: str | None, options: dict[str, Any]) -> Study:
    named = options["related"]
    related = [family.split(",") for family in named.split(";")] if named else RELATED
    return load_study(store.checkpoint, data, held_out, related)


def _asked(store: ArmStore, study: Study, data: Path, options: dict[str, Any]) -> Asked:
    """Return the peers, the genes and the gene sets to look at."""
    folders = {
        name: Path(folder) for name, _, folder in (p.partition("=") for p in options["peer"])
    }
    genes = len(store.checkpoint.panel)
    sizes = study.sizes(store.n_cells)
    peers = read_peers(folders, study.conditions, sizes, genes) if folders else Peers()
    judged = any(population.held_out for population in study.populations)
    named = list(options["gene_set"]) or ([INTERFERON] if judged else [])
    alone = list(options["gene"]) or (["ISG15"] if judged else [])
    gmt = options["gmt"] or data / HALLMARK
    sets = read_gene_sets(gmt, named) if named and (options["gmt"] or gmt.is_file()) else {}
    return Asked(peers, {**{gene: [gene] for gene in alone}, **sets})


def _curve(store: ArmStore, study: Study, out: Path, options: dict[str, Any]) -> None:
    steps, seed = _numbers(options["curve"]), _numbers(options["seeds"])[0]
    with tqdm(total=n_curve_arms(study, steps, store.n_cells), unit="arm", disable=None) as bar:
        table = curve_table(make_curve(store, study, steps, seed, bar.update))
    (out / "curve.md").write_text(table, "utf-8")
    click.echo(table)


def _pairing(store: ArmStore, out: Path, options: dict[str, Any]) -> None:
    with tqdm(total=n_pairing_arms(), unit="arm", disable=None) as bar:
        seed = _numbers(options["seeds"])[0]
        gains = make_pairing(store, seed, bar.update)
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


def _head(store: ArmStore, report: Report, data: Path) -> dict[str, Any]:
    """Return what the evidence says besides the figures."""
    sizes, study = report.n_cells, report.study
    requests = [
        store.request(study.conditions[name], seed, n=n)
        for seed in report.seeds
        for name, n in sizes.items()
    ]
    notes = store.notes(requests)
    seconds = sum(note["seconds"] for note in notes)
    return {
        "checkpoint_digest": store.checkpoint.digest,
        "data": {**data_files(store.checkpoint, data), "held_out": study.held_out},
        "settings": {
            "steps": store.steps,
            "guidance": store.guidance,
            "n_cells": store.n_cells,
            "seeds": list(report.seeds),
            "profile_digest": profile_digest(notes),
        },
        "cost": {
            "seconds_per_cell": seconds / sum(request.n_cells for request in requests),
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


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.replace(",", " ").split()]


if __name__ == "__main__":
    with protect_streams():
        main()
