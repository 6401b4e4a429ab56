"""What every test leaves as it was."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def signal_mask() -> Iterator[None]:
    """Put the mask of signals back: commands keep SIGINT back for what they become by exec.

    A test that replaces exec would leave SIGINT blocked for later tests of its worker, and for the
    processes that they start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
