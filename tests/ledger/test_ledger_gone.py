"""A ledger whose file is moved, deleted or replaced under a process that has it open."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger import Ledger, NewExperiment

New = Callable[..., NewExperiment]


def gone_whole(home: Path) -> None:
    shutil.rmtree(home)


def gone_alone(home: Path) -> None:
    (home / "experiments.db").unlink()


def moved(home: Path) -> None:
    home.rename(home.with_name("moved"))


def replaced_by_a_file(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("not a folder")


@pytest.mark.parametrize("change", [gone_whole, gone_alone, moved, replaced_by_a_file])
def test_a_ledger_that_is_gone_is_named_and_no_other_is_made(
    ledger: Ledger, home: Path, new: New, change: Callable[[Path], None]
) -> None:
    ledger.begin(new())
    change(home)
    for use in (ledger.head, lambda: ledger.begin(new()), ledger.find):
        with pytest.raises(LedgerError, match=r"experiments\.db is gone: .*restart this process"):
            use()
    assert not (home / "experiments.db").exists()


def test_a_ledger_that_comes_back_is_used_again(ledger: Ledger, home: Path, new: New) -> None:
    first = ledger.begin(new())
    moved(home)
    with pytest.raises(LedgerError, match="is gone"):
        ledger.head()
    home.with_name("moved").rename(home)
    assert ledger.experiment(first.id) == first
    ledger.begin(new())
    assert ledger.verify().ok


def test_another_ledger_in_its_place_is_not_written(ledger: Ledger, home: Path, new: New) -> None:
    ledger.begin(new())
    other_home = home.with_name("other")
    Ledger.open(other_home)
    # Not deleted first: the new file could get the number of the old one.
    (other_home / "experiments.db").rename(home / "experiments.db")
    other = Ledger.open(home)
    for use in (ledger.head, lambda: ledger.begin(new())):
        with pytest.raises(LedgerError, match="is another file now: it was replaced"):
            use()
    assert other.head().seq == 1
    other.begin(new())
