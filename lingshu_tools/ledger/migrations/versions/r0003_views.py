"""Adds views with plain names, for people with a SQL prompt: `experiments` and `screens`.

Written out rather than taken from the code, which may change.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

_EXPERIMENTS = (
    "CREATE VIEW experiments AS SELECT e.id, e.created_at AS begun_at, CASE"
    " WHEN o.kind IS NOT NULL THEN o.kind"
    " WHEN EXISTS (SELECT 1 FROM attempt a WHERE a.experiment_id = e.id)"
    " THEN 'running or interrupted' ELSE 'queued' END AS status,"
    " e.tool, e.perturbation, e.context, e.checkpoint, e.seed,"
    " e.parent AS screen_or_replayed, e.principal AS asked_by, e.door AS asked_through,"
    " o.created_at AS ended_at, o.seconds, o.error, e.request, o.result"
    " FROM experiment e LEFT JOIN outcome o ON o.experiment_id = e.id"
)
_SCREENS = (
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
)


def upgrade() -> None:
    """Make the views."""
    op.execute(_EXPERIMENTS)
    op.execute(_SCREENS)
