"""Words that this project does not use, and where a checkout has them.

`python tests/words.py [ROOT]` prints how often each occurs. Names are what a module binds:
variables, parameters, functions, classes, fields, modules. Texts are comments, strings, Markdown.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("lingshu_tools/", "model/", "mcp_server/", "benchmarks/", "tests/")
NAMES = {
    "tilt": "effect_offset",
    "theta": "effect_offset",
    "law": "distribution",
    "birth": "initialisation",
    "born": "initialised",
    "goal": "target_change",
    "reach": "unseen_targets",
    "ceiling": "largest_token",
    "bound": "nll",
    "look": "evaluation",
    "standing": "status_index",
    "room": "free_space",
    "board": "job_queue",
    "crew": "ranks",
    "way": "path",
    "sham": "null_label",
    "honesty": "evidence",
}
"""A part of a name, in the singular, and what to write instead."""
WHOLE_NAMES = frozenset(["told", "found", "made", "asked", "one", "ones", "done", "own", "whoever"])
"""Names that do not say what the value is; `n_done` and `row_found` do."""
ALLOWED_NAMES = re.compile(r"noise_?ceiling|NOISE_CEILING|has_ceiling|under_way|boundary|bounded")
TEXTS = {
    r"(?<!exponential )\btilt(s|ed)?\b": "effect offset",
    r"\btheta\b": "effect offset",
    r"\blaws?\b": "count distribution",
    r"\b(birth|born)\b": "data-dependent initialisation",
    r"\breach of\b": "effects for unseen targets",
    r"(?<!noise )\bceilings?\b": "largest observed token",
    r"\b(first|second|third|ninth|last|nine|three) looks?\b": "evaluation on the test set",
    r"\b(crew|job board|of good standing)\b": "ranks, job queue, status index",
    r"(?<![\"'`])\bshams?\b(?![\"'`-])": "null label",
    r"\bKnows\s+nothing\s+of\b": "say what the module does",
    r"\bwhoever\b": "the process that, the caller that",
    r"\b(ere|lest|wherein|whereof|thereof|hereof|whence|thence|aught|naught|hitherto)\b": "modern",
}
"""Patterns that are searched for without regard to case, and what to write instead."""


@dataclass(frozen=True)
class Use:
    """A banned word in a file."""

    path: str
    line: int
    word: str
    shown: str

    def __str__(self) -> str:
        instead = NAMES.get(self.word) or TEXTS.get(self.word) or "what the value is"
        return f"{self.path}:{self.line}: {self.shown!r}: write {instead}"


def uses(root: Path = ROOT) -> Iterator[Use]:
    """Yield every use of a banned word in the files that git has."""
    listing = subprocess.run(
        ["git", "-C", str(root), "ls-files", "*.py", "*.md"],
        capture_output=True,
        text=True,
        check=True,
    )
    for path in listing.stdout.split():
        # These two name the words.
        if path in ("tests/words.py", "tests/test_words.py") or not (root / path).exists():
            continue
        text = (root / path).read_text("utf-8")
        if path.endswith(".md"):
            yield from _in_text(path, 1, text)
        elif path.startswith(CODE):
            yield from _in_names(path, text)
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                if token.type in (tokenize.COMMENT, tokenize.STRING):
                    yield from _in_text(path, token.start[0], token.string)


def _in_text(path: str, line: int, text: str) -> Iterator[Use]:
    for word in TEXTS:
        for match in re.finditer(word, text, re.IGNORECASE):
            yield Use(path, line + text.count("\n", 0, match.start()), word, match.group())


def _in_names(path: str, text: str) -> Iterator[Use]:
    yield from _parts(path, 1, Path(path).stem)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield from _parts(path, node.lineno, node.id)
        elif isinstance(node, ast.arg):
            yield from _parts(path, node.lineno, node.arg)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from _parts(path, node.lineno, node.attr)
        elif isinstance(
            node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and not node.name.startswith("test_"):  # a test's name is a sentence
            yield from _parts(path, node.lineno, node.name)


def _parts(path: str, line: int, name: str) -> Iterator[Use]:
    if (whole := name.strip("_").lower()) in WHOLE_NAMES:
        yield Use(path, line, whole, name)
    for part in re.findall(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]*", ALLOWED_NAMES.sub("", name)):
        for word in (part.lower(), part.lower().removesuffix("s")):
            if word in NAMES:
                yield Use(path, line, word, name)
                break


if __name__ == "__main__":
    every = list(uses(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
    counts = Counter((use.path.split("/")[0], use.word) for use in every)
    for (place, word), number in sorted(counts.items(), key=lambda item: (item[0][1], -item[1])):
        sys.stdout.write(f"{number:6d}  {place:16s} {word}\n")
    sys.stdout.write(f"{len(every)} in all\n")
