"""An engine that leaves its jobs half done until it is released."""

import threading
from collections.abc import Callable

import anyio

from lingshu_model.contracts import Catalogue, JobView
from lingshu_testing import FakeEngine


class HeldEngine(FakeEngine):
    """Leaves every job running, at its first cell, until `released` is set."""

    def __init__(self, panel: list[str]) -> None:
        super().__init__(panel)
        self.released = threading.Event()

    @classmethod
    def of_home(cls) -> "HeldEngine":
        """An engine for the first checkpoint there is."""
        catalogue = Catalogue()
        return cls(catalogue.load(catalogue.names()[0]).panel)

    def wait(self, job_id: str, wait_s: float) -> JobView:
        view = super().wait(job_id, wait_s)
        if self.released.wait(min(wait_s, 0.05)):
            return view
        finished = 1 if wait_s else 0
        return view.model_copy(update={"state": "running", "done": finished})


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own time limit ends it."""
    while not condition():
        await anyio.sleep(0.01)
