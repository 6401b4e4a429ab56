"""The schema's revisions, oldest first; `versions/` says how to get from each to the next.

A ledger made before there were revisions has the baseline's schema. Nothing is ever taken away: a
revision adds tables, columns that may be NULL, indexes, triggers or views.
"""

REVISIONS = ("0001", "0002", "0003", "0004")
BASELINE, HEAD = REVISIONS[0], REVISIONS[-1]
STANDING = "0002"
"""From here on there is the table `standing`."""
FIRST_VIEWS = "0003"
"""From here on there are the views `experiments` and `screens`."""
TAGS = "0004"
"""From here on there is the table `tag`."""
