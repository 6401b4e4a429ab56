"""Finding experiments."""

from collections.abc import Callable

import pytest

from lingshu_tools.errors import InputError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, Page, listing

New = Callable[..., NewExperiment]


def seeds(page: Page) -> list[int]:
    return [item.experiment.seed for item in page.items]


def test_pages_go_from_new_to_old_and_miss_none(
    ledger: Ledger, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_BATCH", 2)
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
    made = ledger.begin_many(
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
    assert seeds(ledger.find(text=made[1].id)) == [1]
    assert seeds(ledger.find(request_digest=made[3].request_digest)) == [3]


def test_every_status_can_be_asked_for(ledger: Ledger, new: New) -> None:
    made = ledger.begin_many([new(seed=s) for s in range(6)])
    for seed, kind in ((0, "succeeded"), (1, "failed")):
        with ledger.attempt(made[seed].id) as attempt:
            ledger.seal(attempt, NewOutcome(kind=kind))
    ledger.cancel(made[2].id)
    ledger.attempt(made[3].id).close()
    with ledger.attempt(made[4].id):
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
