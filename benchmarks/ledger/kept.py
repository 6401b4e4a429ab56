"""What parts of a long run gave, a line each, so that a run that was stopped can go on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Kept:
    """A file of JSON lines, each with the name of its part; without a file nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text("utf-8").splitlines() if path and path.exists() else []
        self._parts = {part.pop("name"): part for part in map(json.loads, lines)}

    def get(self, name: str) -> dict[str, Any] | None:
        """Return what a part gave in this run or an earlier one; None where it is to be done."""
        return self._parts.get(name)

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Write down what a part gave."""
        self._parts[name] = dict(values)
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name} | self._parts[name]) + "\n")
