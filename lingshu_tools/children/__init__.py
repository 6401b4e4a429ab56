"""Work done in a child process, so that the server loads no matplotlib, scipy, pandas or anndata.

A child is a module with a `main()`: one JSON object in on stdin, one out on stdout. Knows nothing
of what the children do.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal

from lingshu_tools.errors import LingshuError

__all__ = ["TIMEOUT_S", "ChildError", "LingshuError", "run_child"]

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
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"lingshu_tools.children.{name}"],
            input=json.dumps(job, allow_nan=False).encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=_environ(),
        )
    except subprocess.TimeoutExpired as error:
        message = f"{name} took more than {timeout_s:g} s and was stopped; ask for less"
        raise ChildError(message) from error
    if done.returncode:
        tail = "\n".join(done.stderr.decode(errors="replace").splitlines()[-_SHOWN_LINES:])
        message = f"{name} failed in its child process (exit {done.returncode}):\n{tail}"
        raise ChildError(message)
    return json.loads(done.stdout)


def _environ() -> dict[str, str]:
    # The child must find this very library, however its parent did.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
