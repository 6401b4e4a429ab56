"""What answers calls, made when the first one comes: importing it takes most of a second."""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

import anyio.to_thread

if TYPE_CHECKING:
    from lingshu_mcp.calls import Calls
    from lingshu_tools.app import App
    from lingshu_tools.calls.registry import ToolSpec


class Back:
    """The application of the caller and the calls of a server, each made once.

    Args:
        make: returns what gives the application of the caller's principal, and the calls.
    """

    def __init__(self, make: "Callable[[], tuple[Callable[[], App], Calls]]") -> None:
        self._make = make
        self._parts: tuple[Callable[[], App], Calls] | None = None
        # Several first calls may come together; the imports and the application are for all of
        # them.
        self._lock = Lock()

    def _get(self) -> "tuple[Callable[[], App], Calls]":
        with self._lock:
            if self._parts is None:
                self._parts = self._make()
            return self._parts

    async def get(self) -> "tuple[App, Calls]":
        """Return the caller's application and the calls; the first time made in a thread."""
        # Without a thread once it is there: every call comes through here.
        parts = self._parts or await anyio.to_thread.run_sync(self._get)
        return parts[0](), parts[1]

    @property
    def ready(self) -> bool:
        """Whether a call finds all that answers it."""
        return self._parts is not None

    def leave(self) -> None:
        """Let every call that waits answer now."""
        if self._parts is not None:
            self._parts[1].leave()


def back_of(app_of: "Callable[[], App]", calls: "Calls") -> Back:
    """Return what is there already."""
    return Back(lambda: (app_of, calls))


async def spec_of(name: str) -> "ToolSpec":
    """Return a tool's spec; its module is imported by the first call of the tool."""
    from lingshu_tools.calls.registry import registry

    tools = registry()
    if not tools.is_imported(name):
        # A tenth of a second: not on the event loop, which answers other calls meanwhile, and
        # before the call, whose time is limited.
        await anyio.to_thread.run_sync(tools.ready, name)
    return tools[name]
