"""Homes that earlier versions left."""

from dataclasses import dataclass
from pathlib import Path

ARCHIVES = sorted(Path(__file__).parent.glob("made-by-*.zip"))


@dataclass(frozen=True)
class Left:
    """A home and its checkpoints, as an earlier version left them."""

    home: Path
    checkpoints: Path

    @property
    def database(self) -> Path:
        """The ledger's file."""
        return self.home / "experiments.db"
