"""`python -m docs.builder OUT`: run the Python blocks of all pages, then build the site strictly.

Blocks and notebooks work in one new home, whose engine ends with the build.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(out: str) -> int:
    """Return the exit status: 0 if every block ran and Sphinx had nothing to say."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lingshu-docs-") as home:
        environ = {**os.environ, "LINGSHU_HOME": home}
        # Notebooks call `lingshu` by its name.
        environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ["PATH"]])
        build = ["-c", "docs", "-b", "html", "-W", "--keep-going", "-q", ".", f"{out}/html"]
        try:
            blocks = subprocess.run(
                [sys.executable, "-m", "docs.builder.run_blocks"],
                cwd=ROOT,
                env=environ,
                check=False,
            )
            if blocks.returncode:
                return blocks.returncode
            ran = subprocess.run(
                [sys.executable, "-m", "sphinx", *build], cwd=ROOT, env=environ, check=False
            )
        finally:
            stop = [sys.executable, "-m", "lingshu_tools.cli", "engine", "stop"]
            subprocess.run(stop, env=environ, check=False, stdout=subprocess.DEVNULL)
    if ran.returncode == 0:
        print(f"{out}/html/index.html, {time.monotonic() - started:.0f} s")
    return ran.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
