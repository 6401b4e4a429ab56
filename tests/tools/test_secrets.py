"""No password, token or URL with one in any result, error, log, page, export or file."""

import io
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from click.testing import CliRunner

from lingshu_model.system import redaction
from lingshu_model.system.endpoints import Endpoint
from lingshu_model.system.redaction import MASK, protect_streams, redact
from lingshu_testing import tool_calls
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call, error_result
from lingshu_tools.calls.registry import TOOL_NAMES, registry
from lingshu_tools.cli import main
from lingshu_tools.cli.lab_book import page
from lingshu_tools.errors import InternalError, LingshuError
from lingshu_tools.experiments.designs import design_of, new_experiment
from lingshu_tools.ledger import NewOutcome
from lingshu_tools.system.plain_text import plain

PASSWORD, TOKEN, ODD = "Tr0ub4dor", "tok-0123456789abcdef", "p@ss/w#rd"
SECRETS = (PASSWORD, TOKEN, ODD, "p%40ss%2Fw%23rd")
LEDGER = f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/db"


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINGSHU_ENGINE_TOKEN", TOKEN)
    monkeypatch.setenv("LINGSHU_ENGINE_URL", f"http://user:{ODD}@127.0.0.1:1")


def leaks(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://user:s3cret@host/db now", "at postgresql://user:***@host/db now"),
        ("at http://s3cret@host", "at http://***@host"),
        ("at https://user:a@b:c@host/x@y", "at https://user:***@host/x@y"),
        ("postgresql://host/db?user=u&password=s3cret&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("host=h password='a b' user=u", "host=h password='***' user=u"),
        ('{"token": "s3cret", "n": 1}', '{"token": "***", "n": 1}'),
        ("{'Authorization': 'Bearer abc12345'}", "{'Authorization': 'Bearer ***'}"),
        (f"whole: {TOKEN}.", "whole: ***."),
        (repr(f"x{ODD}y"), "'x***y'"),
        ("p%40ss%2Fw%23rd", "***"),
    ],
)  # fmt: skip
def test_what_is_or_looks_like_a_secret_is_replaced(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
):
    monkeypatch.setenv("LINGSHU_ENGINE_URL", "http://user:p%40ss%2Fw%23rd@127.0.0.1:1")
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "STAT1 knockout: 3 of 5 genes; cell_line=THP-1, donor=1015",
        "this engine wants its token: set LINGSHU_ENGINE_TOKEN to the one it was given",
        "see https://example.org/a?b=c and mail a@b.c",
        "a bearer token is needed; secret: none",
        "sqlite:////home/user@host/experiments.db",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text: str):
    assert redact(text) == text


def test_a_short_secret_is_replaced_where_it_stands_as_one_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LINGSHU_LEDGER", "postgresql://user:pw@host/db")
    assert redact("pwd: postgresql://user:pw@host/db") == "pwd: postgresql://user:***@host/db"


def test_a_secret_read_from_a_file_is_known_once_it_is_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redaction, "_remembered", set())
    assert redact("from a file: hunter22") == "from a file: hunter22"
    redaction.remember("hunter22")
    assert redact("from a file: hunter22") == "from a file: ***"
    redaction.remember("ab")
    assert redact("about") == "about"


def test_the_token_of_an_engine_on_a_port_is_remembered_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(redaction, "_remembered", set())
    file = tmp_path / "token"
    file.write_text("abcDEF-123456\n")
    file.chmod(0o600)
    tmp_path.chmod(0o700)
    token = Endpoint(port=1, token_file=file).token()
    assert redact(f"refused {token}") == "refused ***"


@pytest.mark.parametrize(
    "piece", ["Q", "Q ", "://", "://Q@", "password=", "'token': '", "bearer ", "bearer Q", "a:/"]
)
def test_a_long_text_is_looked_through_once(piece: str):
    started = time.monotonic()
    redact(piece * (200_000 // len(piece)))
    assert time.monotonic() - started < 5


def test_an_invisible_character_does_not_hide_a_secret():
    assert plain(f"with {TOKEN[:3]}\u200b{TOKEN[3:]}") == "with ***"


@pytest.mark.parametrize("tool", TOOL_NAMES)
@pytest.mark.parametrize(
    "url",
    [
        LEDGER,
        f"postgresql+psycopg://127.0.0.1:1/db?user=u&password={PASSWORD}",
        f"mysql://user:{PASSWORD}@127.0.0.1/db",
        f"postgresql//user:{PASSWORD}@127.0.0.1",
        f"postgresql://user:{ODD}@127.0.0.1:1/db",
    ],
)
def test_no_tool_shows_the_secret_of_a_ledger_that_cannot_be_opened(
    open_app, engine, monkeypatch: pytest.MonkeyPatch, tool: str, url: str
):
    monkeypatch.setenv("LINGSHU_LEDGER", url)
    errors = io.StringIO()
    with redirect_stderr(errors):
        try:
            said = call(
                open_app(engine), tool, tool_calls("exp_aaaaaaaaaaaaaaaa")[tool]
            ).model_dump_json()
        except LingshuError as error:
            said = error_result(error).model_dump_json()
    assert leaks(said + errors.getvalue()) == [], said


def test_no_incident_shows_a_secret(app: App, monkeypatch: pytest.MonkeyPatch, capsys):
    def fail(*_: object) -> None:
        try:
            raise OSError(f"connect {LEDGER}")
        except OSError as error:
            raise RuntimeError(f"token {TOKEN}") from error

    spec = registry()["list_experiments"]
    monkeypatch.setattr(type(spec), "run", property(lambda _: fail), raising=False)
    with pytest.raises(InternalError) as error:
        call(app, "list_experiments", {})
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert leaks(shown + str(error.value)) == []


def test_no_outcome_keeps_a_secret_and_no_page_shows_one(app: App, tmp_path: Path):
    begun = call(app, "sample_cells", {"n_cells": 8, "wait_s": 30}).experiment_id
    row = app.ledger.experiment(begun)
    failed = app.ledger.begin(new_experiment(app, design_of(app, row)))
    with app.ledger.attempt(failed.id) as attempt:
        outcome = NewOutcome(
            kind="failed", error=f"no engine at {os.environ['LINGSHU_ENGINE_URL']}"
        )
        app.ledger.seal(attempt, outcome)
    assert MASK in str(app.ledger.outcome(failed.id).error)  # type: ignore[union-attr]
    assert leaks(page(app, failed.id)) == []
    assert leaks(call(app, "get_experiment", {"id": failed.id}).model_dump_json()) == []
    assert files_with_secrets(app.home) == []


def files_with_secrets(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and leaks(f.read_text("latin-1"))]


COMMANDS = (
    ("doctor",),
    ("--json", "doctor"),
    ("models",),
    ("ledger", "list"),
    ("--json", "ledger", "verify"),
    ("ledger", "migrate"),
    ("ledger", "show", "exp_aaaaaaaaaaaaaaaa"),
    ("ledger", "export", "a.zip"),
    ("call", "sample_cells", '{"checkpoint": "thp1-crispr", "n_cells": 8}'),
    ("call", "describe_model"),
    ("replay", "exp_aaaaaaaaaaaaaaaa"),
    ("engine", "status"),
)


@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_no_command_prints_or_writes_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]
):
    monkeypatch.setenv("LINGSHU_LEDGER", LEDGER)
    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(main, line)
    assert shown.output
    assert leaks(shown.output + str(shown.exception)) == [], shown.output
    assert files_with_secrets(tmp_path) == []


def test_what_ends_a_process_is_printed_without_a_secret():
    script = (
        "import os, logging, sys, threading\n"
        "from lingshu_tools.cli import main\n"
        "@main.command('fail')\n"
        "def fail():\n"
        "    url = os.environ['LINGSHU_ENGINE_URL']\n"
        "    logging.basicConfig(); logging.error('log %s', url)\n"
        "    thread = threading.Thread(target=lambda: 1 / 0 if print(url) else open(url))\n"
        "    thread.start(); thread.join()\n"
        "    raise RuntimeError(url)\n"
        "main(['fail'])\n"
    )
    messages = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert messages.returncode == 1
    assert leaks(messages.stdout + messages.stderr) == []
    shown = f"http://user:{MASK}@127.0.0.1:1"
    # The log, the thread's traceback and the one that ended the process.
    assert messages.stderr.count(shown) >= 3, messages.stderr
    assert shown in messages.stdout


def test_a_protected_stream_is_otherwise_the_stream(monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with protect_streams(), protect_streams():
        sys.stdout.writelines([f"{TOKEN}\n", "b\n"])
        assert sys.stdout.isatty() is False
        assert sys.stdout.write("ab") == 2
        assert sys.stderr is None
        sys.excepthook(ValueError, ValueError("x"), None)
    assert sys.stdout is out
    assert out.getvalue() == "***\nb\nab"
