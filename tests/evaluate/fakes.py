"""A sampler that draws from a known truth, in place of the network's."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import lingshu_model.sampling
from lingshu_model.contracts import ArmRequest, Cells


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
