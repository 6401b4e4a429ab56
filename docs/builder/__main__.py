"""`python -m docs.builder OUT`: run the Python blocks of all pages, then build the site strictly.

Blocks and notebooks work in one new home, whose engine ends with the build.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


NOISE = re.compile(r"IPKernelApp|traitlets client|^\s*$")
"""Lines of a starting kernel that say nothing about the site."""


def main(out: str) -> int:
    """Return the exit status: 0 if every block ran and Sphinx had nothing to say."""
    started = time.monotonic()
    build = ["sphinx", "-c", "docs", "-b", "html", "-W", "--keep-going", "-q", ".", f"{out}/html"]
    with tempfile.TemporaryDirectory(prefix="lingshu-docs-") as home:
        environ = {**os.environ, "LINGSHU_HOME": home}
        # Notebooks call `lingshu` by its name.
        environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ["PATH"]])
        try:
            with (
                _started(["docs.builder.run_blocks"], environ) as blocks,
                _started(build, environ) as site,
            ):
                for line in site.stderr or ():
                    if not NOISE.search(line):
                        sys.stderr.write(line)
                sys.stderr.write((blocks.stderr and blocks.stderr.read()) or "")
        finally:
            stop = [sys.executable, "-m", "lingshu_tools.cli", "engine", "stop"]
            subprocess.run(stop, env=environ, check=False, stdout=subprocess.DEVNULL)
    status = blocks.returncode or site.returncode
    if not status:
        print(f"{out}/html/index.html, {time.monotonic() - started:.0f} s")
    return status


def _started(module: list[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *module]
    return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
