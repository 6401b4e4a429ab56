"""A forger who knows the hash contract, owns the file and makes a whole new chain."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from lingshu_tools.ledger import Head, Ledger, NewExperiment, NewOutcome
from lingshu_tools.ledger.chain import hash_link, hash_row

New = Callable[..., NewExperiment]


@pytest.fixture
def heads(ledger: Ledger, new: New) -> list[Head]:
    """The heads that three results carried away."""
    result: list[Head] = []
    for seed in range(3):
        with ledger.attempt(ledger.begin(new(seed=seed)).id) as attempt:
            ledger.seal(attempt, NewOutcome(kind="succeeded", result={"score": seed}))
        result.append(ledger.head())
    return result


def forge(ledger: Ledger, change: str) -> None:
    """Change rows, hash everything anew, and put the triggers back as they were."""
    with closing(sqlite3.connect(ledger.database)) as connection:
        connection.row_factory = sqlite3.Row
        kept = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = [tuple(row) for row in kept]
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(change)
        previous = ""
        for seq, kind in connection.execute("SELECT seq, kind FROM chain ORDER BY seq").fetchall():
            query = f"SELECT * FROM {kind} WHERE seq = ?"
            row_hash = hash_row(kind, dict(connection.execute(query, [seq]).fetchone()))
            previous = hash_link(previous, seq, row_hash)
            new = "UPDATE chain SET row_hash = ?, hash = ? WHERE seq = ?"
            connection.execute(new, [row_hash, previous, seq])
        for _, sql in triggers:
            connection.execute(sql)
        connection.commit()


def test_a_chain_made_anew_deceives_only_who_kept_no_head_from_after_the_change(
    ledger: Ledger, heads: list[Head]
) -> None:
    # The second of three results is made better than it was.
    forge(ledger, "UPDATE outcome SET result = '{\"score\":9}' WHERE result = '{\"score\":1}'")
    # What is promised: evidence against somebody who cannot reach every witness.
    assert ledger.verify().ok
    assert ledger.verify(anchors=heads[:1]).ok
    for head in heads[1:]:
        (problem,) = ledger.verify(anchors=[head]).problems
        assert problem.seq == head.seq
        assert "history rewritten" in problem.what


def test_the_heads_beside_the_database_are_such_a_witness(
    ledger: Ledger, heads: list[Head]
) -> None:
    Ledger.open(ledger.database.parent)
    forge(ledger, "UPDATE experiment SET seed = 7 WHERE seed = 2")
    result = [problem.what for problem in ledger.verify().problems]
    assert len(result) == 1
    assert "history rewritten" in result[0]
