"""Adds `standing`, by which experiments are found by status, filled and kept by triggers.

Written out rather than taken from the code, which may change.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = (
    "CREATE TABLE standing (seq INTEGER NOT NULL, status TEXT NOT NULL,"
    " CONSTRAINT pk_standing PRIMARY KEY (seq)) STRICT",
    "CREATE INDEX ix_standing_status_seq ON standing (status, seq)",
    "CREATE TRIGGER standing_begins AFTER INSERT ON experiment BEGIN"
    " INSERT OR REPLACE INTO standing (seq, status) VALUES (NEW.seq, 'open'); END",
    "CREATE TRIGGER standing_ends AFTER INSERT ON outcome BEGIN"
    " UPDATE standing SET status = NEW.kind"
    " WHERE seq = (SELECT seq FROM experiment WHERE id = NEW.experiment_id); END",
    "INSERT INTO standing (seq, status) SELECT e.seq, coalesce(o.kind, 'open')"
    " FROM experiment e LEFT JOIN outcome o ON o.experiment_id = e.id",
)


def upgrade() -> None:
    """Make the table, its index and its triggers, and fill it."""
    for statement in _STATEMENTS:
        op.execute(statement)
