"""Engines of the tests, in a thread or as real processes, with a fake sampler and checkpoint."""

import json
from pathlib import Path

import pytest
from engine_lab import CONTEXT, Lab

from lingshu_model.contracts import Catalogue
from lingshu_model.contracts.catalogue import FORMAT, pin

PANEL = ["STAT1", "JAK2", "IFNGR1", "PSMB9", "ACTB"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """A catalogue with one checkpoint, `toy`."""
    root = tmp_path / "checkpoints"
    (root / "toy").mkdir(parents=True)
    knockout = {"kind": "knockout", "target": "STAT1"}
    seen = [
        {"context": CONTEXT, "interventions": [], "n_cells": 9},
        {"context": CONTEXT, "interventions": [knockout], "n_cells": 5},
    ]
    config = {"format": FORMAT, "contexts": [{"context": CONTEXT}], "seen": seen}
    genes = [{"symbol": g, "ensembl": None, "aliases": [], "previous": []} for g in PANEL]
    (root / "toy" / "config.json").write_text(json.dumps(config))
    (root / "toy" / "panel.json").write_text(json.dumps({"genes": genes}))
    pin(root / "toy")
    return Catalogue([root])


@pytest.fixture
def lab(tmp_path: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_GATE", str(tmp_path / "home" / "gate"))
    lab = Lab(tmp_path / "home", catalogue)
    yield lab
    lab.close()
