"""SQLite's own file system, with a question before each write, sync, truncation and deletion.

The answer may be an I/O error, or never come. It works below SQLite, in the process that asked, so
a fault lands inside a commit as a failing disk's would.
"""

import _sqlite3
import ctypes
from collections.abc import Callable, Generator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from typing import Any

Ask = Callable[[str], bool]
"""Asked with a place; True means that it fails here."""
Strike = Callable[[str], None]
"""Called where half of the bytes have been written."""

_IOERR, _OK = 10, 0
_CODES = {"write": _IOERR | 3 << 8, "sync": _IOERR | 4 << 8, "truncate": _IOERR | 6 << 8}
_CODES["delete"] = _IOERR | 10 << 8
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
# Names stay pointers: SQLite keeps them and reads what lies beyond their end.
_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)


class _Methods(Structure):
    _fields_ = (
        ("version", c_int),
        *((name, c_void_p) for name in ("close", "read", "write", "truncate", "sync")),
        *((f"other{i}", c_void_p) for i in range(13)),
    )


class _File(Structure):
    _fields_ = (("methods", POINTER(_Methods)),)


class _Vfs(Structure):
    _fields_ = (
        *((name, c_int) for name in ("version", "file_size", "max_path")),
        *((name, c_void_p) for name in ("next", "name", "data", "open", "delete")),
        *((f"other{i}", c_void_p) for i in range(14)),
    )


class FaultyVfs:
    """The default VFS of this process until `remove`; one at a time."""

    def __init__(self, ask: Ask, strike: Strike) -> None:
        """Take the default VFS's place.

        Raises:
            OSError: this Python's SQLite does not show its functions.
        """
        try:
            self._library = ctypes.CDLL(_sqlite3.__file__)
            find, register = self._library.sqlite3_vfs_find, self._library.sqlite3_vfs_register
        except AttributeError as error:
            message = "this Python's SQLite is built in and cannot be given another file system"
            raise OSError(message) from error
        find.restype, register.argtypes = POINTER(_Vfs), (c_void_p, c_int)
        self._ask, self._strike = ask, strike
        self._real = find(None)
        self._name = c_char_p(b"faulty")
        self._kept: list[Any] = []
        self._methods: dict[int, Any] = {}
        self._vfs = _Vfs.from_buffer_copy(self._real.contents)
        self._vfs.name = ctypes.cast(self._name, c_void_p)
        self._vfs.next = None
        self._vfs.open = self._keep(_OPEN(self._open))
        self._real_delete = _DELETE(self._real.contents.delete)
        self._vfs.delete = self._keep(_DELETE(self._delete))
        self._real_open = _OPEN(self._real.contents.open)
        register(ctypes.addressof(self._vfs), 1)

    def remove(self) -> None:
        """Give the default VFS its place back; every connection must be closed."""
        self._library.sqlite3_vfs_register(self._real, 1)
        self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))

    def _keep(self, function: Any) -> int | None:
        self._kept.append(function)
        return ctypes.cast(function, c_void_p).value

    def _fails(self, place: str) -> bool:
        if not self._ask(place):
            return False
        self._strike(place)
        return True

    def _open(self, _: int, name: int, file: int, flags: int, out: Any) -> int:
        code = self._real_open(ctypes.addressof(self._real.contents), name, file, flags, out)
        opened = ctypes.cast(file, POINTER(_File)).contents
        if opened.methods:
            opened.methods = ctypes.pointer(self._wrapped(opened.methods.contents))
        return code

    def _delete(self, _: int, name: int, sync: int) -> int:
        if self._fails("delete"):
            return _CODES["delete"]
        return self._real_delete(ctypes.addressof(self._real.contents), name, sync)

    def _wrapped(self, real: _Methods) -> _Methods:
        # SQLite has a handful of method tables for life, so a copy of each is made once.
        where = ctypes.addressof(real)
        if where not in self._methods:
            created = _Methods.from_buffer_copy(real)
            created.write = self._keep(self._write(_WRITE(real.write)))
            created.truncate = self._keep(self._truncate(_TRUNCATE(real.truncate)))
            created.sync = self._keep(self._sync(_SYNC(real.sync)))
            self._methods[where] = created
        return self._methods[where]

    def _write(self, real: Any) -> Any:
        def write(file: int, data: int, size: int, offset: int) -> int:
            if self._ask("write"):
                real(file, data, size // 2, offset)
                self._strike("write")
                return _CODES["write"]
            return real(file, data, size, offset)

        return _WRITE(write)

    def _truncate(self, real: Any) -> Any:
        def truncate(file: int, size: int) -> int:
            return _CODES["truncate"] if self._fails("truncate") else real(file, size)

        return _TRUNCATE(truncate)

    def _sync(self, real: Any) -> Any:
        def sync(file: int, flags: int) -> int:
            return _CODES["sync"] if self._fails("sync") else real(file, flags)

        return _SYNC(sync)


@contextmanager
def faulty_vfs(ask: Ask, strike: Strike) -> Generator[None]:
    """Put the faulty file system under every connection opened meanwhile."""
    vfs = FaultyVfs(ask, strike)
    try:
        yield
    finally:
        vfs.remove()
