"""What a tool answers while its files are being made in the background."""

from typing import Any

from lingshu_tools.children import State

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
    given = ", ".join(f"{k}={_literal(v)}" for k, v in arguments.items() if v is not None)
    return {
        "status": state,
        "summary": f"{what} {_WORDS[state]}; it goes on in the background.",
        "next_step": f"{tool}({given}, wait_s=45) returns it when it is done.",
        "caveats": [],
    }


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
