"""The descriptors of stdin and stdout, kept for MCP from before anything else can print.

Python's `print`, a C library and child processes all write to descriptor 1. The SDK diverts it
while it serves; here it is diverted from before the imports of a server until the process ends.
"""

import fcntl
import os
import sys
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class Wire:
    """The two ends of the connection to an MCP client."""

    incoming: BinaryIO
    outgoing: BinaryIO


def claim() -> Wire | None:
    """Return the connection; None where stdin or stdout is closed.

    Descriptor 0 is empty afterwards, and descriptor 1 leads where stderr does: nowhere if that is
    closed.
    """
    # Python has no stream for a descriptor that was closed when it started.
    streams = (sys.stdin, sys.stdout)
    if None in streams:
        return None
    incoming, outgoing = (_duplicate(stream.fileno()) for stream in streams)
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        # Else the next file that is opened becomes descriptor 2, and what is printed goes into it.
        _point(2, os.open(os.devnull, os.O_WRONLY))
    # A child or a library that reads stdin must not take bytes of a message.
    _point(0, os.open(os.devnull, os.O_RDONLY))
    _point(1, _duplicate(2))
    # Not closed with these objects: a thread may still be writing when the server has ended.
    return Wire(os.fdopen(incoming, "rb", closefd=False), os.fdopen(outgoing, "wb", closefd=False))


def _duplicate(descriptor: int) -> int:
    """Return another descriptor of the same file, above 2, which children do not inherit."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def _point(descriptor: int, target: int) -> None:
    """Let a descriptor lead where `target` leads, and close that."""
    if target != descriptor:
        os.dup2(target, descriptor)
        os.close(target)
