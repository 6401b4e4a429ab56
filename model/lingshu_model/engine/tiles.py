"""Finished tiles of unfinished arms on disk: a folder for each arm, a file for each tile.

A tile lies here before it counts as done, so an arm of any length takes the memory of its tiles at
work, and what a killed engine had finished is found by the next. Nothing is forced to the disk: a
tile that a power cut tore is detected by the digest before it, and computed again. The digest is
over the arm's key and the tile's number too: a tile under another name counts as damaged. A key is
whatever decides the bytes.
"""

import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lingshu_model.contracts import Cells, decode_cells, encode_cells
from lingshu_model.contracts.canonical import digest_pieces
from lingshu_model.system.durable import UNFINISHED
from lingshu_model.system.private import private_folder

_SUFFIX = ".tile"
_DROPPED = f"{UNFINISHED}dropped-"


class DamagedTileError(Exception):
    """A tile is not what was written."""


class Tiles:
    """A folder of unfinished arms; safe for several threads of one process."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`, and clear away what a killed engine left half written."""
        self.folder = folder
        # Keys that this engine was asked for; their tiles are not pruned.
        self._at_work: set[str] = set()
        self._lock = threading.Lock()
        private_folder(folder)
        self.sweep()
        # Every tile is read once at the start, so that `begin` can trust the names.
        for path in folder.glob("*/*"):
            if path.suffix != _SUFFIX or _whole(path) is None:
                path.unlink(missing_ok=True)

    def begin(self, key: str) -> set[int]:
        """Return which tiles of an arm are here, and take more of them from now on."""
        with self._lock:
            self._at_work.add(key)
            private_folder(self._arm(key))
        return {int(path.stem) for path in self._arm(key).glob(f"*{_SUFFIX}")}

    def write(self, key: str, index: int, cells: Cells) -> None:
        """Keep the asked cells of a tile.

        Raises:
            FileNotFoundError: its arm has ended.
        """
        blob = encode_cells(cells)
        with tempfile.NamedTemporaryFile(
            prefix=UNFINISHED, dir=self._arm(key), delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                file.writelines((_digest(key, str(index), blob), b"\n", blob))
                file.flush()
                temporary.replace(self._arm(key) / f"{index}{_SUFFIX}")
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def of(self, key: str, indices: Sequence[int]) -> "ArmTiles":
        """Return these tiles of an arm, one at a time, as often as they are wanted."""
        return ArmTiles([self._arm(key) / f"{index}{_SUFFIX}" for index in indices])

    def drop(self, key: str) -> None:
        """Forget an arm that has ended; its files are deleted by the next `sweep`."""
        self._at_work.discard(key)
        # Thousands of files take seconds to delete: another attempt at the arm need not wait.
        with suppress(FileNotFoundError):
            # A new name at once, so that `begin` of the same key starts with an empty folder.
            self._arm(key).rename(self._arm(f"{_DROPPED}{secrets.token_hex(8)}"))

    def sweep(self) -> None:
        """Delete the files of arms that were dropped."""
        for folder in self.folder.glob(f"{_DROPPED}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def idle(self) -> list[Path]:
        """The folders of arms that nobody has asked for since this engine started."""
        folders = [path for path in self.folder.iterdir() if not path.name.startswith(_DROPPED)]
        return [path for path in folders if path.name not in self._at_work]

    def drop_idle(self, folder: Path) -> None:
        """Delete the folder of an arm, unless it was asked for meanwhile."""
        # `begin` takes the same lock: an arm is not deleted while it is taken up again.
        with self._lock:
            if folder.name not in self._at_work:
                shutil.rmtree(folder, ignore_errors=True)

    def _arm(self, key: str) -> Path:
        return self.folder / key


class ArmTiles:
    """The cells of one arm's tiles; each is read when its turn comes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[Cells]:
        """Yield the cells of each tile.

        Raises:
            DamagedTileError: one is not what was written.
            FileNotFoundError: the arm has ended.
        """
        for path in self._paths:
            blob = _whole(path)
            if blob is None:
                message = f"tile {path.stem} was damaged on the disk: ask for the cells again"
                raise DamagedTileError(message)
            yield decode_cells(blob)


def _whole(path: Path) -> bytes | None:
    digest, _, blob = path.read_bytes().partition(b"\n")
    return blob if digest == _digest(path.parent.name, path.stem, blob) else None


def _digest(key: str, index: str, blob: bytes) -> bytes:
    return digest_pieces((f"{key}/{index}\n".encode(), blob)).encode()
