"""The schema that ledgers were made with before there were revisions; nothing is left to do.

Knows nothing of later ones.
"""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Leave everything as it is."""
