"""From a specification and data files to a checkpoint: one training run on this rank."""

import sys
from dataclasses import replace
from pathlib import Path

import click
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from safetensors import SafetensorError

from lingshu_model.network import numerics
from lingshu_model.train import ranks
from lingshu_model.train.data.cells import add_shams
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.data.sources import split as split_cells
from lingshu_model.train.initialisation import Birth
from lingshu_model.train.priors import read_features
from lingshu_model.train.run import run
from lingshu_model.train.scratch import scratch
from lingshu_model.train.spec import TrainingSpec


def train(
    spec_file: Path,
    data_dir: Path,
    out: Path,
    threads: int | None,
    epochs: int | None,
    expected: int | None,
) -> None:
    """Train the checkpoint described by `spec_file` into OUT/NAME/; exits where it cannot."""
    try:
        spec = TrainingSpec.read(spec_file)
    except ValidationError as error:
        sys.exit(f"lingshu train: {spec_file}: {error}")
    if epochs is not None:
        spec = spec.model_copy(update={"epochs": epochs})
    numerics.prepare(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = numerics.has_fast_bf16(device)
    accelerator = Accelerator(mixed_precision="bf16" if fast else "no", cpu=device.type == "cpu")
    try:
        ranks.check(accelerator, expected)
        with ranks.together(accelerator):
            _run(spec, data_dir, out, accelerator)
    except ValueError as error:
        sys.exit(f"lingshu train: {error}")
    except ranks.RankLostError as error:
        click.echo(f"lingshu train: {error}", err=True)
        sys.exit(ranks.RANK_LOST)
    except (OSError, SafetensorError) as error:
        sys.exit(
            f"lingshu train: cannot write below {out}: {error}. Make room and run the same command "
            "again: it goes on from the last state it saved"
        )


def _run(spec: TrainingSpec, data_dir: Path, out: Path, accelerator: Accelerator) -> None:
    folder = out / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    with scratch(folder, ".cells-") as store:
        cells = read_cells(spec, data_dir, store)
        parts = split_cells(cells, spec)
        priors = read_features(data_dir / spec.priors) if spec.priors else {}
        training = add_shams(cells.take(parts.train), spec.shams, spec.seed)
        birth = Birth(spec, training, priors)
        held_out = replace(cells.take(parts.validation), conditions=birth.cells.conditions)
        hgnc = data_dir / spec.aliases if spec.aliases else None
        checkpoint = run(birth, held_out, folder, accelerator, hgnc)
        if checkpoint is not None:
            click.echo(f"{checkpoint} written; `lingshu evaluate` adds its evidence")
