"""The suite: installed from npm, run with the scenarios of one revision, its results read."""

import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.node import node_with

PACKAGE: Final = "@modelcontextprotocol/conformance"
VERSION: Final = "0.2.0-alpha.12"
REVISIONS: Final = ("2026-07-28", "2025-11-25")
LIMIT_S: Final = 900
ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What one scenario found.

    Attributes:
        scored: whether the revision requires the scenario.
        untested: checks that the suite skipped.
        problems: `check: reason`, of checks that failed.
    """

    revision: str
    scenario: str
    scored: bool
    passed: int
    untested: int
    problems: list[str]


class SuiteError(Exception):
    """The suite or the server did not run."""


def install(folder: Path) -> tuple[Path, Path]:
    """Return Node and the suite's entry point, installed into a folder where they are missing.

    Raises:
        NodeError: npm is missing or failed.
    """
    node = node_with({PACKAGE: VERSION}, folder)
    return node, folder / "node_modules" / PACKAGE / "dist" / "index.js"


@contextmanager
def serving(home: Path, *, fixtures: bool) -> Generator[str]:
    """Start the server and give its URL; it ends with the context.

    Raises:
        SuiteError: it did not start.
    """
    command = [sys.executable, "-m", "benchmarks.conformance.serve", "--home", home]
    process = subprocess.Popen(
        [*command, *(["--fixtures"] if fixtures else [])],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr
    try:
        line = process.stderr.readline()
        address = line.partition("serving ")[2].partition(",")[0]
        if not address:
            message = f"the server did not start: {line}{process.stderr.read()}"
            raise SuiteError(message)
        yield address
    finally:
        assert process.stdin
        process.stdin.close()
        rest = process.stderr.read()
        process.wait(30)
        if rest.strip():
            sys.stderr.write(f"the server wrote:\n{rest}")


def run(node: Path, entry: Path, url: str, revision: str, folder: Path) -> list[Outcome]:
    """Return what the scenarios of a revision found; the suite's files stay in `folder`.

    Raises:
        SuiteError: it did not run them all.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [node, entry, "server", "--url", url, "--requirements", revision, "-o", folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    (folder / "printed.txt").write_text(ran.stdout + ran.stderr, "utf-8")
    scored, others = _required(entry.parents[1] / "requirements" / f"{revision}.yaml")
    files = {
        path.parent.name.removeprefix("server-")[: -len("-2026-01-01T00-00-00-000Z")]: path
        for path in folder.glob("server-*/checks.json")
    }
    missing = sorted((scored | others) - files.keys())
    if missing:
        message = f"no result of {', '.join(missing)}: see {folder / 'printed.txt'}"
        raise SuiteError(message)
    return [_outcome(revision, name, path, scored=name in scored) for name, path in files.items()]


def _outcome(revision: str, scenario: str, path: Path, *, scored: bool) -> Outcome:
    checks = json.loads(path.read_text("utf-8"))
    status = [check["status"] for check in checks]
    problems = [
        f"{check['id']}: {check.get('errorMessage') or 'no reason given'}"
        for check in checks
        if check["status"] in ("FAILURE", "WARNING")
    ]
    return Outcome(
        revision, scenario, scored, status.count("SUCCESS"), status.count("SKIPPED"), problems
    )


def _required(path: Path) -> tuple[set[str], set[str]]:
    """Return the scored server scenarios of a requirements file, and those that are not scored."""
    scored: set[str] = set()
    others: set[str] = set()
    part = scenario = ""
    for line in path.read_text("utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            part = line.rstrip(":")
        elif part == "server" and line.startswith("  - "):
            scored.add(line[4:].strip())
        elif part == "not_scored" and line.startswith("  - scenario: "):
            scenario = line.removeprefix("  - scenario: ").strip()
        elif part == "not_scored" and line.strip() == "leg: server":
            others.add(scenario)
    return scored, others
