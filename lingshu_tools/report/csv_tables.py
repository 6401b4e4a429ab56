"""Numbers as CSV for spreadsheets: numbers stay numbers, and no text is taken for a formula."""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet would run."""


def cell(value: Any) -> Any:
    """Return a value fit for a spreadsheet: text that it would run gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Return how many rows were written to `path`, at least one, under the keys of the first."""
    # Renamed when it is whole, so that a reader never sees half a table. The process id keeps
    # two writers apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    with temporary.open("w", newline="", encoding="utf-8") as handle:
        # Ends lines with CR LF, and so quotes a lone CR too: text cannot begin a row of its own.
        writer = csv.writer(handle)
        for count, row in enumerate(rows, 1):
            if count == 1:
                writer.writerow(map(cell, row))
            writer.writerow(map(cell, row.values()))
    temporary.replace(path)
    return count
