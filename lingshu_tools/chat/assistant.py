"""The assistant: a model asks for tools, gets their answers, and replies."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from lingshu_model import __version__
from lingshu_tools.calls.dispatcher import error_result
from lingshu_tools.calls.instructions import INSTRUCTIONS
from lingshu_tools.chat.costs import Cost, Costs
from lingshu_tools.chat.endpoint import Endpoint
from lingshu_tools.chat.replies import Reply, ToolCall
from lingshu_tools.chat.toolbox import Answer, Toolbox
from lingshu_tools.chat.transcript import Transcript
from lingshu_tools.errors import CostError, EndpointError, LingshuError

MOST_ROUNDS: Final = 16
"""Replies with tool calls to one question."""
AGAIN: Final = 2
"""Times that a reply is requested again that was cut before any text of it came."""
_STOPPED: Final = {"status": "error", "error": "Interrupted", "summary": "stopped by the user"}


class Display(Protocol):
    """What a person sees of a chat."""

    def text(self, part: str) -> None:
        """Show a part of a reply."""
        ...

    def end_of_text(self) -> None:
        """A reply is complete."""
        ...

    def call(self, tool: str, arguments: str) -> None:
        """Show that a tool is called."""
        ...

    def answer(self, answer: Mapping[str, Any], cost: Cost) -> None:
        """Show what a tool answered, and its cost."""
        ...

    def note(self, text: str) -> None:
        """Show something about the chat itself."""
        ...

    def confirm(self, question: str) -> bool:
        """Return whether the person agrees."""
        ...


class Assistant:
    """One conversation.

    Args:
        toolbox: the tools that the model may call.
        endpoint: where the model answers.
        display: what the person sees.
        transcript: where everything is written.
    """

    def __init__(
        self, toolbox: Toolbox, endpoint: Endpoint, display: Display, transcript: Transcript
    ) -> None:
        self._toolbox, self._endpoint = toolbox, endpoint
        self._display, self._transcript = display, transcript
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": INSTRUCTIONS}]
        self._costs = Costs(toolbox.app)
        # Experiments of later rows count as this chat's cost.
        self._began = toolbox.app.ledger.head().seq
        self._tokens = 0
        transcript.write(
            "begin",
            version=__version__,
            endpoint=str(endpoint.url),
            model=endpoint.model,
            tools=[spec.name for spec in toolbox.specs],
            ledger_head=self._head(),
        )

    @property
    def cost(self) -> Cost:
        """Of all tool calls so far."""
        return self._costs.total

    @property
    def tokens(self) -> int:
        """That the endpoint counted so far; 0 if it counts none."""
        return self._tokens

    def ask(self, question: str) -> str:
        """Return the text of the last reply to a question, after the tool calls before it.

        Raises:
            EndpointError: the endpoint failed; what was done before is kept, and it can be asked
                again.
        """
        self._messages.append({"role": "user", "content": question})
        self._transcript.write("user", text=question)
        try:
            for _ in range(MOST_ROUNDS):
                reply = self._reply()
                if not reply.calls:
                    return reply.text
                self._answer_all(reply)
        # Ctrl-C too: the transcript says where the chat stopped.
        except BaseException as error:
            text = str(error) if isinstance(error, LingshuError) else type(error).__name__
            self._transcript.write("stopped", reason=text, ledger_head=self._head())
            # Two questions in a row are refused by some endpoints.
            if self._messages[-1]["role"] == "user":
                self._messages.pop()
            raise
        self._display.note(f"stopped after {MOST_ROUNDS} rounds of tool calls; ask it to go on")
        self._transcript.write("stopped", reason="rounds", ledger_head=self._head())
        return ""

    def close(self) -> None:
        """Write the end of the transcript, and close it."""
        cost = self.cost
        self._transcript.write(
            "end",
            cells=cost.cells,
            computing_s=round(cost.computing_s, 3),
            tokens=self._tokens,
            ledger_head=self._head(),
        )
        self._transcript.close()

    def _reply(self) -> Reply:
        reply = self._stream()
        # Only while nothing was shown: a reply that began would be shown twice.
        for _ in range(AGAIN):
            if not reply.cut or reply.text:
                break
            self._display.note("the connection was cut before a reply came; asking again")
            reply = self._stream()
        if reply.cut and not reply.text:
            message = (
                f"{self._endpoint.host} ended the connection before a reply, {AGAIN + 1} times"
            )
            raise EndpointError(message)
        if reply.cut:
            self._display.note("the reply was cut by the connection; what came of it is above")
        if reply.finish == "length":
            self._display.note("the reply reached the model's limit of tokens and is cut")
        self._keep(reply)
        return reply

    def _stream(self) -> Reply:
        # Stands if the endpoint sends nothing at all.
        reply = Reply("", cut=True)
        shown = False
        try:
            for part in self._endpoint.stream(self._messages, self._toolbox.openai()):
                if isinstance(part, Reply):
                    reply = part
                else:
                    shown = True
                    self._display.text(part)
        finally:
            if shown:
                self._display.end_of_text()
        # Requests that are repeated cost tokens too.
        self._tokens += reply.usage.get("total_tokens", 0)
        return reply

    def _keep(self, reply: Reply) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.calls:
            message["tool_calls"] = [_sent(call) for call in reply.calls]
        self._messages.append(message)
        self._transcript.write(
            "assistant",
            text=reply.text,
            calls=[{"tool": call.name, "arguments": call.arguments} for call in reply.calls],
            finish=reply.finish,
            cut=reply.cut,
            usage=dict(reply.usage),
        )

    def _answer_all(self, reply: Reply) -> None:
        waiting = list(reply.calls)
        try:
            while waiting:
                answer = self._answer(waiting[0])
                self._append(waiting.pop(0), answer)
        finally:
            # Each call needs an answer, or the endpoint refuses the conversation from here on.
            for call in waiting:
                self._append(call, _STOPPED)

    def _append(self, call: ToolCall, answer: Mapping[str, Any]) -> None:
        content = json.dumps(answer, ensure_ascii=False)
        self._messages.append({"role": "tool", "tool_call_id": call.id, "content": content})

    def _answer(self, call: ToolCall) -> Answer:
        self._display.call(call.name, call.arguments)
        begin = time.monotonic()
        answer = self._called(call)
        cost = self._costs.of(answer, time.monotonic() - begin, began=self._began)
        self._display.answer(answer, cost)
        self._transcript.write(
            "call",
            tool=call.name,
            arguments=call.arguments,
            wall_s=round(cost.wall_s, 3),
            cells=cost.cells,
            computing_s=round(cost.computing_s, 3),
            answer=answer,
            ledger_head=self._head(),
        )
        return answer

    def _called(self, call: ToolCall) -> Answer:
        try:
            return self._toolbox.result(call.name, call.arguments)
        except CostError as error:
            seconds = math.ceil(error.seconds)
            question = f"{call.name} takes about {seconds:,} s of computing. Run it?"
            if not self._display.confirm(question):
                return error_result(error).model_dump(mode="json")
            # Agreed to is the estimate, rounded up; the call is refused if it has grown since.
            agreed = {**json.loads(call.arguments), "max_seconds": seconds}
            return self._toolbox.call(call.name, agreed)
        except LingshuError as error:
            return error_result(error).model_dump(mode="json")

    def _head(self) -> str | None:
        try:
            return str(self._toolbox.app.ledger.head())
        except LingshuError:
            return None


def _sent(call: ToolCall) -> dict[str, Any]:
    """Return a call as the history has it: JSON always, as some endpoints parse it again."""
    try:
        arguments = call.arguments if isinstance(json.loads(call.arguments), dict) else "{}"
    except (ValueError, RecursionError):
        arguments = "{}"
    function = {"name": call.name or "unknown", "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
