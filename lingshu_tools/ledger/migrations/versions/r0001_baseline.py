"""The schema that ledgers were made with before there were revisions; nothing is left to do."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Leave everything as it is."""
