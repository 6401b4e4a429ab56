"""The error texts in the headings of docs/troubleshooting.md, and whether the code has them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
PARTS = ("lingshu_tools", "model/lingshu_model", "mcp_server/lingshu_mcp")
HEADING = re.compile(r"^### (?P<ticks>`+)(?P<text>.+)(?P=ticks)$", re.MULTILINE)


def headings(page: str) -> list[str]:
    """Return the texts that a page's headings promise."""
    return [heading["text"] for heading in HEADING.finditer(page)]


def is_produced(heading: str, templates: frozenset[str]) -> bool:
    """Return whether one text of the code has the heading in it, `…` being any value."""
    parts = [re.escape(part) for part in heading.split("…")]
    pattern = re.compile(r"[^\n]*?".join(parts))
    return any(pattern.search(template) for template in templates)


@cache
def templates() -> frozenset[str]:
    """Return every text in the code but docstrings, with `…` for the values of f-strings."""
    files = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    texts = {text for path in files for text in _texts(ast.parse(path.read_text("utf-8")))}
    # The Makefile checks the version before there is an environment.
    makefile = (ROOT / "Makefile").read_text("utf-8")
    texts |= {re.sub(r"\{\w+\}", "…", line) for line in makefile.splitlines()}
    return frozenset(texts)


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        yield "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.sub(r"\{\w*\}", "…", node.value)
    else:
        for child in ast.iter_child_nodes(node):
            if not _is_docstring(child):
                yield from _texts(child)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
