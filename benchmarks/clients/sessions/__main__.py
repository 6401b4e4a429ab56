"""`python -m benchmarks.clients.sessions [CLIENT ...]`: each library in a session with the server.

The server is `lingshu serve`, over stdio (started by the library) and over HTTP on a loopback
address with a token. Python libraries have an environment each, with the pinned versions of
`requirements/CLIENT.txt`; the others are packages of npm. `steps.py` says what is done. The exit
status is 1 where a step fails that is not in `KNOWN`.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.environments import python_of, surroundings
from benchmarks.node import node_with
from lingshu_tools.calls.published import published_tools

HERE: Final = Path(__file__).parent
REQUIREMENTS: Final = HERE.parent / "requirements"
NPM: Final = {
    "typescript1": ("@modelcontextprotocol/sdk", "1.32.2"),
    "typescript2": ("@modelcontextprotocol/client", "2.4.0"),
    "inspector": ("@modelcontextprotocol/inspector", "2.12.0"),
}
PYTHON: Final = (
    *("mcp", "mcp1", "fastmcp", "openai", "langchain", "llamaindex"),
    *("smolagents", "pydantic_ai", "gemini", "adk", "anthropic"),
)
STEPS: Final = (
    *("list", "describe", "perturb", "screen", "plot"),
    *("error", "timeout", "leave", "cancel"),
)
KNOWN: Final = {
    (client, "stdio", "leave"): "the SDK raises where a message comes after its session is closed"
    for client in ("mcp1", "langchain")
}
"""Steps that fail in the library, whatever the server does, each with the reason."""
LIMIT_S: Final = 400


@dataclass(frozen=True)
class Ran:
    """A session of a library over a transport; `problems` has "" for a step that passed."""

    client: str
    library: str
    transport: str
    problems: Mapping[str, str]


@contextmanager
def http_server(home: Path) -> Generator[dict[str, Any]]:
    """Start the server on a free port and give its address with the headers that let in."""
    process = subprocess.Popen(
        [_lingshu(), "serve", "--home", home, "--http", "127.0.0.1:0"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    try:
        address, _, token = process.stderr.readline().partition("serving ")[2].partition(", ")
        secret = Path(token.strip().partition("token in ")[2]).read_text("utf-8").strip()
        yield {"url": address, "headers": {"Authorization": f"Bearer {secret}"}}
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _lingshu() -> str:
    """Return the command of this environment, absolute: some libraries pass on no PATH."""
    return str(Path(sys.executable).parent / "lingshu")


def session(client: str, server: Mapping[str, Any], seed: int, folders: Path, home: Path) -> Ran:
    """Return how the steps of a library went."""
    settings = surroundings() | {"HOME": str(home), "USERPROFILE": str(home)}
    if client in NPM:
        python, (package, version) = Path(sys.executable), NPM[client]
        library, folder = f"{package}@{version}", (folders / "npm").absolute()
        node = node_with(dict(NPM.values()), folder)
        settings |= {"NODE": str(node), "NODE_MANIFEST": str(folder / "package.json")}
    else:
        requirements = REQUIREMENTS / f"{client}.txt"
        python = python_of(client, requirements, folders)
        library = requirements.read_text("utf-8").split()[0]
    process = subprocess.Popen(
        [python, "-P", HERE / "steps.py", client],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=settings,
        cwd=home,
    )
    given = json.dumps({**server, "seed": seed, "tools": len(published_tools())})
    try:
        output, errors = process.communicate(given, LIMIT_S)
        end = f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        # The steps that it took until then count, and the other libraries follow.
        process.kill()
        output, errors = process.communicate()
        end = f"no end within {LIMIT_S} s"
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{"step"')]
    taken = {row["step"]: row["problem"] for row in rows}
    missing = f"not reached, {end}: {errors.strip()[-300:]}"
    transport = "http" if "url" in server else "stdio"
    return Ran(client, library, transport, {step: taken.get(step, missing) for step in STEPS})


def report(sessions: Iterable[Ran]) -> str:
    """Return a table with a row for each library, and what failed below it."""
    lines = ["| client | library | stdio | HTTP |", "|---|---|---|---|"]
    problems: list[str] = []
    by_client: dict[tuple[str, str], list[str]] = {}
    for ran in sessions:
        failed = {step: problem for step, problem in ran.problems.items() if problem}
        cells = by_client.setdefault((ran.client, ran.library), [])
        cells.append(f"{len(STEPS) - len(failed)} of {len(STEPS)}")
        for step, problem in failed.items():
            reason = KNOWN.get((ran.client, ran.transport, step))
            note = f" [{reason}]" if reason else ""
            problems.append(f"{ran.client}, {ran.transport}, {step}: {problem}{note}")
    lines += [f"| {' | '.join([*key, *cells])} |" for key, cells in by_client.items()]
    return "\n".join([*lines, *problems])


def write(sessions: Sequence[Ran], path: Path) -> None:
    """Write a row for each session: "passed", or what came instead, for each step."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["client", "library", "transport", *STEPS])
        for ran in sessions:
            cells = [ran.problems[step] or "passed" for step in STEPS]
            table.writerow([ran.client, ran.library, ran.transport, *cells])


def main() -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = (*PYTHON, *NPM)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(names))
    parser.add_argument("--environments", type=Path, default=Path("runs/clients"))
    parser.add_argument("--csv", type=Path, help="write a row for each session")
    arguments = parser.parse_args()
    sessions: list[Ran] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        stdio = {"command": _lingshu(), "args": ["serve", "--home", folder]}
        with http_server(home) as http:
            for client in arguments.clients or names:
                for server in (stdio, http):
                    # A seed for each session, so that none finds the cells of another.
                    seed = len(sessions) + 1
                    sessions.append(session(client, server, seed, arguments.environments, home))
        subprocess.run([_lingshu(), "engine", "stop", "--home", folder], check=False)
    print(report(sessions))
    if arguments.csv:
        write(sessions, arguments.csv)
    failed = {(r.client, r.transport, step) for r in sessions for step in STEPS if r.problems[step]}
    return int(bool(failed - KNOWN.keys()))


if __name__ == "__main__":
    sys.exit(main())
