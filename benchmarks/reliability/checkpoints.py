"""Two versions of a checkpoint under one name, of which one at a time is in its place."""

import json
import shutil
from pathlib import Path

from lingshu_model.contracts import Catalogue
from lingshu_model.contracts.catalogue import SHIPPED, pin

SOURCE = "thp1-crispr"
VERSIONS = ("first", "second")


class Versions:
    """A shipped checkpoint and a copy whose weights differ a little, both called `name`."""

    def __init__(self, folder: Path, name: str) -> None:
        """Make them; the first is in its place."""
        self._folder, self._name = folder, name
        for version in VERSIONS:
            shutil.copytree(SHIPPED / SOURCE, self.catalogue(version) / name)
        altered = self.catalogue("second") / name
        alter(sorted(altered.glob("model*.safetensors"))[0])
        for version in VERSIONS:
            pin(self.catalogue(version) / name)
        self.place.mkdir()
        self.put("first")

    @property
    def place(self) -> Path:
        """The folder in which the clients and the engine look."""
        return self._folder / "checkpoints"

    def catalogue(self, version: str) -> Path:
        """Return a folder that holds this version alone, for ever."""
        return self._folder / f"checkpoints-{version}"

    def digests(self) -> dict[str, str]:
        """Return the digest of each version."""
        return {v: Catalogue([self.catalogue(v)]).load(self._name).digest for v in VERSIONS}

    def put(self, version: str) -> None:
        """Put a version in place of the other: for a moment neither is there."""
        aside, new = self._folder / "aside", self._folder / "new"
        for folder in (aside, new):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.catalogue(version), new)
        aside.mkdir()
        for source, target in ((self.place, aside), (new, self.place)):
            for path in [*source.iterdir()]:
                path.rename(target / path.name)
        self.current = version

    def other(self) -> str:
        """Return the version that is not in its place."""
        return VERSIONS[1 - VERSIONS.index(self.current)]


def alter(weights: Path) -> None:
    """Change every value of the largest tensor of a safetensors file by a few per cent."""
    data = bytearray(weights.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = [value for key, value in header.items() if key != "__metadata__"]
    largest = max(tensors, key=lambda tensor: tensor["data_offsets"][1] - tensor["data_offsets"][0])
    size = {"BF16": 2, "F16": 2, "F32": 4}[largest["dtype"]]
    begin, end = (8 + length + offset for offset in largest["data_offsets"])
    # Of a number, little end first: a bit in the middle of the mantissa.
    place = begin + size - 2 if size == 2 else begin + 2
    for position in range(place, end, size):
        data[position] ^= 0x08
    weights.write_bytes(data)
