"""A sampler that draws from a known truth, a checkpoint without weights, and the command."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import lingshu_model.sampling
from lingshu_model.contracts import ArmRequest, Cells
from lingshu_model.contracts.catalogue import FORMAT, pin
from lingshu_model.evaluate.__main__ import main
from lingshu_model.train.spec import TrainingSpec


def run(*arguments: object) -> str:
    """Return the output of `lingshu evaluate`, which must succeed."""
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def write_folder(
    folder: Path,
    genes: Sequence[str],
    contexts: Sequence[dict[str, str]],
    seen: Sequence[dict[str, Any]],
    training: TrainingSpec,
) -> Path:
    """Write and return the folder of a checkpoint without weights."""
    config = {
        "format": FORMAT,
        "contexts": [{"context": context} for context in contexts],
        "seen": seen,
        "sampler": {"steps": 3, "guidance": 0.0},
        "training": training.model_dump(mode="json"),
    }
    path = folder / "synthetic"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "panel.json").write_text(json.dumps({"genes": [{"symbol": g} for g in genes]}))
    pin(path)
    return path


def fake_sampler(
    patch: pytest.MonkeyPatch, sampled: Callable[[ArmRequest], Cells]
) -> list[ArmRequest]:
    """Replace the sampler, and return the list that its requests are added to."""
    requests: list[ArmRequest] = []

    def sample_arm(_sampler: object, request: ArmRequest, _workers: int = 1) -> Cells:
        requests.append(request)
        return sampled(request)

    sampler = SimpleNamespace(profile=lambda: {"device": "synthetic"})
    modules = {
        "sampler": SimpleNamespace(sample_arm=sample_arm),
        "load": SimpleNamespace(load_sampler=lambda _checkpoint, threads: sampler),
    }
    for name, module in modules.items():
        patch.setitem(sys.modules, f"lingshu_model.sampling.{name}", module)
        patch.setattr(lingshu_model.sampling, name, module, raising=False)
    return requests
