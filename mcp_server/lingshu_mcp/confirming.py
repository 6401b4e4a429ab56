"""Asking a user whether an expensive call may be made, in both eras of the protocol."""

import math
from collections.abc import Mapping
from typing import Any, Final

import mcp_types as types
from mcp.server.elicitation import AcceptedElicitation, render_elicitation_schema
from mcp.server.mcpserver import Context
from mcp_types.version import is_version_at_least
from pydantic import BaseModel, Field

from lingshu_tools.errors import CostError

KEY: Final = "max_seconds"
IN_RESULT_SINCE: Final = "2026-07-28"
"""The first protocol version in which a question is an answer, and the client calls again."""


class Confirmation(BaseModel):
    """What the user is asked."""

    run: bool = Field(description="Spend this computing time?")


async def confirmed(
    context: Context[Any, Any], arguments: Mapping[str, Any], error: CostError
) -> dict[str, Any] | types.InputRequiredResult | None:
    """Return the arguments with the `max_seconds` that the user allows.

    None where the user declines, or the client cannot ask; the question itself where the client
    has to ask it and call again. A limit that the caller set is never raised.
    """
    if arguments.get(KEY) is not None or not _can_ask(context):
        return None
    # Whole seconds, not below the estimate, so that the second call is not refused for a fraction.
    allowed = {**arguments, KEY: math.ceil(error.seconds)}
    question = f"{str(error).partition(', which')[0]}. Run it?"
    if not is_version_at_least(context.protocol_version or "", IN_RESULT_SINCE):
        # Before that version the server asks within the call, and waits.
        answer = await context.elicit(question, Confirmation)
        yes = isinstance(answer, AcceptedElicitation) and answer.data.run
        return allowed if yes else None
    # The client called again with the user's answer beside the same arguments.
    answer = (context.input_responses or {}).get(KEY)
    if answer is None:
        return _question(question)
    content = answer.content if isinstance(answer, types.ElicitResult) else None
    yes = isinstance(answer, types.ElicitResult) and answer.action == "accept"
    # The content is what a client sends, and is not validated.
    return allowed if yes and content and content.get("run") is True else None


def _can_ask(context: Context[Any, Any]) -> bool:
    known = context.client_capabilities
    elicitation = known.elicitation if known else None
    # An empty capability, from before there were modes, means forms.
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _question(text: str) -> types.InputRequiredResult:
    schema = render_elicitation_schema(Confirmation)
    params = types.ElicitRequestFormParams(message=text, requested_schema=schema)
    return types.InputRequiredResult(input_requests={KEY: types.ElicitRequest(params=params)})
