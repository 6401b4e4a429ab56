"""The reference has everything that the code has, and every page is in the contents."""

import re
from pathlib import Path

import pytest

from docs.builder import reference
from docs.builder.commands import listed
from lingshu_model.train.spec import TrainingSpec
from lingshu_tools.calls.registry import registry
from lingshu_tools.ledger.schema import TABLES

DOCS = Path(__file__).parents[2] / "docs"
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def sections(text: str) -> dict[str, str]:
    """Return the text under each heading of the second level, by its name."""
    return {part.split("\n", 1)[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)}


def test_the_tools_have_every_argument():
    parts = sections(reference.tools())
    for name, spec in registry().items():
        missing = [a for a in spec.input_schema["properties"] if f"| `{a}` |" not in parts[name]]
        assert not missing, name


def test_the_results_have_every_field_and_every_part():
    text = reference.results()
    headings = set(HEADING.findall(text))
    for name, spec in registry().items():
        schema = spec.output_schema
        assert name in headings
        assert set(schema.get("$defs", {})) <= headings
        assert not [field for field in schema["properties"] if f"| `{field}` |" not in text], name


def test_the_command_line_has_every_command():
    headings = HEADING.findall(reference.command_line())
    assert headings == [path for path, _ in listed()]
    assert {"lingshu train", "lingshu serve tokens add"} <= set(headings)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("lingshu train", "--recipe [default\\|effects"),
        ("lingshu evaluate", "--n-cells"),
        ("lingshu engine run", "--ranks"),
        ("lingshu data inspect", "--gene-names COLUMN"),
        ("lingshu replay", "--sample PERCENT"),
    ],
)
def test_options_are_those_of_the_module_that_a_command_starts(command: str, option: str):
    assert f"`{option}" in sections(reference.command_line())[command]


def test_the_training_options_have_every_field_and_what_is_said_of_it():
    part = sections(reference.training())["TrainingSpec"]
    assert all(f"| `{name}` |" in part for name in TrainingSpec.model_fields)
    assert "The obs column of the dose of a perturbed cell" in part


def test_the_ledger_has_every_column():
    parts = sections(reference.ledger())
    for table in TABLES.values():
        assert all(f"| `{column.name}` |" in parts[table.name] for column in table.columns)


def test_every_generated_part_is_on_a_page():
    pages = "".join(path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md"))
    assert sorted(re.findall(r"<!-- generated: ([a-z-]+) -->", pages)) == sorted(reference.PAGES)


def test_every_page_is_in_the_contents():
    index = (DOCS / "index.md").read_text("utf-8")
    entries = set(re.findall(r"^[\w./-]+$", index, re.MULTILINE))
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    # Decisions have contents of their own, by a pattern.
    pages = {p for p in pages if not p.startswith(("_site", "decisions/"))} - {"index"}
    assert pages | {"decisions/index"} <= entries
