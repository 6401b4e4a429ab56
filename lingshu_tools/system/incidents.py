"""What went wrong for reasons of our own: the detail on stderr, its id for the caller."""

import secrets
import sys
import traceback

from lingshu_model.system.redaction import redact


def report_incident(where: str, error: BaseException) -> str:
    """Return the id of an incident, after its traceback, without secrets, went to stderr.

    Args:
        where: the tool or the experiment in which it happened.
        error: what was raised.
    """
    incident = secrets.token_hex(4)
    text = "".join(traceback.format_exception(error))
    sys.stderr.write(redact(f"incident {incident} in {where}:\n{text}"))
    return incident
