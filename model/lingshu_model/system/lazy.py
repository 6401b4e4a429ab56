"""A property that is worked out when it is first read, without a lock.

`functools.cached_property` of Python 3.11 has one lock for all instances of a class. One thread
that waits, say for a locked database, would keep every other waiting; and a fork copies the lock as
it is: where another thread held it, the child would wait for ever. Here several threads may work a
value out at once, and all get the one that was stored first.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

T = TypeVar("T")


class Lazy(Generic[T]):
    """A decorator like `functools.cached_property`; the instance needs a `__dict__`."""

    def __init__(self, work: Callable[[Any], T]) -> None:
        self._work, self._name = work, work.__name__
        self.__doc__ = work.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> "Lazy[T]": ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...
    def __get__(self, instance: object, owner: type | None = None) -> "T | Lazy[T]":
        # Not a data descriptor: what is stored in the instance is found first from then on.
        if instance is None:
            return self
        return instance.__dict__.setdefault(self._name, self._work(instance))

    if TYPE_CHECKING:

        def __set__(self, instance: object, value: T) -> None: ...
