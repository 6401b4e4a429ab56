"""What a tool answers while its files are being made in the background."""

from typing import Any

from lingshu_tools.children import State
from lingshu_tools.results import call_text
from lingshu_tools.tools.common import MAX_WAIT_S

_WORDS = {
    "queued": "waits for its turn, as other files are being made",
    "running": "is being made",
}


def unfinished(tool: str, what: str, state: State, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a result that names no file yet.

    Args:
        tool: the tool's name.
        what: what is being made, the beginning of a sentence.
        state: of the child process.
        arguments: those of the call, but for `wait_s`; the same call again picks the files up.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    again = call_text(tool, **given, wait_s=MAX_WAIT_S)
    return {
        "status": state,
        "summary": f"{what} {_WORDS[state]}; it goes on in the background.",
        "next_step": f"{again} returns it when it is done.",
        "caveats": [],
    }
