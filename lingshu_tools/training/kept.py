"""The checkpoints of a home: added from a training run or a pack, verified, removed.

They lie in `HOME/models/NAME` with `NAME.digests.json` beside it, and are found there like shipped
ones. A checkpoint is put there in one moment, after every file was held against its digest.
"""

import re
import secrets
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lingshu_model.contracts import Catalogue, Checkpoint, CheckpointError
from lingshu_model.contracts.catalogue import MODELS, SHIPPED
from lingshu_model.system.private import private_folder
from lingshu_tools.errors import InputError, NotFoundError
from lingshu_tools.ledger.home import open_home
from lingshu_tools.training.packs import PACK, PINS, unpacked

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_WAITING = ".adding-"
_POOL = "pool-"
"""Files of stored control cells begin like this."""


@dataclass(frozen=True)
class Kept:
    """One checkpoint that can be used here.

    Attributes:
        checkpoint: it.
        origin: `shipped`, `added` (in this home) or `elsewhere` (`LINGSHU_CHECKPOINTS`).
    """

    checkpoint: Checkpoint
    origin: str

    @property
    def holds_training_cells(self) -> bool:
        """Whether real control cells of the training data are among its files."""
        return holds_training_cells(self.checkpoint)


def holds_training_cells(checkpoint: Checkpoint) -> bool:
    """Return whether real control cells of the training data are among a checkpoint's files."""
    training = checkpoint.config.get("training")
    drawn = isinstance(training, dict) and training.get("drawn_cells") is True
    return not drawn and any(name.startswith(_POOL) for name in checkpoint.pinned)


def kept(home: Path, catalogue: Catalogue) -> list[Kept]:
    """Return the checkpoints that can be used and read, by name."""
    checkpoints: list[Kept] = []
    for name in catalogue.names():
        with suppress(CheckpointError):
            checkpoint = catalogue.load(name)
            checkpoints.append(Kept(checkpoint, _origin(home, checkpoint)))
    return checkpoints


def damaged(catalogue: Catalogue) -> dict[str, str]:
    """Return why the other checkpoints cannot be read, by name."""
    reasons: dict[str, str] = {}
    for name in catalogue.names():
        try:
            catalogue.load(name)
        except CheckpointError as error:
            reasons[name] = str(error)
    return reasons


def _origin(home: Path, checkpoint: Checkpoint) -> str:
    if checkpoint.path.parent == SHIPPED:
        return "shipped"
    return "added" if checkpoint.path.parent == home / MODELS else "elsewhere"


def add(home: Path, source: Path, *, digest: str | None = None, replace: bool = False) -> Kept:
    """Return a checkpoint copied into a home.

    Args:
        home: the home.
        source: the folder of a training run (`runs/NAME`), a checkpoint's folder, or a pack.
        digest: what the checkpoint's digest must be, as who gave it says; None = any.
        replace: whether another checkpoint of the same name is replaced.

    Raises:
        InputError: there is no checkpoint, a file is not what its digest says, or the name is
            taken by another.
    """
    folder = private_folder(open_home(home) / MODELS)
    with _given(source, folder) as given:
        checkpoint = intact(given)
        _check(checkpoint, folder, digest, replace=replace)
        place = folder / checkpoint.name
        if not (place.is_dir() and _digest_at(place) == checkpoint.digest):
            _put(checkpoint, folder)
    return Kept(intact(place), "added")


def verify(checkpoint: Checkpoint) -> list[str]:
    """Return what is wrong with the files of a checkpoint; empty = every digest is right."""
    wrong: list[str] = []
    for name in checkpoint.pinned:
        try:
            checkpoint.verify_file(name)
        except CheckpointError as error:
            wrong.append(str(error))
    extra = {path.name for path in checkpoint.path.iterdir()} - {*checkpoint.pinned}
    wrong += [f"{checkpoint.path / name} is no file of the checkpoint" for name in sorted(extra)]
    return wrong


def remove(home: Path, name: str) -> Path:
    """Return the folder that a checkpoint of a home was in; it is gone.

    Raises:
        NotFoundError: the home has none of this name; those that it has are named.
    """
    folder = home / MODELS
    names = sorted(path.name.removesuffix(PINS) for path in folder.glob(f"*{PINS}"))
    if name not in names:
        message = (
            f"no checkpoint {name!r} was added to this home; it has {', '.join(names) or 'none'}"
            ". Shipped ones and those in LINGSHU_CHECKPOINTS are not removed by this"
        )
        raise NotFoundError(message)
    place = folder / name
    (folder / f"{name}{PINS}").unlink()  # without its digests it is no checkpoint any more
    shutil.rmtree(place, ignore_errors=True)
    return place


def intact(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder, every file of which is what its digest says.

    Raises:
        InputError: it is none, or a file is not.
    """
    try:
        checkpoint = Catalogue([folder.parent]).load(folder.name)
    except CheckpointError as error:
        raise InputError(str(error)) from error
    if wrong := verify(checkpoint):
        message = f"{wrong[0]}{f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''}"
        raise InputError(message)
    return checkpoint


@contextmanager
def _given(source: Path, folder: Path) -> Generator[Path]:
    """Give the folder of the checkpoint that `source` is or holds."""
    if source.is_file():
        with _scratch(folder) as place:
            yield unpacked(source, place)
        return
    if not source.is_dir():
        message = f"{source} does not exist: give a training run (runs/NAME), or a pack (*{PACK})"
        raise InputError(message)
    source = source.resolve()
    if (source.parent / f"{source.name}{PINS}").is_file():
        yield source
        return
    inside = [*_checkpoints(source), *_checkpoints(source / "checkpoint")]
    if len(inside) != 1:
        held = ", ".join(path.name for path in inside)
        message = (
            f"{source} holds several checkpoints ({held}): give the folder of one"
            if inside
            else f"{source} holds no checkpoint: a finished training run has one in "
            f"{source.name}/checkpoint/NAME, with NAME{PINS} beside it"
        )
        raise InputError(message)
    yield inside[0]


def _checkpoints(folder: Path) -> list[Path]:
    pins = sorted(folder.glob(f"*{PINS}"))
    return [folder / path.name.removesuffix(PINS) for path in pins]


def _check(checkpoint: Checkpoint, folder: Path, digest: str | None, *, replace: bool) -> None:
    name = checkpoint.name
    if not NAME.fullmatch(name):
        message = f"a checkpoint cannot be called {name!r}: small letters, digits and hyphens"
        raise InputError(message)
    if digest is not None and checkpoint.digest != digest:
        message = f"the checkpoint {name!r} is {checkpoint.digest}, and {digest} is asked for"
        raise InputError(message)
    if name in Catalogue([SHIPPED]).names():
        message = f"{name!r} is the name of a shipped checkpoint: train it under another --name"
        raise InputError(message)
    there = _digest_at(folder / name)
    if there not in (None, checkpoint.digest) and not replace:
        message = (
            f"this home has another checkpoint called {name!r} ({there}; the new one is "
            f"{checkpoint.digest}): give --replace, or train under another --name. Experiments "
            "with the old one can then be replayed only where it is kept elsewhere"
        )
        raise InputError(message)


def _digest_at(folder: Path) -> str | None:
    try:
        return Catalogue([folder.parent]).load(folder.name).digest
    except CheckpointError:
        return None


def _put(checkpoint: Checkpoint, folder: Path) -> None:
    pins = f"{checkpoint.name}{PINS}"
    with _scratch(folder) as place:
        new = place / checkpoint.name
        new.mkdir()
        for name in checkpoint.pinned:
            shutil.copyfile(checkpoint.path / name, new / name)
        shutil.copyfile(checkpoint.path.parent / pins, place / pins)
        intact(new)
        old = folder / checkpoint.name
        if old.exists():
            old.rename(place / "replaced")
        new.rename(old)
        (place / pins).replace(folder / pins)


@contextmanager
def _scratch(folder: Path) -> Generator[Path]:
    place = folder / f"{_WAITING}{secrets.token_hex(8)}"
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def names_of(checkpoints: Iterable[Kept]) -> str:
    """Return the names of checkpoints as a list for people."""
    return ", ".join(each.checkpoint.name for each in checkpoints) or "none"
