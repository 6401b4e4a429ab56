"""`python -m lingshu_model.evaluate CHECKPOINT`: sample, compare, write tables and evidence."""

import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from lingshu_model.contracts import Catalogue, Checkpoint, CheckpointError
from lingshu_model.contracts.catalogue import pin
from lingshu_model.contracts.evidence_text import dumps, rounded
from lingshu_model.evaluate.arms import ArmStore, can_sample, null_labels, profile_digest
from lingshu_model.evaluate.data import DEFAULT, VALIDATION, data_files, holds_out, load_split
from lingshu_model.evaluate.evidence import evidence, extended
from lingshu_model.evaluate.predictors import stored_effects
from lingshu_model.evaluate.report import Report, evaluate, null_changes, sample
from lingshu_model.evaluate.rows import MODEL, read_rows, write_rows
from lingshu_model.evaluate.sources import read_peers
from lingshu_model.evaluate.study import FEWEST, Study, build_study, condition_names
from lingshu_model.evaluate.tables import as_csv, markdown
from lingshu_model.system.machine import machine_name
from lingshu_model.system.redaction import protect_streams
from lingshu_model.train.scratch import end_by_signals


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
    help="`validation`, `test` or FIELD=VALUE in obs; default: what its specification holds out, "
    "else the folds that its training left out.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Sampling seeds.")
@click.option(
    "--n-cells",
    type=click.IntRange(2),
    default=300,
    show_default=True,
    help="Cells of either arm of a perturbation that was trained on, and of null labels.",
)
@click.option("--steps", type=click.IntRange(1), help="Default: the checkpoint's own.")
@click.option("--guidance", type=click.FloatRange(0), help="Default: the checkpoint's own.")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count(), help="Tiles at a time.")
@click.option("--peer", multiple=True, help="NAME=FOLDER of another model's cells; repeatable.")
@click.option("--related", help="Families of related contexts, by how they begin: A,B;C,D.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("evaluation"))
@click.option(
    "--fold",
    "folds",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An --out folder of another fold, whose rows are added; repeatable.",
)
@click.option(
    "--ablation/--no-ablation",
    default=True,
    show_default=True,
    help="Rows of the checkpoint's parts beside it: effects only, network only, both, pinned.",
)
@click.option("--write-evidence", is_flag=True, help="Into the checkpoint folder, then pin it.")
@click.option(
    "--curve",
    help="STEPS,STEPS,…: other numbers of steps beside the default; on the validation cells.",
)
def main(checkpoint: str, data: Path, held_out: str | None, out: Path, **options: Any) -> None:
    """Compare CHECKPOINT (a name or a folder) with held-out cells and with simple predictors."""
    end_by_signals()
    # `lingshu evaluate` keeps Ctrl-C back until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if options["curve"]:
        held_out = held_out or VALIDATION  # the number of steps is a setting
    if held_out == VALIDATION and options["write_evidence"]:
        message = "evidence comes from cells that chose nothing: not from the validation slice"
        raise click.ClickException(message)
    try:
        store = _store(checkpoint, out, options)
        _refuse_effects(store.checkpoint, held_out, curve=bool(options["curve"]))
        if held_out is None and _has_rotated(store.checkpoint):
            _show_rotated(store.checkpoint, write=options["write_evidence"])
            return
        out.mkdir(parents=True, exist_ok=True)
        study = _study(store, data, held_out, options["related"])
        _evaluate(store, study, data, out, options)
    except (ValueError, CheckpointError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error


def _refuse_effects(checkpoint: Checkpoint, held_out: str | None, *, curve: bool) -> None:
    """Refuse validation cells where the effects were estimated with them, as at every training.

    Numbers of steps are compared on them all the same: the cells are in all the numbers alike.
    """
    if held_out != VALIDATION or checkpoint.effects is None:
        return
    what = f"effects of {checkpoint.name} are estimated from all its cells, these among them"
    if curve:
        click.echo(f"note: {what}: figures compare numbers of steps and are not held out", err=True)
        return
    message = (
        f"{what}: nothing is held out by `validation`. Without --held-out the figures of its "
        "training are shown, which left each fold out in turn; a specification with `test` or "
        "`where` keeps cells for a further evaluation"
    )
    raise click.ClickException(message)


def _has_rotated(checkpoint: Checkpoint) -> bool:
    """Return whether the only held-out cells are those of the folds that training left out."""
    figures = checkpoint.evidence.get("tiers") or {}
    return checkpoint.effects is not None and not holds_out(checkpoint) and any(figures.values())


def _show_rotated(checkpoint: Checkpoint, *, write: bool) -> None:
    """Print the figures of a training, from effects that were estimated without each fold."""
    if write:
        message = f"the evidence of {checkpoint.name} is that of its training, and is written"
        raise click.ClickException(message)
    click.echo(
        f"note: {checkpoint.name} keeps no cells out; these figures are those of its training, "
        "which estimated the effects without each fold in turn",
        err=True,
    )
    click.echo(markdown(checkpoint.evidence))
    for tier, why in (checkpoint.evidence.get("not_estimable") or {}).items():
        click.echo(f"not estimable, {tier.replace('_', ' ')}: {why}")


def _study(store: ArmStore, data: Path, held_out: str | None, related: str | None) -> Study:
    """Return the study of what the checkpoint can sample; the rest is named on the terminal."""
    split = load_split(store.checkpoint, data, held_out)
    # A fold may hold out what this checkpoint has no token for; the others are still evaluated.
    unknown = [c for c in split.tested if not can_sample(store.checkpoint, c)]
    if unknown:
        names = zip(split.tested, condition_names(split.tested), strict=True)
        missing = "; ".join(name for condition, name in names if condition in unknown)
        click.echo(f"not evaluated, never trained on: {missing}", err=True)
    families = [family.split(",") for family in related.split(";")] if related else []
    study = build_study(split.without(unknown), families)
    if study.unjudged:
        message = (
            f"not evaluated, fewer than {FEWEST} held-out cells of it or of its control: "
            f"{'; '.join(study.unjudged)}. A specification's `test` holds out a share of all cells"
        )
        click.echo(message, err=True)
    return study


def _evaluate(
    store: ArmStore, study: Study, data: Path, out: Path, options: Mapping[str, Any]
) -> None:
    seeds, steps = _numbers(options["seeds"]), _numbers(options["curve"] or "")
    sizes, nulls = study.sizes(store.n_cells), null_labels(store.checkpoint)
    peers = dict(pair.partition("=")[::2] for pair in options["peer"])
    folders = {name: Path(folder) for name, folder in peers.items()}
    sources = read_peers(folders, study.conditions, sizes, len(store.checkpoint.panel))
    parts = _parts(store, study) if options["ablation"] else {}
    # Arms to sample: of every condition for each seed, number of steps and part.
    total = len(sizes) * (len(seeds) + len(steps) + len(parts)) + len(nulls)
    with tqdm(total=total, unit="arm", disable=None) as bar:
        sources = {MODEL: sample(store, study, seeds, bar.update), **sources}
        for n in steps:
            sources[f"{n} steps"] = sample(store, study, seeds[:1], bar.update, steps=n)
        for name, part in parts.items():
            # One seed: a part stands beside the model for comparison.
            sources[name] = sample(part, study, seeds[:1], bar.update)
        null = null_changes(store, study, seeds[0], bar.update)
    report = evaluate(study, sources, further=stored_effects(store.checkpoint))
    write_rows(out / "rows.npz", report.rows, report.held_out, report.sets)
    # Sets are chosen within each fold before the folds' rows are put together.
    for folder in options["folds"]:
        report = report.merged(Report(*read_rows(folder / "rows.npz")))
    head = _head(store, study, seeds, data_files(store.checkpoint, data))
    # What another measurement says of tiers that are not held out here is kept from before.
    written = rounded(extended(evidence(report, null, head), store.checkpoint.evidence))
    texts = {
        "evidence.json": dumps(written),
        "figures.csv": as_csv(written),
        "tables.md": markdown(written),
    }
    for name, text in texts.items():
        (out / name).write_text(text, "utf-8")
    click.echo(texts["tables.md"])
    if options["write_evidence"]:
        (store.checkpoint.path / "evidence.json").write_text(texts["evidence.json"], "utf-8")
        click.echo(f"pinned {pin(store.checkpoint.path)}")


def _parts(store: ArmStore, study: Study) -> dict[str, ArmStore]:
    """Return stores of the cells of a checkpoint's parts, by name."""
    if store.checkpoint.delivery is None:
        # A checkpoint of the first format has its effects inside the network.
        return {}
    from lingshu_model.sampling.parts import part_samplers

    genes = len(store.checkpoint.panel)
    samplers = part_samplers(store.checkpoint, partial(study.training_controls, genes=genes))
    return {name: store.of_part(name, sampler) for name, sampler in samplers.items()}


def _store(name: str, out: Path, options: Mapping[str, Any]) -> ArmStore:
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
        # Not `or`: a guidance of 0 on the command line is a choice.
        guidance=float(chosen.get("guidance", 0.0)) if guidance is None else guidance,
        workers=options["workers"],
    )


def _head(store: ArmStore, study: Study, seeds: list[int], files: dict[str, Any]) -> dict[str, Any]:
    """Return what the evidence says besides the figures."""
    # Only the arms of the model itself enter the cost, not its parts or other numbers of steps.
    sizes = study.sizes(store.n_cells)
    arms = [(study.conditions[name], seed, n) for seed in seeds for name, n in sizes.items()]
    requests = [store.request(condition, seed, n=n) for condition, seed, n in arms]
    notes = store.notes(requests)
    seconds = sum(note["seconds"] for note in notes)
    return {
        "checkpoint_digest": store.checkpoint.digest,
        "data": {**files, "held_out": study.held_out},
        "settings": {
            "steps": store.steps,
            "guidance": store.guidance,
            "n_cells": store.n_cells,
            "seeds": seeds,
            "profile_digest": profile_digest(notes),
        },
        "cost": {
            "seconds_per_cell": seconds / sum(request.n_cells for request in requests),
            "machine": machine_name(notes[0]["profile"]),
        },
    }


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.replace(",", " ").split()]


if __name__ == "__main__":
    with protect_streams():
        main()
