"""Ctrl-C while a command starts.

Python prints a traceback when SIGINT arrives while it starts or imports, which takes seconds. A
command that becomes another one keeps SIGINT back until the other has a handler.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells give it."""
_SIGNALS = {signal.SIGINT}


def hold() -> None:
    """Keep SIGINT back from now on, also in the program that this process becomes by exec."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def accept() -> None:
    """Let SIGINT in, and at once if it came meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def end_at_once() -> None:
    """Let SIGINT end this process without a word until it has another handler.

    For imports: there is nothing yet that would have to be put in order.
    """
    signal.signal(signal.SIGINT, _end)
    accept()


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
