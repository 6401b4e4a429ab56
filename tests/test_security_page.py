"""The page on security names, for each promise, tests that there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "SECURITY.md"
ROW = re.compile(r"^\| (?P<promise>[^|]+) \| (?P<tests>[^|]+) \|$", re.M)


def rows() -> dict[str, list[str]]:
    """Return the promises of the table, and the files that it names for each."""
    table = PAGE.read_text("utf-8").partition("## How it is tested")[2].partition("\n## ")[0]
    return {
        match["promise"]: re.findall(r"`([^`]+)`", match["tests"])
        for match in ROW.finditer(table)
        if match["promise"] != "promise" and not match["promise"].startswith("-")
    }


def files(names: list[str]) -> Iterator[Path]:
    """Yield the files named; a bare name lies beside the one before it."""
    folder = ROOT
    for name in names:
        path = ROOT / name if "/" in name else folder / name
        folder = path.parent
        yield path


def test_every_promise_names_a_file_that_holds_tests():
    promises = rows()
    assert len(promises) >= 30
    for promise, names in promises.items():
        assert names, promise
        for path in files(names):
            assert path.is_file(), f"{promise}: {path} does not exist"
            functions = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if is_test(n)]
            assert functions, f"{promise}: {path} holds no test"


def test_every_file_named_elsewhere_on_the_page_is_there():
    for name in re.findall(r"`(tests/[^`]+\.py)`", PAGE.read_text("utf-8")):
        assert (ROOT / name).is_file(), name


def is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
        "test_"
    )
