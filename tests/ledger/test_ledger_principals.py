"""One ledger as one principal sees it: what others recorded is not found."""

from collections.abc import Callable

import pytest

from lingshu_tools.errors import NotFoundError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome

New = Callable[..., NewExperiment]
pytestmark = pytest.mark.usefixtures("database")


def test_experiments_and_screens_of_others_are_not_found_and_never_offered(
    ledger: Ledger, new: New
) -> None:
    of_alice = ledger.begin(new(principal="alice"))
    of_bob = ledger.begin(new(principal="bob"))
    screen = ledger.record_screen({}, principal="alice")
    seen = ledger.as_seen_by("bob")
    assert seen.experiment(of_bob.id) == of_bob
    for inspect in (
        lambda: seen.experiment(of_alice.id),
        lambda: seen.screen(screen.id),
        lambda: seen.status(of_alice.id),
        lambda: seen.tag(of_alice.id, ["mine"]),
        lambda: seen.cancel(of_alice.id),
        lambda: seen.cancel_many([of_bob.id, of_alice.id]),
    ):
        with pytest.raises(NotFoundError) as refused:
            inspect()
        # Its own id is in the text, and no other of alice's.
        text = str(refused.value).replace(of_alice.id, "", 1).replace(screen.id, "", 1)
        assert of_alice.id not in text
        assert screen.id not in text
    assert ledger.statuses([of_alice.id, of_bob.id]) == dict.fromkeys(
        (of_alice.id, of_bob.id), "queued"
    )
    assert not ledger.cancellations([of_alice.id, of_bob.id])
    assert [item.experiment for item in seen.find().items] == [of_bob]
    assert seen.find(text=of_alice.id).items == ()
    assert seen.find_screens() == []
    assert ledger.find_screens() == [screen]
    assert len(ledger.find().items) == 2


def test_what_a_principal_records_is_in_the_one_chain(ledger: Ledger, new: New) -> None:
    seen = ledger.as_seen_by("alice")
    created = seen.begin(new(principal="alice"))
    with seen.attempt(created.id) as attempt:
        seen.seal(attempt, NewOutcome(kind="failed", error="no"))
    assert ledger.outcome(created.id)
    assert seen.head() == ledger.head()
    assert ledger.verify().ok


def test_many_experiments_are_read_and_asked_for_outcomes_at_once(ledger: Ledger, new: New) -> None:
    created = ledger.begin_many([new(seed=s) for s in range(1200)])
    for experiment in created[:2]:
        with ledger.attempt(experiment.id) as attempt:
            ledger.seal(attempt, NewOutcome(kind="failed", error="no"))
    ids = [experiment.id for experiment in created]
    assert ledger.experiments([*reversed(ids), "exp_none"]) == created
    assert ledger.sealed([*ids, "exp_none"]) == set(ids[:2])
    assert ledger.sealed([]) == set()
