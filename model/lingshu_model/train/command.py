"""From a specification and data files to a checkpoint: one training run on this rank."""

import errno
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from lingshu_model.contracts import Catalogue, Checkpoint, CheckpointError, digest_file
from lingshu_model.finishing.choice import choose
from lingshu_model.finishing.finish import Finish, Finished
from lingshu_model.finishing.fitness import table
from lingshu_model.finishing.outcome import evidence_lines
from lingshu_model.network import numerics
from lingshu_model.train import ranks
from lingshu_model.train.data.gene_names import names_file
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.data.sources import split as split_cells
from lingshu_model.train.initialisation import InitialState
from lingshu_model.train.priors import read_features
from lingshu_model.train.recipes.choice import DEFAULT, EFFECTS, PAPER, in_paper_recipe
from lingshu_model.train.recipes.paper import capped
from lingshu_model.train.recipes.paper import finish as finish_network
from lingshu_model.train.run import learn, reuse
from lingshu_model.train.scratch import scratch
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.spec_file import SpecError

UNFIT = 3
"""The exit status where a condition does not deliver its effect."""


def train(
    spec_file: Path | TrainingSpec,
    data_dir: Path,
    out: Path,
    threads: int | None,
    epochs: int | None,
    expected: int | None,
    recipe: str | None = None,
    *,
    allow_unfit: bool = False,
    network_from: str | None = None,
) -> None:
    """Train what `spec_file`, or a specification, describes into OUT/NAME/; exits where it cannot.

    `network_from` is a checkpoint, by name or folder, whose network is taken instead of training.
    """
    other = None if recipe == PAPER else recipe
    changes = {"epochs": epochs, "recipe": other, "allow_unfit": allow_unfit or None}
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        read = isinstance(spec_file, Path)
        spec = TrainingSpec.read(spec_file) if read else spec_file
        fields = {**spec.model_dump(), **given}
        fields = in_paper_recipe(fields) if recipe == PAPER else fields
        spec = TrainingSpec.of(fields, str(spec_file))
    except SpecError as error:
        sys.exit(f"lingshu train: {error}")
    if spec.recipe != EFFECTS:  # no network is computed with the other, and this takes seconds
        numerics.prepare(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = numerics.has_fast_bf16(device)
    accelerator = Accelerator(mixed_precision="bf16" if fast else "no", cpu=device.type == "cpu")
    try:
        ranks.check(accelerator, expected)
        with ranks.together(accelerator):
            _run(spec, data_dir, out, accelerator, network_from)
    except (ValueError, CheckpointError) as error:
        sys.exit(f"lingshu train: {error}")
    except ranks.RankLostError as error:
        click.echo(f"lingshu train: {error}", err=True)
        sys.exit(ranks.RANK_LOST)
    except (OSError, SafetensorError) as error:
        sys.exit(f"lingshu train: cannot write below {out}: {error}. {_remedy(error)}")


def _remedy(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOTDIR, errno.EEXIST):
        return "Give another folder with --out: a file is in its place"
    if number in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
        return "Give a folder that may be written with --out"
    return "Make room and run the same command again: it goes on from the last state it saved"


def _run(
    spec: TrainingSpec,
    data_dir: Path,
    out: Path,
    accelerator: Accelerator,
    network_from: str | None,
) -> None:
    folder = out / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    with scratch(folder, ".cells-") as store:
        say = _warn if accelerator.is_main_process else len
        cells = read_cells(spec, data_dir, store, say)
        parts = split_cells(cells, spec)
        priors = read_features(data_dir / spec.priors) if spec.priors else {}
        train, held_out = cells.take(parts.train), cells.take(parts.validation)
        learned = None
        perturbed = any(condition.interventions for condition in cells.conditions)
        if spec.recipe == EFFECTS and not perturbed:
            message = (
                "the recipe `effects` estimates effects, and no cell is perturbed: leave --recipe "
                "out to train a network of these cells"
            )
            raise ValueError(message)
        if spec.recipe == PAPER:
            if network_from:
                message = "the recipe `paper` is its network: leave --network-from out"
                raise ValueError(message)
            train = capped(train, spec.seed)
        if spec.recipe == DEFAULT and network_from:
            learned = reuse(_checkpoint_named(network_from), cells.panel)
        elif spec.recipe != EFFECTS:
            learned = learn(InitialState(spec, train, priors), held_out, folder, accelerator)
        if not accelerator.is_main_process:
            return
        hgnc = names_file(spec.aliases, data_dir)
        if spec.recipe == PAPER:
            assert learned is not None  # noqa: S101 - the main rank has it
            _report_network(*finish_network(spec, train, learned, hgnc, folder))
            return
        if not perturbed:
            assert learned is not None  # noqa: S101 - of the main rank, and no recipe `effects`
            # Of all cells that are not for the test: proportions are counted in them.
            rest = cells.take(np.sort(np.concatenate([parts.train, parts.validation])))
            _report_network(*finish_network(spec, rest, learned, hgnc, folder))
            return
        paths = [data_dir / source.file for source in spec.sources]
        files = {"files": {path.name: digest_file(path) for path in paths}}
        finish = Finish(spec, train, held_out, learned, priors, hgnc, files)
        finished = finish.run(folder, choose)
    _report(finished, spec)


def _report_network(checkpoint: Checkpoint, path: Path) -> None:
    """Say what was written, and how evidence comes about: nothing was held against cells yet."""
    sampler = checkpoint.config["sampler"]
    perturbed = any(checkpoint.targets)
    cells = "cells of perturbations" if perturbed else "cells, none of them perturbed"
    click.echo(
        f"{cells}: the network's, {sampler['steps']} steps, guidance {sampler['guidance']:g}"
    )
    click.echo(f"{path} written")
    if perturbed:
        click.echo(f"to evaluate it: lingshu evaluate {path} --write-evidence")
    click.echo(f"to use it: lingshu models add {path.parent.parent}")


def _checkpoint_named(name: str) -> Checkpoint:
    """Return a checkpoint by its folder or by its name."""
    folder = Path(name)
    if folder.is_dir():
        return Catalogue([folder.resolve().parent]).load(folder.resolve().name)
    return Catalogue().load(name)


def _report(finished: Finished, spec: TrainingSpec) -> None:
    """Say what was written; exit with `UNFIT` where a condition does not deliver its effect."""
    if finished.checked:
        click.echo(table(finished.checked))
    for note in finished.notes:
        _warn(note)
    config = finished.checkpoint.config
    click.echo(f"cells of perturbations: {config['delivery']} ({_said(config['delivery_basis'])})")
    for line in evidence_lines(finished.checkpoint.evidence):
        click.echo(line)
    click.echo(f"{finished.path} written")
    click.echo(f"to use it: lingshu models add {finished.path.parent.parent}")
    unfit = [f.name for f in finished.checked if f.reasons]
    if unfit and not spec.allow_unfit:
        click.echo(
            f"lingshu train: {len(unfit)} conditions do not deliver their effect and are marked "
            f"unfit: {'; '.join(unfit[:5])}. The checkpoint is kept and refuses them by name; "
            "--allow-unfit accepts that",
            err=True,
        )
        sys.exit(UNFIT)


def _said(basis: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in basis.items())


def _warn(sentence: str) -> None:
    click.echo(f"note: {sentence}", err=True)
