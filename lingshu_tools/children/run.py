"""Running one child and reading its answer."""

import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from lingshu_tools.errors import LingshuError
from lingshu_tools.interpreter import PIPE, TimeoutExpired, start

TIMEOUT_S = 600.0  # a safety net: a busy machine may need minutes just to import anndata
_SHOWN_LINES = 6


class ChildError(LingshuError):
    """A child process failed; the end of what it said is in the message."""


def run_child(
    name: Literal["plot", "export"], job: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Return what the child `lingshu_tools.children.NAME` makes of a job.

    Raises:
        ChildError: it failed or took longer than `timeout_s` seconds; files it had begun may remain
            under a temporary name.
    """
    work = json.dumps(job, allow_nan=False).encode()
    environ = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    module = f"lingshu_tools.children.{name}"
    child = start(["-m", module], environ=environ, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        answer, said = child.communicate(work, timeout_s)
    except TimeoutExpired as error:
        child.kill()
        child.communicate()
        message = f"{name} took more than {timeout_s:g} s and was stopped; ask for less"
        raise ChildError(message) from error
    if child.returncode:
        tail = "\n".join(said.decode(errors="replace").splitlines()[-_SHOWN_LINES:])
        message = f"{name} failed in its child process (exit {child.returncode}):\n{tail}"
        raise ChildError(message)
    return json.loads(answer)
