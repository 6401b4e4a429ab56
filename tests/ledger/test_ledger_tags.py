"""Tags: what people call groups of experiments, and how they find them by it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from lingshu_tools.archive import export_ledger, import_ledger
from lingshu_tools.cli import main
from lingshu_tools.errors import InputError, LedgerError, LingshuError, NotFoundError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome

New = Callable[..., NewExperiment]
NO_TAGS = ["a\n", "a\nb", "a\u2028b", "x" * 61, "x" * 100_000, "", " a", "a\tb", "é", "-a"]
OLD = Path(__file__).with_name("fixtures") / "schema-0001.db"


def listed(ledger: Ledger, **wanted: str) -> list[str]:
    result: list[str] = []
    before: str | None = None
    while True:
        page = ledger.find(**wanted, before=before, limit=2)  # type: ignore[arg-type]
        result += [item.experiment.id for item in page.items]
        if (before := page.next_before) is None:
            return result


@pytest.fixture
def built(database: str, home: Path, new: New) -> tuple[Ledger, list[str]]:
    """Seven experiments, every other one a pilot."""
    ledger = Ledger.open(home)
    ids: list[str] = []
    for seed in range(7):
        tags = ["pilot", "plate 3"] if seed % 2 == 0 else []
        ids.append(ledger.begin(new(seed=seed), tags=tags).id)
    return ledger, ids


def test_experiments_are_found_by_tag_in_pages_newest_first(
    built: tuple[Ledger, list[str]],
) -> None:
    ledger, ids = built
    assert listed(ledger, tag="pilot") == ids[::-2]
    assert listed(ledger, tag="Pilot") == []
    assert ledger.tags(ids[:2]) == {ids[0]: ["pilot", "plate 3"]}
    assert ledger.verify().ok


def test_a_tag_goes_together_with_the_other_filters(built: tuple[Ledger, list[str]]) -> None:
    ledger, ids = built
    for name in (ids[0], ids[1], ids[4]):
        with ledger.attempt(name) as attempt:
            ledger.seal(attempt, NewOutcome(kind="failed", error="no"))
    assert listed(ledger, tag="pilot", status="failed") == [ids[4], ids[0]]
    assert listed(ledger, tag="pilot", status="queued") == [ids[6], ids[2]]
    assert listed(ledger, tag="pilot", text='"n_cells":8') == ids[::-2]


def test_a_tag_is_given_once_and_later_too(built: tuple[Ledger, list[str]]) -> None:
    ledger, ids = built
    assert ledger.tag(ids[1], ["pilot"], principal="ana") == ["pilot"]
    head = ledger.head()
    assert ledger.tag(ids[1], ["pilot"]) == ["pilot"]
    assert ledger.head() == head
    assert listed(ledger, tag="pilot")[-2:] == [ids[1], ids[0]]


@pytest.mark.parametrize("name", ["", " pilot", "pi\nlot", "pilot\u202e", "a" * 61, "-x"])
def test_what_is_no_tag_is_refused_and_nothing_is_begun(
    name: str, ledger: Ledger, new: New
) -> None:
    with pytest.raises(InputError, match="is no tag"):
        ledger.begin(new(), tags=["good", name])
    assert ledger.find().items == ()


@pytest.mark.parametrize("tag", NO_TAGS)
def test_the_command_line_takes_no_tag_longer_than_a_line(
    ledger: Ledger, new: New, home: Path, tag: str
) -> None:
    begun = ledger.begin(new())
    line = ["--home", str(home), "ledger", "tag", begun.id, "--", tag]
    shown = CliRunner().invoke(main, line)
    assert (shown.exit_code, "is no tag" in shown.output) == (1, True), shown.output
    assert ledger.tags([begun.id]) == {}


@pytest.mark.parametrize("tag", NO_TAGS)
def test_an_archive_with_a_tag_longer_than_a_line_is_refused(
    ledger: Ledger, new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    with monkeypatch.context() as careless:
        for module in ("tagging", "checking"):
            careless.setattr(f"lingshu_tools.ledger.{module}.is_tag", lambda _: True)
        ledger.begin(new(), tags=[tag])
        archive = export_ledger(ledger, tmp_path / "a.zip").path
    (problem,) = ledger.verify().problems
    assert "is no tag" in str(problem)
    with pytest.raises(LedgerError, match="is no tag"):
        export_ledger(ledger, tmp_path / "b.zip")
    with pytest.raises(LingshuError, match=r"was not let in.*is no tag"):
        import_ledger(archive, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_experiment_that_is_not_there_is_not_tagged(ledger: Ledger) -> None:
    with pytest.raises(NotFoundError):
        ledger.tag("exp_none", ["pilot"])


def test_a_ledger_of_an_older_schema_has_no_tags_and_says_how_to_have_them(
    home: Path, new: New
) -> None:
    home.mkdir()
    shutil.copy(OLD, home / "experiments.db")
    ledger = Ledger.open(home)
    experiment = ledger.begin(new(seed=99))
    assert ledger.tags([experiment.id]) == {}
    assert listed(ledger, tag="pilot") == []
    with pytest.raises(LedgerError, match="ledger migrate"):
        ledger.tag(experiment.id, ["pilot"])
    assert ledger.tag(experiment.id, []) == []


def test_nobody_s_tags_are_looked_up_without_a_question(ledger: Ledger) -> None:
    assert ledger.tags([]) == {}
