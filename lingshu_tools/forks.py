"""What a forked process must not share with its parent.

A fork copies one thread and all of memory: locks that other threads hold stay locked for ever in
the child, and connections, files and lock files are open in both. Objects that hold any of these
register here, and are put right in the child before it runs anything else.
"""

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """An object that is put right in a forked child."""

    def after_fork(self) -> None:
        """Drop what belongs to the parent, without blocking and without closing it there."""
        ...


_known: "weakref.WeakSet[Forked]" = weakref.WeakSet()


def register(thing: Forked) -> None:
    """Have `thing.after_fork()` called in every child forked from this process."""
    _known.add(thing)


def _in_child() -> None:
    for thing in list(_known):
        thing.after_fork()


os.register_at_fork(after_in_child=_in_child)
