"""The JSON files of a checkpoint, read from a folder that somebody else may have made.

`NAME.digests.json` names files of the folder `NAME/` alone: a name with a separator would let a
checkpoint choose files anywhere. `config.json` is held to the form that every reader relies on.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CheckpointError(Exception):
    """A checkpoint is missing, damaged or not what its pinned digests say."""


# Readers take further fields, such as a dose: pydantic ignores what is not listed here.
class _Intervention(BaseModel):
    kind: str
    target: str


class _Condition(BaseModel):
    context: dict[str, str]
    interventions: list[_Intervention]


class _Context(BaseModel):
    context: dict[str, str]


class _Responders(BaseModel):
    strengths: list[NotNegative]
    shares: list[NotNegative]
    libraries: list[Positive]
    # Checkpoints before format 4 have none, here and in a row.
    dispersions: list[NotNegative] | None = None


class _Row(_Condition):
    # Cells are multiplied by them: NaN would give counts that are no numbers.
    library: Positive
    dispersion: NotNegative = 0.0
    responders: _Responders | None = None


class _Effects(BaseModel):
    contexts: list[_Context]
    rows: list[_Row]


class _Config(BaseModel):
    contexts: list[_Context]
    seen: list[_Condition]
    # Checkpoints of format 1 have none.
    effects: _Effects | None = None


def read_pins(pins: Path) -> dict[str, str]:
    """Return the digests of a checkpoint's files, by name.

    Raises:
        CheckpointError: the file cannot be read, or names what is no file of the folder.
    """
    try:
        files: Any = json.loads(pins.read_text("utf-8"))["files"]
        # Every file of the folder is opened by a name of this list, so this is the place to check
        # it.
        names = [name for name in files if not _is_plain(name)]
        if names or not isinstance(files, dict) or "config.json" not in files:
            message = f"{names[0]!r} is no file of the folder" if names else "no config.json"
            raise ValueError(message)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{pins} cannot be read ({error!r}): train or copy the checkpoint again"
        raise CheckpointError(message) from error
    return {str(name): str(digest) for name, digest in files.items()}


def parse_config(path: Path, formats: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the content of a `config.json`.

    Args:
        path: of the file; its digest has been checked.
        formats: those that this version reads.

    Raises:
        CheckpointError: it is not JSON, of another format, or lacks what every reader needs.
    """
    try:
        config: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path} cannot be read ({error}): train or copy the checkpoint again"
        raise CheckpointError(message) from error
    form = config.get("format") if isinstance(config, dict) else None
    if form not in formats:
        known = " and ".join(formats)
        message = f"{path.parent} has the format {form!r}; this version reads {known}"
        raise CheckpointError(message)
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{path}: {place}: {first['msg']}; train or copy the checkpoint again"
        raise CheckpointError(message) from error
    return config


def parse_panel(panel: Any, path: Path) -> list[dict[str, Any]]:
    """Return the genes of a `panel.json`.

    Raises:
        CheckpointError: it is no list of genes with symbols.
    """
    genes = panel.get("genes") if isinstance(panel, dict) else None
    named = isinstance(genes, list) and all(
        isinstance(gene, dict) and isinstance(gene.get("symbol"), str) for gene in genes
    )
    if not named or not genes:
        message = f"{path}: no list of genes with symbols; train or copy the checkpoint again"
        raise CheckpointError(message)
    return genes


def _is_plain(name: object) -> bool:
    """Return whether a name is that of a file in the folder itself, on every system."""
    if not isinstance(name, str) or name in ("", os.curdir, os.pardir):
        return False
    # Separators of POSIX and Windows, the drive of a Windows path, and the end of a C string.
    return not any(character in name for character in "/\\:\0")
