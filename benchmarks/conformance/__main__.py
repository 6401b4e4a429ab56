"""`python -m benchmarks.conformance [REVISION ...]`: a table of scenarios; installs the suite.

The product's server is started with what the scenarios call by fixed names (`fixtures/`);
`--without-fixtures` runs it as it is. The exit status is 1 where a scored scenario fails that is
not one of `DEPRECATED`, or where one of those passes.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.conformance.suite import REVISIONS, VERSION, Outcome, install, run, serving

DEPRECATED: Final = {
    "logging-set-level": "MCP logging is deprecated since 2026-07-28; the server has none",
    "tools-call-with-logging": "the same: the scenario sets a level first",
    "resources-subscribe": "removed in 2026-07-28; no resource of the server changes",
    "resources-unsubscribe": "removed in 2026-07-28; no resource of the server changes",
}
"""Scored scenarios of 2025-11-25 that fail, each with the reason."""


def main() -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revisions", nargs="*", metavar="REVISION", help=", ".join(REVISIONS))
    parser.add_argument("--environment", type=Path, default=Path("runs/conformance"))
    parser.add_argument("--without-fixtures", action="store_true")
    parser.add_argument("--csv", type=Path, help="write a row for each scenario")
    arguments = parser.parse_args()
    folder = arguments.environment.absolute()
    node, entry = install(folder)
    outcomes: list[Outcome] = []
    for revision in arguments.revisions or REVISIONS:
        fixtures = not arguments.without_fixtures
        with tempfile.TemporaryDirectory() as home, serving(Path(home), fixtures=fixtures) as url:
            outcomes += run(node, entry, url, revision, folder / "results" / revision)
    print(report(outcomes))
    if arguments.csv:
        write(outcomes, arguments.csv)
    return int(any(unexpected(outcome) for outcome in outcomes))


def unexpected(outcome: Outcome) -> bool:
    """Return whether a scored scenario ended otherwise than it should."""
    return outcome.scored and bool(outcome.problems) != (outcome.scenario in DEPRECATED)


def report(outcomes: Sequence[Outcome]) -> str:
    """Return counts for each revision, and the checks that failed."""
    lines = [f"MCP conformance {VERSION}", "", "| revision | scored scenarios | not scored |"]
    lines.append("|---|---|---|")
    for revision in dict.fromkeys(outcome.revision for outcome in outcomes):
        shares = []
        for scored in (True, False):
            mine = [o for o in outcomes if (o.revision, o.scored) == (revision, scored)]
            shares.append(f"{sum(not o.problems for o in mine)} of {len(mine)}")
        lines.append(f"| {revision} | {' | '.join(shares)} |")
    for outcome in outcomes:
        note = "" if outcome.scored else " (not scored)"
        reason = f" [{DEPRECATED[outcome.scenario]}]" if outcome.scenario in DEPRECATED else ""
        for problem in outcome.problems:
            lines.append(f"{outcome.revision} {outcome.scenario}{note}: {problem}{reason}")
    return "\n".join(lines)


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a row for each scenario."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["revision", "scenario", "scored", "passed", "failed", "skipped"])
        for o in sorted(outcomes, key=lambda o: (o.revision, not o.scored, o.scenario)):
            counts = [o.passed, len(o.problems), o.untested]
            table.writerow([o.revision, o.scenario, str(o.scored).lower(), *counts])


if __name__ == "__main__":
    sys.exit(main())
