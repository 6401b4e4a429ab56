"""Adds `tag`, what people call groups of experiments, as insert-only as every chained table.

Written out rather than taken from the code, which may change.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

_STATEMENTS = (
    "CREATE TABLE tag (seq INTEGER NOT NULL, name TEXT NOT NULL, experiment_seq INTEGER NOT NULL,"
    " principal TEXT NOT NULL, created_at TEXT NOT NULL,"
    " CONSTRAINT pk_tag PRIMARY KEY (seq),"
    " CONSTRAINT uq_tag_name_experiment_seq UNIQUE (name, experiment_seq),"
    " CONSTRAINT fk_tag_seq FOREIGN KEY(seq) REFERENCES chain (seq),"
    " CONSTRAINT fk_tag_experiment_seq FOREIGN KEY(experiment_seq) REFERENCES experiment (seq)"
    ") STRICT",
    "CREATE TRIGGER tag_no_update BEFORE UPDATE ON tag BEGIN"
    " SELECT RAISE(ABORT, 'tag is insert-only'); END",
    "CREATE TRIGGER tag_no_delete BEFORE DELETE ON tag BEGIN"
    " SELECT RAISE(ABORT, 'tag is insert-only'); END",
    "CREATE TRIGGER tag_no_replace BEFORE INSERT ON tag"
    " WHEN EXISTS (SELECT 1 FROM tag WHERE (name = NEW.name AND experiment_seq ="
    " NEW.experiment_seq) OR (seq = NEW.seq)) BEGIN"
    " SELECT RAISE(ABORT, 'tag is insert-only'); END",
)


def upgrade() -> None:
    """Make the table and its triggers."""
    for statement in _STATEMENTS:
        op.execute(statement)
