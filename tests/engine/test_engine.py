import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from lingshu_tools.engine import Engine
from lingshu_tools.errors import EngineError, InputError, NotFoundError


def run_arm(engine: Engine, arm):
    view = engine.wait(engine.submit(arm).job_id, 20)
    assert view.state == "succeeded", view
    return engine.cells(view.job_id)


def test_the_first_call_starts_an_engine_and_a_second_client_finds_it(lab):
    first, second = lab.client(), lab.client()
    assert first.info() is None
    cells = run_arm(first, lab.arm("STAT1"))
    assert cells.counts.shape == (20, 5)
    assert second.ensure().pid == first.ensure().pid
    assert second.ensure().profile["device"] == "fake"
    assert second.ensure().checkpoints == {"toy": lab.catalogue.load("toy").digest}
