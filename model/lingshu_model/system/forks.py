"""What a forked process must not share with its parent.

A fork copies one thread and all of memory. A lock that another thread holds stays locked for ever
in the child; connections, files and lock files are open in both; and SQLite believes that the
child has the locks of a transaction that only the parent's thread can end. So:

    register     an object is put right in the child before that runs anything else
    undivided    while a thread is inside, other threads' forks wait (up to `LONGEST_S`)

A fork that did not wait to the end leaves a child in which `require_whole` raises.
"""

import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

LONGEST_S = 15.0
"""How long a fork waits for the other threads to leave undivided sections."""


class DividedError(RuntimeError):
    """This process was forked in the middle of another thread's work."""


class Forked(Protocol):
    """An object that is put right in a forked child."""

    def after_fork(self) -> None:
        """Drop what belongs to the parent, without blocking and without closing it there."""
        ...


class Section:
    """One stay of a thread in undivided sections; `leave` may be called by any thread, once."""

    def __init__(self) -> None:
        self._thread: int | None = _gate.enter()

    def leave(self) -> None:
        """End it; a second time does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            _gate.leave(thread)


@contextmanager
def undivided() -> Generator[None]:
    """Let no other thread fork until this is left."""
    section = Section()
    try:
        yield
    finally:
        section.leave()


def register(thing: Forked) -> None:
    """Have `thing.after_fork()` called in every child forked from this process."""
    _known.add(thing)


def require_whole() -> None:
    """Return if this process was not forked in the middle of an undivided section.

    Raises:
        DividedError: it was: what is said is what to do.
    """
    if _gate.divided:
        message = (
            f"this process was forked while a thread of its parent had waited {LONGEST_S:g} s for "
            "the ledger, and cannot use it: start workers before that, or with the start method "
            "'spawn'"
        )
        raise DividedError(message)


class _Gate:
    """Counts who is inside; closed while a fork waits and happens."""

    def __init__(self) -> None:
        self.divided = False
        self._changed = threading.Condition()
        self._inside: Counter[int] = Counter()
        self._forking: int | None = None

    def enter(self) -> int:
        thread = threading.get_ident()
        with self._changed:
            # Who is inside already must be able to go on, or the fork would wait for it in vain.
            while self._forking not in (None, thread) and not self._inside[thread]:
                self._changed.wait()
            self._inside[thread] += 1
        return thread

    def leave(self, thread: int) -> None:
        with self._changed:
            self._inside[thread] -= 1
            if self._inside[thread] <= 0:
                del self._inside[thread]
                self._changed.notify_all()

    def before(self) -> None:
        """Return when no other thread is inside, with the gate's own lock held."""
        end = time.monotonic() + LONGEST_S
        self._changed.acquire()
        while self._forking is not None and (left := end - time.monotonic()) > 0:
            self._changed.wait(left)
        self._forking = threading.get_ident()
        while self._others() and (left := end - time.monotonic()) > 0:
            self._changed.wait(left)

    # `before` left the condition's lock with this thread.
    def in_parent(self) -> None:
        self._forking = None
        self._changed.notify_all()
        self._changed.release()

    def in_child(self) -> None:
        # It stays true in children of the child.
        self.divided = self.divided or bool(self._others())
        mine = self._inside[threading.get_ident()]
        # New: the parent's may be held by a thread that is not here.
        self._changed = threading.Condition()
        self._inside = Counter({threading.get_ident(): mine} if mine else {})
        self._forking = None

    def _others(self) -> set[int]:
        return {thread for thread in self._inside if thread != threading.get_ident()}


_gate = _Gate()
_known: "weakref.WeakSet[Forked]" = weakref.WeakSet()


def _in_child() -> None:
    _gate.in_child()
    # A copy: `after_fork` may drop objects, and the set is of weak references.
    for thing in list(_known):
        thing.after_fork()


os.register_at_fork(before=_gate.before, after_in_parent=_gate.in_parent, after_in_child=_in_child)
