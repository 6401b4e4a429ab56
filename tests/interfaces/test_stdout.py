"""Stdout is the client's alone, whatever else in the process, or a child of it, prints."""

import json
from pathlib import Path

import pytest
from noisy_server import NOISY, SOURCES
from stdio import HELLO, LIMIT_S, message, server, silent_engine

NOISE = Path(__file__).with_name("noisy_server.py")
REQUESTS = [
    message("initialize", number=0, **HELLO),
    message("notifications/initialized"),
    message("tools/list", number=1),
    message("tools/call", number=2, name="list_experiments", arguments={}),
    message("tools/call", number=3, name="sample_cells", arguments={"wait_s": 45}),
]


def test_only_answers_reach_stdout_while_python_a_library_and_children_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From before the first import of the SDK to the last answer, given after stdin has closed."""
    with silent_engine(monkeypatch), server(tmp_path / "home", program=NOISE) as process:
        answers, printed = process.communicate("".join(REQUESTS), timeout=LIMIT_S)
    lines = [json.loads(line) for line in answers.splitlines()]
    assert sorted(line["id"] for line in lines) == [0, 1, 2, 3]
    assert all(line["jsonrpc"] == "2.0" for line in lines)
    occasions = [*(f"import {name}" for name in NOISY), "call"]
    # Lines of two threads may share one.
    said = [f"{source}: {occasion}" for source in SOURCES for occasion in occasions]
    assert [text for text in said if text not in printed] == []
    assert "python: thread" in printed
    assert "descriptor: thread" in printed


def test_what_is_printed_goes_nowhere_where_stderr_is_closed(tmp_path: Path):
    script = tmp_path / "without_stderr.py"
    script.write_text(
        "import os, sys\n"
        "os.close(2)\n"
        f"os.execv(sys.executable, [sys.executable, {str(NOISE)!r}, *sys.argv[1:]])\n"
    )
    with server(tmp_path / "home", program=script) as process:
        answers, printed = process.communicate("".join(REQUESTS[:4]), timeout=LIMIT_S)
    lines = [json.loads(line) for line in answers.splitlines()]
    assert sorted(line["id"] for line in lines) == [0, 1, 2]
    assert printed == ""


@pytest.mark.parametrize("closed", [0, 1])
def test_a_server_without_stdin_or_stdout_says_so(tmp_path: Path, closed: int):
    script = tmp_path / "closing.py"
    script.write_text(
        f"import os, sys\nos.close({closed})\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'lingshu_mcp', *sys.argv[1:]])\n"
    )
    with server(tmp_path / "home", program=script) as process:
        answers, said = process.communicate("", timeout=LIMIT_S)
    assert process.returncode == 2
    assert "stdin or stdout is closed" in said
    assert answers == ""
