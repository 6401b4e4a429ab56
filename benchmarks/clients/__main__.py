"""`python -m benchmarks.clients [--environments FOLDER] [CLIENT ...]`: a table of conversions.

Each script of `converters/` runs in an environment with the pinned versions of
`requirements/CLIENT.txt`, reads the published tools on standard input, and prints one JSON line for
each tool: its name, the number of arguments that are left after conversion, and an error.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import python_of, surroundings
from lingshu_tools.calls.published import FILE, published_tools

HERE = Path(__file__).parent
CLIENTS = sorted(path.stem for path in (HERE / "converters").glob("*.py"))
LIMIT_S = 600


@dataclass(frozen=True)
class Conversion:
    """What a library made of the tools."""

    client: str
    version: str
    converted: int
    problems: list[str]


def convert(client: str, environments: Path) -> Conversion:
    """Return what a client's library makes of all published tools."""
    requirements = HERE / "requirements" / f"{client}.txt"
    python = python_of(client, requirements, environments)
    ran = subprocess.run(
        [python, "-P", HERE / "converters" / f"{client}.py"],
        input=FILE.read_text("utf-8"),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=surroundings(),
        check=False,
    )
    expected = {tool.name: len(tool.input_schema["properties"]) for tool in published_tools()}
    answers = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    problems = [f"{a['tool']}: {a['error']}" for a in answers if a["error"]]
    problems += [
        f"{a['tool']}: {a['arguments']} of {expected[a['tool']]} arguments"
        for a in answers
        if not a["error"] and a["arguments"] != expected[a["tool"]]
    ]
    if {a["tool"] for a in answers} != expected.keys():
        problems.append(f"exit status {ran.returncode}: {ran.stderr.strip()[-300:]}")
    version = requirements.read_text("utf-8").split()[0]
    return Conversion(client, version, len(answers) - len(problems), problems)


def main() -> int:
    """Print the table; the exit status is 1 where a tool is not converted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--environments", type=Path, default=Path("runs/clients"))
    arguments = parser.parse_args()
    results = [convert(name, arguments.environments) for name in arguments.clients or CLIENTS]
    total = len(published_tools())
    print("| client | library | tools converted |\n|---|---|---|")
    for result in results:
        print(f"| {result.client} | {result.version} | {result.converted} of {total} |")
    for result in results:
        for problem in result.problems:
            print(f"{result.client}: {problem}")
    return int(any(result.problems for result in results))


if __name__ == "__main__":
    sys.exit(main())
