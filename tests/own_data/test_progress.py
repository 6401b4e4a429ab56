"""Progress on a pipe."""

import pytest

from lingshu_model.system import progress_bars
from lingshu_model.system.progress_bars import Progress


def test_a_pipe_gets_few_lines_and_no_bar(capsys: pytest.CaptureFixture[str]):
    with Progress(total=1000, desc="training", unit="step") as bar:
        for _ in range(1000):
            bar.update()
            bar.set_postfix(train=0.5)
    said = capsys.readouterr().err
    assert "\r" not in said
    lines = said.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("training: 0 of 1000 steps")
    assert lines[1].startswith("training: 1000 of 1000 steps")
    assert "train=0.5" in lines[1]


def test_a_pipe_gets_a_line_each_time_the_interval_has_passed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress_bars, "EVERY_S", 0.0)
    assert [*Progress(range(3), desc="checking", unit="condition")] == [0, 1, 2]
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= 4
    assert all(line.startswith("checking: ") for line in said)


def test_nothing_is_written_where_it_is_off(capsys: pytest.CaptureFixture[str]):
    for _ in Progress(range(5), desc="training", disable=True):
        pass
    assert capsys.readouterr().err == ""
