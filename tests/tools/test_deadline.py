import threading
import time

import pytest

from lingshu_tools.system.deadline import remaining, time_limit


def test_without_a_limit_a_wait_may_take_its_longest():
    assert remaining(30.0) == 30.0


def test_a_limit_shortens_longer_waits_alone():
    with time_limit(2.0):
        assert remaining(0.5) == 0.5
        assert 1.5 < remaining(30.0) <= 2.0


def test_an_inner_limit_cannot_extend_an_outer_one():
    with time_limit(1.0), time_limit(60.0):
        assert remaining(30.0) <= 1.0


def test_a_late_call_still_looks_once(monkeypatch: pytest.MonkeyPatch):
    with time_limit(1.0):
        late = time.monotonic() + 5
        monkeypatch.setattr(time, "monotonic", lambda: late)
        assert remaining(30.0) == 0.05


def test_a_background_thread_starts_without_the_limit_of_the_call_that_started_it():
    seen: list[float] = []
    with time_limit(1.0):
        thread = threading.Thread(target=lambda: seen.append(remaining(30.0)))
        thread.start()
        thread.join()
    assert seen == [30.0]
