"""The child that reads a user's file: a further process may load what this one must not.

That process has limits of memory and time, so that a file cannot exhaust the machine.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingshu_tools.system.interpreter import PIPE, start

LIMIT_S = 500.0
_TAIL = 2000


def run(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the report of the cells written to `folder`, or what the caller can mend.

    Args:
        job: the arguments of `python -m lingshu_model.user_cells`.
        folder: where the files are put.

    Raises:
        RuntimeError: the process ended without a report.
    """
    file = folder / "job.json"
    file.write_text(json.dumps({**job, "limit_s": LIMIT_S}))
    line = ["-m", "lingshu_model.user_cells", str(file), str(folder)]
    child = start(line, stdout=PIPE, stderr=PIPE)
    out, errors = child.communicate()
    file.unlink()
    try:
        return json.loads(out)
    except ValueError:
        tail = errors.decode("utf-8", "replace")[-_TAIL:]
        message = f"the file could not be read (exit {child.returncode}): {tail}"
        raise RuntimeError(message) from None
