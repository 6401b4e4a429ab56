"""Experiments and screens as tasks: the id of a task is the id of the row in the ledger.

A call waits for `wait_s` as always; if the experiment is still at work then, it is a task. Its
state is in the ledger, so any later server of the home knows it too.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError

from lingshu_mcp.back import Back, spec_of
from lingshu_mcp.tasks.extension import Request, Status, Task, UnknownTaskError
from lingshu_tools.errors import InputError, LingshuError, NotFoundError

LONG: Final = ("sample_cells", "perturb_cells", "score_cells", "complete_cells", "run_screen")
"""The tools that begin an experiment or a screen, whose id is the task's."""
VERSION: Final = "2026-07-28"
AT_WORK: Final = ("queued", "running", "interrupted")
"""Statuses of results whose experiment has no outcome yet."""


def _status(of_result: str) -> Status:
    """Return the status of a task; a failed experiment completes, with a result that says so."""
    if of_result in AT_WORK:
        return "working"
    return "cancelled" if of_result == "cancelled" else "completed"


class ExperimentTasks:
    """The source of tasks of a home."""

    tools: Collection[str] = LONG
    required: Collection[str] = ()

    def __init__(self, back: Back) -> None:
        self._back = back

    async def begin(
        self,
        params: types.CallToolRequestParams,  # noqa: ARG002 - the tool reads them
        context: Request,
        call_next: CallNext,
    ) -> HandlerResult | Task:
        """Return the result where the experiment has ended, else its task."""
        # The tool itself waits for `wait_s` first: short experiments never become tasks.
        result = await call_next(context)
        fields = getattr(result, "structured_content", None) or {}
        # A screen names its own id beside those of its experiments.
        name = fields.get("screen_id") or fields.get("experiment_id")
        if name is None or fields.get("status") not in AT_WORK:
            return result
        return await self.get(name)

    async def get(self, name: str) -> Task:
        """Return the state of an experiment or a screen.

        Raises:
            UnknownTaskError: the caller has none of this name.
            MCPError: the ledger does not answer.
        """
        result = await self._call("get_experiment", {"id": name})
        fields: dict[str, Any] = result["structuredContent"]
        status = _status(fields["status"])
        if fields["status"] == "succeeded" and fields.get("screen_id") == name:
            # The fields of the tool that was called; of a finished screen it begins nothing.
            result = await self._call("run_screen", {"screen_id": name})
        created, updated = await self._times(name)
        ended = result if status == "completed" else None
        return Task(name, status, created, updated, fields.get("summary"), ended)

    async def answer(self, name: str, responses: Mapping[str, Any]) -> None:
        """Ignore answers: an experiment that was begun has no question left."""

    async def cancel(self, name: str) -> None:
        """Stop an experiment, or what is left of a screen."""
        await self._call("cancel_experiment", {"id": name})

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a tool in JSON."""
        app, calls = await self._back.get()
        from lingshu_mcp.rendering import rendered
        from lingshu_tools.calls.results import Result

        spec = await spec_of(tool)

        async def report(_cells: int, _of: int) -> None:
            return

        def render(result: Result) -> types.CallToolResult:
            return rendered(spec, result, arguments, version=VERSION)

        try:
            result = await calls.call(app, spec, arguments, report, render)
        # An id of another principal is not found either, so that ids cannot be probed.
        except (NotFoundError, InputError) as error:
            raise UnknownTaskError from error
        except LingshuError as error:
            raise MCPError(code=types.INTERNAL_ERROR, message=str(error)) from error
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)

    async def _times(self, name: str) -> tuple[str, str]:
        """Return when an experiment or a screen was recorded, and its last outcome so far."""
        app, calls = await self._back.get()
        from lingshu_mcp.offers.resources import times

        try:
            return await calls.read(app, lambda: times(app, name))
        except LingshuError as error:
            raise MCPError(code=types.INTERNAL_ERROR, message=str(error)) from error
