"""What is worked out from the rows and can be made again: where experiments stand, and views.

`standing` finds experiments by status without looking at every one of them; triggers keep it, so
any program that adds rows does. It decides what is looked at, never what is said: a status that is
shown comes from the outcome itself. The views are for people with a SQL prompt. A lock is no row,
so to a view an unsealed attempt is `running or interrupted`.
"""

from sqlalchemy import Connection, delete, func, insert, select

from lingshu_tools.ledger.migrations import FIRST_VIEWS, HEAD, STANDING
from lingshu_tools.ledger.schema import derived, experiment, outcome, standing

OPEN = "open"

TRIGGERS = {
    "standing_begins": (
        "CREATE TRIGGER standing_begins AFTER INSERT ON experiment BEGIN"
        " INSERT OR REPLACE INTO standing (seq, status) VALUES (NEW.seq, 'open'); END"
    ),
    "standing_ends": (
        "CREATE TRIGGER standing_ends AFTER INSERT ON outcome BEGIN"
        " UPDATE standing SET status = NEW.kind"
        " WHERE seq = (SELECT seq FROM experiment WHERE id = NEW.experiment_id); END"
    ),
}
VIEWS = {
    "experiments": (
        "CREATE VIEW experiments AS SELECT e.id, e.created_at AS begun_at, CASE"
        " WHEN o.kind IS NOT NULL THEN o.kind"
        " WHEN EXISTS (SELECT 1 FROM attempt a WHERE a.experiment_id = e.id)"
        " THEN 'running or interrupted' ELSE 'queued' END AS status,"
        " e.tool, e.perturbation, e.context, e.checkpoint, e.seed,"
        " e.parent AS screen_or_replayed, e.principal AS asked_by, e.door AS asked_through,"
        " o.created_at AS ended_at, o.seconds, o.error, e.request, o.result"
        " FROM experiment e LEFT JOIN outcome o ON o.experiment_id = e.id"
    ),
    "screens": (
        "CREATE VIEW screens AS SELECT s.id, s.created_at AS planned_at,"
        " s.principal AS planned_by, count(e.id) AS experiments,"
        " count(CASE WHEN o.kind = 'succeeded' THEN 1 END) AS succeeded,"
        " count(CASE WHEN o.kind = 'failed' THEN 1 END) AS failed,"
        " count(CASE WHEN o.kind = 'cancelled' THEN 1 END) AS cancelled,"
        " count(e.id) - count(o.kind) AS unfinished,"
        " (SELECT count(*) FROM measurement m WHERE m.screen_id = s.id) AS measurements"
        " FROM screen s LEFT JOIN experiment e ON e.parent = s.id"
        " LEFT JOIN outcome o ON o.experiment_id = e.id"
        " GROUP BY s.seq, s.id, s.created_at, s.principal"
    ),
}


def create(connection: Connection, at: str = HEAD) -> None:
    """Make what a revision has of this (table, triggers, views) in the transaction that is open."""
    if at >= STANDING:
        derived.create_all(connection, checkfirst=False)
    triggers = TRIGGERS if at >= STANDING else {}
    views = VIEWS if at >= FIRST_VIEWS else {}
    for statement in (*triggers.values(), *views.values()):
        connection.exec_driver_sql(statement)


def rebuild(connection: Connection) -> None:
    """Work out anew where every experiment stands."""
    connection.execute(delete(standing))
    connection.execute(insert(standing).from_select(["seq", "status"], _true))


def wrong(connection: Connection, start: int, end: int) -> list[tuple[int, str, str | None]]:
    """Return (seq, derived, kept) of the experiments in a range whose `standing` is not derived."""
    true = _true.where(experiment.c.seq.between(start, end)).subquery()
    query = select(true.c.seq, true.c.status, standing.c.status.label("kept"))
    query = query.outerjoin(standing, standing.c.seq == true.c.seq)
    query = query.where(true.c.status.is_distinct_from(standing.c.status))
    strays = select(standing.c.seq).where(standing.c.seq.between(start, end))
    strays = strays.where(standing.c.seq.not_in(select(experiment.c.seq)))
    rows = [(seq, status, kept) for seq, status, kept in connection.execute(query)]
    return rows + [(seq, "no experiment", "something") for seq in connection.scalars(strays)]


_true = select(experiment.c.seq, func.coalesce(outcome.c.kind, OPEN).label("status")).outerjoin(
    outcome, outcome.c.experiment_id == experiment.c.id
)
