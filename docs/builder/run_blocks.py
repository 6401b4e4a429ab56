"""`python -m docs.builder.run_blocks`: run the Python blocks of every page, in order.

The blocks of a page share their names. `adata` is a small AnnData of made cells. Notebooks are run
by Sphinx, which shows what they print.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docs.builder.blocks import blocks, pages
from docs.builder.example_data import made_cells


def main() -> int:
    """Return 1 if a block raised."""
    with tempfile.TemporaryDirectory(prefix="lingshu-docs-") as folder:
        os.chdir(folder)
        return int(run(pages()) > 0)


def run(chosen: Sequence[Path]) -> int:
    """Return how many blocks of some pages raised."""
    failed = 0
    for page in chosen:
        names: dict[str, Any] = {}
        for block in blocks(page):
            if block.language != "python" or page.parent.name == "notebooks":
                continue
            if "adata" in block.body:
                names["adata"] = made_cells()
            started = time.monotonic()
            try:
                # A page's blocks are this repository's own code.
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(block.body, str(block), "exec"), names)
            except Exception:  # noqa: BLE001 - all blocks are run, and each failure is shown
                failed += 1
                print(f"{block}: {traceback.format_exc()}", file=sys.stderr)
            print(f"{block}: ran, {time.monotonic() - started:.1f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
