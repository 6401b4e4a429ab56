"""`lingshu train FILE.h5ad`: what the file holds is said and confirmed, then it is trained on."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lingshu_model.system.durable import write_durably
from lingshu_model.system.launcher import named_ranks
from lingshu_model.train.data.compressed import DataError
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.plan import Plan, name_of, planned
from lingshu_model.train.inspect.show import shown
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.spec_file import SpecError

REFUSED = 2


def specify(
    file: Path,
    out: Path,
    options: Options,
    *,
    name: str | None,
    yes: bool,
    schedule: Mapping[str, Any],
) -> TrainingSpec:
    """Return the specification for an h5ad file; exits where it is not confirmed.

    It is also written to `OUT/NAME/spec.json`. What was understood is printed first. The same
    command makes the same specification, and so goes on with what was trained before.

    Args:
        file: the h5ad file.
        out: the folder of all runs.
        options: what the user says of the file.
        name: of the checkpoint; None = made of the file's.
        yes: whether to go on without asking.
        schedule: further arguments of `planned`.
    """
    name = name or name_of(file.stem)
    first = os.environ.get("RANK", "0") == "0"
    try:
        understanding = inspect(file, options, name=name)
        if understanding.fatal:
            _say(shown(understanding), first=first)
            number = len(understanding.fatal)
            message = f"{number} problems keep {file} from being trained on (see above)"
            raise DataError(message)
        proposed = planned(understanding, name, file.name, **schedule)
        plan = _as_before(proposed, out / name, schedule)
    except (DataError, ValueError, OSError) as error:
        sys.exit(f"lingshu train: {error}")
    _say(f"{shown(understanding)}\n{'model':<14}{plan.words}", first=first)
    if not yes:
        _ask()
    if first:
        _write(plan, out / name)
    return plan.spec


def _as_before(plan: Plan, folder: Path, schedule: Mapping[str, Any]) -> Plan:
    """Return the plan with the epochs of an earlier one that is the same but for them.

    They were chosen by the cores of the machine that began it.
    """
    if schedule.get("epochs") is not None:
        return plan
    try:
        before = TrainingSpec.read(folder / "spec.json")
    except SpecError:
        return plan
    same = plan.spec.model_copy(
        update={"epochs": before.epochs, "warmup_steps": before.warmup_steps}
    )
    return replace(plan, spec=before) if same == before else plan


def _say(text: str, *, first: bool) -> None:
    if first:
        click.echo(text, err=True)


def _ask() -> None:
    if named_ranks(os.environ) > 1 or not sys.stdin.isatty():
        click.echo(
            "lingshu train: nobody can be asked here: look at the lines above, then give --yes to "
            "train on this, or options that correct it (`lingshu train --help`)",
            err=True,
        )
        sys.exit(REFUSED)
    if not click.confirm("train on this?", default=True, err=True):
        sys.exit(REFUSED)


def _write(plan: Plan, folder: Path) -> None:
    text = json.dumps(plan.spec.model_dump(mode="json", exclude_defaults=True), indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / "spec.json", f"{text}\n".encode())
    except OSError as error:
        sys.exit(
            f"lingshu train: cannot write below {folder.parent}: {error}. Give a folder that may "
            "be written with --out"
        )
