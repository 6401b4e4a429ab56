"""The extension io.modelcontextprotocol/tasks (SEP-2663): long calls answered with a handle.

A client that declares the extension gets, instead of the result of a call that is still at work, a
task: it polls with `tasks/get`, answers questions with `tasks/update` and ends it with
`tasks/cancel`. Which tools can become tasks, and where their state is kept, is a source's matter.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError

IDENTIFIER: Final = "io.modelcontextprotocol/tasks"
VERSIONS: Final = frozenset({"2026-07-28"})
POLL_MS: Final = 2000
"""Advised between two `tasks/get`."""
Request = ServerRequestContext[Any, Any]
Status = Literal["working", "input_required", "completed", "cancelled", "failed"]


@dataclass(frozen=True)
class Task:
    """The state of a task.

    Attributes:
        created: ISO 8601, UTC.
        updated: the same, when the status last changed.
        message: the status in words; None for none.
        result: of a completed task, the tool's result in JSON, errors of the tool among them.
        error: of a failed task, a JSON-RPC error.
        requests: of a task that needs input, the questions by key.
    """

    id: str
    status: Status
    created: str
    updated: str
    message: str | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    requests: Mapping[str, Any] | None = None

    def head(self) -> dict[str, Any]:
        """Return the fields that stand in every answer about the task."""
        message = {} if self.message is None else {"statusMessage": self.message}
        return {
            "taskId": self.id,
            "status": self.status,
            "createdAt": self.created,
            "lastUpdatedAt": self.updated,
            # Rows of the ledger do not expire.
            "ttlMs": None,
            "pollIntervalMs": POLL_MS,
            **message,
        }

    def details(self) -> dict[str, Any]:
        """Return the fields of its state alone."""
        state = {"result": self.result, "error": self.error, "inputRequests": self.requests}
        return {name: value for name, value in state.items() if value is not None}


class UnknownTaskError(Exception):
    """A source does not know a task, or not as the caller's."""


class Source(Protocol):
    """What keeps tasks.

    Attributes:
        tools: those whose calls can become tasks.
        required: those of them that a client without the extension cannot call.
    """

    tools: Collection[str]
    required: Collection[str]

    async def begin(
        self, params: types.CallToolRequestParams, context: Request, call_next: CallNext
    ) -> HandlerResult | Task:
        """Return the result of a call, or the task that it has become."""
        ...

    async def get(self, name: str) -> Task:
        """Return the state of a task.

        Raises:
            UnknownTaskError: there is none of this name.
        """
        ...

    async def answer(self, name: str, responses: Mapping[str, Any]) -> None:
        """Take answers to questions of a task; keys that are not open are ignored."""
        ...

    async def cancel(self, name: str) -> None:
        """Ask a task to end; one that has ended stays as it is."""
        ...


class TaskParams(types.RequestParams):
    """Parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str


class AnswerParams(TaskParams):
    """Parameters of `tasks/update`."""

    input_responses: dict[str, Any]


class Tasks(Extension):
    """The extension of one server, over any number of sources."""

    identifier = IDENTIFIER

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = [*sources]

    def methods(self) -> Sequence[MethodBinding]:
        """Return the three methods of the extension."""
        return (
            MethodBinding("tasks/get", TaskParams, self._get, VERSIONS),
            MethodBinding("tasks/update", AnswerParams, self._update, VERSIONS),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, VERSIONS),
        )

    async def intercept_tool_call(
        self, params: types.CallToolRequestParams, ctx: Request, call_next: CallNext
    ) -> HandlerResult:
        """Return the result of a call, or the task it has become for a client that takes tasks.

        Raises:
            MCPError: the tool is for clients with the extension only.
        """
        # A tool belongs to one source at most.
        source = next((s for s in self.sources if params.name in s.tools), None)
        if source is None:
            return await call_next(ctx)
        # Checked before the call: such a tool has no answer but a task.
        if params.name in source.required:
            require_client_extension(ctx, IDENTIFIER)
        if not _declared(ctx):
            return await call_next(ctx)
        begun = await source.begin(params, ctx, call_next)
        return {"resultType": "task", **begun.head()} if isinstance(begun, Task) else begun

    async def _get(self, ctx: Request, params: TaskParams) -> HandlerResult:
        _, task = await self._task(ctx, params)
        return {"resultType": "complete", **task.head(), **task.details()}

    async def _update(self, ctx: Request, params: AnswerParams) -> HandlerResult:
        source, task = await self._task(ctx, params)
        await source.answer(task.id, params.input_responses)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: Request, params: TaskParams) -> HandlerResult:
        source, task = await self._task(ctx, params)
        # What has ended keeps its result.
        if task.status in ("working", "input_required"):
            await source.cancel(task.id)
        return {"resultType": "complete"}

    async def _task(self, ctx: Request, params: TaskParams) -> tuple[Source, Task]:
        """Return a task and where it is kept.

        Raises:
            MCPError: the client has not declared the extension, its header names another task, or
                there is no such task.
        """
        require_client_extension(ctx, IDENTIFIER)
        headers: Mapping[str, str] = getattr(ctx.request, "headers", {})
        named = headers.get("mcp-name", params.task_id)
        # Proxies route by the header: another task in the body would pass them by.
        if named != params.task_id:
            message = "the header Mcp-Name and the parameter taskId name different tasks"
            raise MCPError(code=types.HEADER_MISMATCH, message=message)
        # Ids of different sources do not collide: each refuses what it did not make.
        for source in self.sources:
            try:
                return source, await source.get(params.task_id)
            except UnknownTaskError:
                continue
        message = f"no task {params.task_id[:80]!r}; a call answers with the id of its task"
        raise MCPError(code=types.INVALID_PARAMS, message=message)


def _declared(ctx: Request) -> bool:
    known = ctx.session.client_capabilities
    return (
        ctx.protocol_version in VERSIONS
        and known is not None
        and IDENTIFIER in (known.extensions or {})
    )
