"""The calls of tools that a text prints, read as a reader would execute them."""

import ast
import re
from typing import Any

from lingshu_tools.calls.registry import TOOL_NAMES


def calls_in(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls of tools in a text, as (tool, arguments).

    Raises:
        ValueError: a call cannot be executed as it is printed.
    """
    result: list[tuple[str, dict[str, Any]]] = []
    for match in re.finditer(rf"\b({'|'.join(TOOL_NAMES)})\(", text):
        # The shortest text that is an expression ends at the call's own parenthesis.
        for end in (m.end() for m in re.finditer(r"\)", text[match.start() :])):
            try:
                node = ast.parse(text[match.start() : match.start() + end], mode="eval").body
            except SyntaxError:
                continue
            if not isinstance(node, ast.Call) or node.args:
                message = f"no call with named arguments: {text}"
                raise ValueError(message)
            result.append(
                (match[1], {k.arg or "": ast.literal_eval(k.value) for k in node.keywords})
            )
            break
        else:
            message = f"no call: {text[match.start() :]}"
            raise ValueError(message)
    return result
