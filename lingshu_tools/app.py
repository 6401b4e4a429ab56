"""The application that a door opens once: a bench, and the threads that work at it.

Knows nothing of the tools that use it or of the door that holds it.
"""

from lingshu_model.wire.lazy import Lazy
from lingshu_tools.bench import Bench
from lingshu_tools.children import Children
from lingshu_tools.runner import Runner


class App(Bench):
    """What tools run on; thread-safe as far as its parts are."""

    @Lazy
    def runner(self) -> Runner:
        """The background threads in which experiments of this process run."""
        return Runner(self)

    @Lazy
    def children(self) -> Children:
        """The child processes that draw pictures and write files."""
        return Children(self.home)

    def close(self) -> None:
        """Stop the background threads and close what was opened; the engine lives on."""
        if "runner" in self.__dict__:
            self.runner.close()
        super().close()
