"""What the tools that make files in the background have in common."""

from collections.abc import Callable
from typing import Any

from lingshu_tools.calls.results import call_text
from lingshu_tools.calls.waiting import Pending, R, next_wait_s
from lingshu_tools.children import Answer, State, Work

_WORDS = {
    "queued": "waits for its turn, as other files are being made",
    "running": "is being made",
}


def created_at_of(
    work: Answer | Work, name: str, wait_s: float, finish: Callable[[], R]
) -> R | Pending[R]:
    """Return the result if the files are there, else what is waited for.

    Args:
        work: at the files.
        name: the experiment or screen they are of.
        wait_s: seconds from the begin of the call.
        finish: makes the result, whether or not the files are there.
    """
    if isinstance(work, Answer):
        return finish()
    # No experiments are waited for, but the child process.
    return Pending(name=name, ids=(), wait_s=wait_s, finish=finish, watched=work.watch)


def unfinished(tool: str, what: str, state: State, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a result that names no file yet.

    Args:
        tool: the tool's name.
        what: what is being made, the beginning of a sentence.
        state: of the child process.
        arguments: those of the call, but for `wait_s`; the same call again picks the files up.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    again = call_text(tool, **given, wait_s=next_wait_s())
    return {
        "status": state,
        "summary": f"{what} {_WORDS[state]}; it goes on in the background.",
        "next_step": f"{again} returns it when it is done.",
        "caveats": [],
    }
