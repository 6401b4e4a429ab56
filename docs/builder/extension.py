"""What the site needs of Sphinx: generated reference pages, links to folders, the first page."""

import re
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from docs.builder import reference

ROOT = Path(__file__).parents[2]
GENERATED = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)")
FIRST_PAGE = '<!doctype html><meta charset="utf-8"><title>lingshu-tools</title>\n' \
    '<meta http-equiv="refresh" content="0; url=docs/index.html">' \
    '<a href="docs/index.html">lingshu-tools</a>\n'  # fmt: skip


def source_read(_: Sphinx, name: str, content: list[str]) -> None:
    """Put generated text where a page marks its place, and mend links that a site cannot have."""
    text = GENERATED.sub(lambda mark: reference.PAGES[mark[1]](), content[0])
    folder = (ROOT / name).parent
    content[0] = LINK.sub(lambda link: _link(link, folder), text)


def _link(link: re.Match[str], folder: Path) -> str:
    target = (folder / link[2]).resolve()
    if target.is_dir():
        return link[1]  # a folder of the repository has no page
    if target == ROOT / "README.md":
        return f"[{link[1]}](/docs/index.md)"
    return link[0]


def build_finished(app: Sphinx, error: Exception | None) -> None:
    """Lead from the site's root to its first page."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "index.html").write_text(FIRST_PAGE, "utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what Sphinx calls."""
    app.add_lexer("mermaid", TextLexer)
    app.connect("source-read", source_read)
    app.connect("build-finished", build_finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
