"""Code blocks of the pages: commands parse, calls fit their tool's schema, Python compiles."""

from pathlib import Path

import pytest

from docs.builder.blocks import Block, blocks, lines, pages, problems

ROOT = Path(__file__).parents[2]
PAGES = [page for page in pages() if next(blocks(page), None)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_is_right(page: Path):
    wrong = [f"{block}: {problem}" for block in blocks(page) for problem in problems(block)]
    assert not wrong


def test_the_pages_have_blocks_of_every_kind():
    languages = [block.language for page in PAGES for block in blocks(page)]
    assert languages.count("") > 30
    assert languages.count("python") > 5
    assert "json" in languages


@pytest.mark.parametrize(
    ("language", "body"),
    [
        ("", "lingshu trian my.h5ad"),
        ("", "lingshu"),
        ("", "lingshu ledger"),
        ("", "lingshu train my.h5ad --perturbations gene"),
        ("", "lingshu train"),
        ("", "lingshu data inspect"),
        ("", "lingshu install claude"),
        ("", "lingshu ledger list --limit many"),
        ("", "lingshu engine run --home H --rank 2"),
        ("", "lingshu-mcp --tools few"),
        ("", "lingshu call perturb '{}'"),
        ("", "lingshu call perturb_cells '{\"intervention\": []}'"),
        ("", 'lingshu call perturb_cells \'{"interventions": [{"kind": "knockout"}]}\''),
        ("", "lingshu call perturb_cells '{\"interventions\": '"),
        ("", "make doc"),
        ("", "python -m benchmarks.nothing"),
        ("", "python docs/nothing.py"),
        ("", "accelerate launch -m lingshu_model.train SPEC.json --rank 4"),
        ("", "uvx --from 'lingshu-tools[all]' lingshu docter"),
        ("", "frobnicate"),
        ("", "benchmarks/gpu/walk"),
        ("bash", "if true; then"),
        ("python", "lab.run_screen("),
        ("json", '{"sources": [], "name": "x"}'),
        ("json", "{'a': 1}"),
        ("json", '{"a": 1}'),
        ("json", '{"mcpServers": {"lingshu": {"command": "lingshu-mcp", "args": ["--tool"]}}}'),
        ("toml", "a = "),
        ("console", "lingshu demo"),
    ],
)
def test_a_mistake_in_a_block_is_reported(language: str, body: str):
    assert list(problems(Block(ROOT / "README.md", 1, language, body)))


@pytest.mark.parametrize(
    ("language", "body"),
    [
        ("", "LINGSHU_LEDGER=postgresql+psycopg://user@host/db lingshu serve"),
        ("", "lingshu --home H ledger list --json"),
        ("", "lingshu serve --http 127.0.0.1:8931   # in another terminal"),
        ("", "lingshu replay --sample 1%"),
        ("", "lingshu train --help"),
        ("", "make crash KILLS=10"),
        ("", "benchmarks/gpu/run --out gpu.csv"),
        ("json", '{"mcpServers": {"lingshu": {"command": "/x/lingshu-mcp", "args": []}}}'),
        ("json", '{"tool": "find_genes", "arguments": {"names": ["STAT1"]}}'),
    ],
)
def test_what_is_right_is_accepted(language: str, body: str):
    assert not list(problems(Block(ROOT / "README.md", 1, language, body)))


def test_a_command_may_span_lines():
    body = (
        'lingshu call find_genes \'{"names":\n  ["STAT1"]}\'\nlingshu train \\\n  my.h5ad\nmake\n'
    )
    assert [line.split()[0] for line in lines(body)] == ["lingshu", "lingshu", "make"]
    assert len(lines(body)) == 3
