"""Finding experiments."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from lingshu_tools.errors import InputError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, Page, listing
from lingshu_tools.ledger.search import Search

New = Callable[..., NewExperiment]
pytestmark = pytest.mark.usefixtures("database")


def seeds(page: Page) -> list[int]:
    return [item.experiment.seed for item in page.items]


def test_pages_go_from_new_to_old_and_miss_none(ledger: Ledger, new: New) -> None:
    ledger.begin_many([new(seed=s) for s in range(7)])
    first = ledger.find(limit=3)
    # What arrives while somebody reads does not shift the pages.
    ledger.begin(new(seed=99))
    second = ledger.find(limit=3, before=first.next_before)
    third = ledger.find(limit=3, before=second.next_before)
    assert [seeds(first), seeds(second), seeds(third)] == [[6, 5, 4], [3, 2, 1], [0]]
    assert third.next_before is None
    assert ledger.find(limit=8).next_before is None


def test_filters_narrow_together(ledger: Ledger, new: New) -> None:
    screen = ledger.record_screen({})
    created = ledger.begin_many(
        [
            new(seed=0, context="THP-1", perturbation="STAT1"),
            new(seed=1, context="THP-1", perturbation="JAK2", parent=screen.id),
            new(seed=2, context="CD14", perturbation="STAT1", checkpoint="pbmc"),
            new(seed=3, tool="sample_cells", request={"note": "50% of µ_cells"}),
        ]
    )
    assert seeds(ledger.find(context="THP-1")) == [1, 0]
    assert seeds(ledger.find(perturbation="STAT1", checkpoint="pbmc")) == [2]
    assert seeds(ledger.find(parent=screen.id)) == [1]
    assert seeds(ledger.find(tool="sample_cells")) == [3]
    assert seeds(ledger.find(text="stat1")) == [2, 1, 0]
    assert seeds(ledger.find(text="50% of µ_")) == [3]
    assert seeds(ledger.find(text="5_% of")) == []
    assert seeds(ledger.find(text=created[1].id)) == [1]
    assert seeds(ledger.find(request_digest=created[3].request_digest)) == [3]


def test_every_status_can_be_asked_for(ledger: Ledger, new: New) -> None:
    created = ledger.begin_many([new(seed=s) for s in range(6)])
    for seed, kind in ((0, "succeeded"), (1, "failed")):
        with ledger.attempt(created[seed].id) as attempt:
            ledger.seal(attempt, NewOutcome(kind=kind))
    ledger.cancel(created[2].id)
    ledger.attempt(created[3].id).close()
    with ledger.attempt(created[4].id):
        wanted = ("succeeded", "failed", "cancelled", "interrupted", "running", "queued")
        assert [seeds(ledger.find(status=s)) for s in wanted] == [[n] for n in range(6)]
        assert [i.status for i in ledger.find().items] == list(reversed(wanted))


def test_what_is_no_status_cursor_or_limit_is_an_error_that_teaches(ledger: Ledger) -> None:
    with pytest.raises(InputError, match=r"'succeded'.*Did you mean 'succeeded'"):
        ledger.find(status="succeded")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"before='exp_1'.*next_before"):
        ledger.find(before="exp_1")
    with pytest.raises(InputError, match="limit=0"):
        ledger.find(limit=0)


@pytest.mark.of_files
def test_text_is_looked_up_in_an_index_that_may_be_missing_stale_damaged_or_another_ledgers(
    ledger: Ledger, home: Path, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lingshu_tools.ledger.search._BATCH", 2)
    targets = ("STAT1", "JAK2", "stat3", "50% of µ_")
    ledger.begin_many([new(seed=s, request={"target": targets[s % 4]}) for s in range(12)])
    wanted = {
        "stat": [10, 8, 6, 4, 2, 0],
        "50% of µ_": [11, 7, 3],
        '"jak': [9, 5, 1],
        '2"': [9, 5, 1],
    }
    index = home / "experiments.db.search"

    def answers() -> dict[str, list[int]]:
        return {text: seeds(ledger.find(text=text)) for text in wanted}

    assert answers() == wanted
    assert index.is_file()
    # Indexed now; what comes later is found too, and pages go on across the seam.
    ledger.begin_many([new(seed=s, request={"target": "STAT1"}) for s in (12, 13)])
    monkeypatch.setattr(Search, "update", lambda self: False)
    first = ledger.find(text="stat1", limit=3)
    second = ledger.find(text="stat1", limit=3, before=first.next_before)
    assert [seeds(first), seeds(second)] == [[13, 12, 8], [4, 0]]
    assert seeds(Ledger.open_read_only(ledger.database).find(text="stat", limit=2)) == [13, 12]
    wanted["stat"][:0] = [13, 12]
    assert answers() == wanted
    connection = sqlite3.connect(index)
    connection.execute("UPDATE mark SET hash = 'of another ledger'")
    connection.commit()
    connection.close()
    assert answers() == wanted
    monkeypatch.undo()
    index.write_bytes(b"no database, but long enough to be taken for a damaged one" * 40)
    assert answers() == wanted
    index.unlink()
    assert answers() == wanted


@pytest.mark.of_files
@pytest.mark.parametrize(
    "damage",
    ["DROP TABLE words_data", "DELETE FROM words_data WHERE id > 10"],
    ids=["a table", "its rows"],
)
def test_a_damaged_index_is_left_for_the_rows(damage: str, ledger: Ledger, new: New) -> None:
    ledger.begin_many([new(seed=s) for s in range(3)])
    assert ledger._search.update()
    connection = sqlite3.connect(ledger._search.path)
    connection.execute(damage)
    connection.commit()
    connection.close()
    assert seeds(ledger.find(text="stat1")) == [2, 1, 0]


def plan(ledger: Ledger, wanted: listing.Filter, held: list[str] | None = None) -> list[str]:
    """How SQLite would look for a page."""
    query, place = wanted.query(held=held)
    with ledger._database.read() as connection:
        rendered = {"render_postcompile": True}
        numbers = listing.numbers(query, place, 9, 20)
        created = numbers.compile(connection.engine, compile_kwargs=rendered)
        values = tuple(created.params[name] for name in created.positiontup or ())
        return [
            row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {created}", values)
        ]


@pytest.mark.of_files
def test_no_long_row_is_sorted_for_a_page_of_a_principal(ledger: Ledger, new: New) -> None:
    ledger.begin_many([new(seed=s) for s in range(3)])
    wanted = listing.Filter(principal="local")
    sorts = [step for step in plan(ledger, wanted) if "ORDER BY" in step]
    query, place = wanted.query()
    selected = listing.numbers(query, place, None, 2).selected_columns.keys()
    assert selected == ["seq"] or not sorts
    view = ledger.as_seen_by("local", lambda _requests, record: record())
    first = view.find(limit=2)
    assert [seeds(first), seeds(view.find(limit=2, before=first.next_before))] == [[2, 1], [0]]


@pytest.mark.of_files
def test_what_is_rare_is_found_without_looking_at_every_experiment(ledger: Ledger) -> None:
    for wanted, index in (
        (listing.Filter(status="failed"), "ix_standing_status_seq"),
        (listing.Filter(status="queued"), "ix_standing_status_seq"),
        (listing.Filter(status="interrupted"), "ix_standing_status_seq"),
        (listing.Filter(tag="pilot"), "sqlite_autoindex_tag_1"),
    ):
        steps = plan(ledger, wanted)
        assert index in steps[0]
        assert "seq<?" in steps[0]
        assert not [step for step in steps if step.startswith(("SCAN", "USE TEMP"))]
    at_work = [f"exp_{n}" for n in range(100)]
    for held in ([], at_work[:1], at_work):
        steps = plan(ledger, listing.Filter(status="running"), held)
        assert not held or "(id=?" in steps[0]
        assert not [step for step in steps if step.startswith("SCAN experiment")]
