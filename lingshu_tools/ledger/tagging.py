"""Tags: what people call groups of experiments, as rows."""

import re

from sqlalchemy import Connection

from lingshu_tools.errors import InputError, quoted
from lingshu_tools.ledger import schema
from lingshu_tools.ledger.chain import append, has
from lingshu_tools.ledger.records import Experiment
from lingshu_tools.ledger.rows import now

LONGEST = 60
PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._:+/-]*$"
"""No control or direction characters: a tag is shown wherever its experiment is."""


def is_tag(name: str) -> bool:
    """Return whether a text is a tag: one short line."""
    return len(name) <= LONGEST and re.fullmatch(PATTERN, name) is not None


def check(name: str) -> None:
    """Do nothing for a tag.

    Raises:
        InputError: it is none.
    """
    if not is_tag(name):
        message = (
            f"{quoted(name)} is no tag: up to {LONGEST} ASCII letters, digits, spaces and "
            ". _ : + / -, beginning with a letter or a digit"
        )
        raise InputError(message)


def add(connection: Connection, experiment: Experiment, name: str, principal: str) -> None:
    """Tag an experiment, unless it is."""
    values = {"name": name, "experiment_seq": experiment.seq}
    if not has(connection, schema.tag, **values):
        append(connection, schema.tag, **values, principal=principal, created_at=now())
