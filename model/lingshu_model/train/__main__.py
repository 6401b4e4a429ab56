"""`python -m lingshu_model.train SPEC --data DIR --out DIR`: train a checkpoint, resumable.

Run it again after a kill and it goes on to the same weights. Under `accelerate launch` every rank
trains on its share of each batch. Knows nothing of evaluation: `evidence.json` comes later.
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from safetensors import SafetensorError

from lingshu_model import numerics
from lingshu_model.train import data, ranks
from lingshu_model.train.birth import Birth
from lingshu_model.train.cells import add_shams
from lingshu_model.train.priors import read_features
from lingshu_model.train.run import run
from lingshu_model.train.spec import TrainingSpec


@click.command(context_settings={"show_default": True})
@click.argument("spec_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default="../shared/data")
@click.option("--out", type=click.Path(path_type=Path), default="runs", help="Where to write.")
@click.option("--threads", type=int, default=None, help="CPU threads per rank.")
@click.option("--epochs", type=int, default=None, help="Instead of the spec's.")
@click.option(
    "--ranks", "expected", type=int, default=None, help="Refuse another number of processes."
)
def main(
    spec_file: Path,
    data_dir: Path,
    out: Path,
    threads: int | None,
    epochs: int | None,
    expected: int | None,
) -> None:
    """Train the checkpoint described by SPEC_FILE into OUT/NAME/."""
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
    with TemporaryDirectory(dir=folder, prefix=".cells-") as store:
        cells = data.read_cells(spec, data_dir, Path(store))
        parts = data.split(cells, spec)
        priors = read_features(data_dir / spec.priors) if spec.priors else {}
        training = add_shams(cells.take(parts.train), spec.shams, spec.seed)
        birth = Birth(spec, training, priors)
        held_out = replace(cells.take(parts.validation), conditions=birth.cells.conditions)
        hgnc = data_dir / spec.aliases if spec.aliases else None
        checkpoint = run(birth, held_out, folder, accelerator, hgnc)
        if checkpoint is not None:
            click.echo(f"{checkpoint} written; `lingshu evaluate` adds its evidence")


if __name__ == "__main__":
    main()
