"""`lingshu chat` as a person starts it."""

import json
from pathlib import Path

import pytest
from chat_display import KNOCK_OUT
from click.testing import CliRunner, Result

from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_testing.chat_endpoint import FakeChat, Refuse, Say, chat_endpoint
from lingshu_tools.chat.terminal import Terminal
from lingshu_tools.cli import main

KEY = "key-of-the-lab-0123456789"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    checkpoint = make_checkpoint(tmp_path / "checkpoints")
    monkeypatch.setenv("LINGSHU_CHECKPOINTS", str(checkpoint.path.parent))
    monkeypatch.setattr("lingshu_model.contracts.catalogue.SHIPPED", tmp_path / "none")
    engine = FakeEngine(checkpoint.panel)
    monkeypatch.setattr("lingshu_tools.engine_client.client.Engine", lambda *_, **__: engine)
    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LINGSHU_CHAT_API_KEY", KEY)
    for name in ("LINGSHU_CHAT_ENDPOINT", "LINGSHU_CHAT_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def chat(fake: FakeChat, *arguments: str, stdin: str | None = None) -> Result:
    named = ["--endpoint", fake.url, "--model", "made"]
    return CliRunner().invoke(main, ["chat", *named, *arguments], input=stdin)


def test_a_question_on_the_command_line_is_answered_and_saved(home: Path):
    with chat_endpoint(Say("I run it.", [("perturb_cells", KNOCK_OUT)]), Say("It falls.")) as fake:
        ran = chat(fake, "What", "does", "losing STAT1 do?")
    assert ran.exit_code == 0, ran.output
    assert ran.stdout == "I run it.\nIt falls.\n"
    assert "perturb_cells" in ran.stderr
    assert "64 cells" in ran.stderr
    assert fake.requests[0]["messages"][-1]["content"] == "What does losing STAT1 do?"
    [saved] = (home / "chats").iterdir()
    assert str(saved) in ran.stderr
    lines = [json.loads(line) for line in saved.read_text("utf-8").splitlines()]
    assert lines[-1]["kind"] == "end"
    assert lines[-1]["cells"] == 64
    assert KEY not in saved.read_text("utf-8") + ran.output


def test_lines_of_standard_input_are_one_conversation(home: Path):
    with chat_endpoint(Say("One."), Say("Two.")) as fake:
        ran = chat(fake, "--no-save", stdin="First?\n\nSecond?\n")
    assert ran.stdout == "One.\nTwo.\n"
    roles = [m["role"] for m in fake.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert not (home / "chats").exists()


def test_json_is_one_object_with_the_answer_and_its_cost(home: Path):
    with chat_endpoint(Say("So.", [("perturb_cells", KNOCK_OUT)]), Say("It falls.")) as fake:
        ran = chat(fake, "--json", "What?")
    value = json.loads(ran.stdout)
    assert value["answer"] == "It falls."
    assert value["cost"]["cells"] == 64
    assert Path(value["transcript"]).is_file()
    assert ran.stderr == ""


@pytest.mark.parametrize("arguments", [["--model", "m"], ["--endpoint", "http://127.0.0.1:1/v1"]])
def test_there_is_no_default_endpoint_or_model(home: Path, arguments: list[str]):
    ran = CliRunner().invoke(main, ["chat", *arguments, "Hello?"])
    assert ran.exit_code == 2
    assert "is needed" in ran.output
    assert not home.exists()


def test_a_key_of_another_service_is_not_sent(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LINGSHU_CHAT_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-another-service")
    with chat_endpoint(Say("Hello.")) as fake:
        assert chat(fake, "Hello?").exit_code == 0
        assert "authorization" not in fake.headers[0]
        assert chat(fake, "--key-env", "OPENAI_API_KEY", "Hello?").exit_code == 0
        assert fake.headers[1]["authorization"] == "Bearer key-of-another-service"
        missing = chat(fake, "--key-env", "NOT_SET", "Hello?")
        assert missing.exit_code == 2
        assert len(fake.requests) == 2


def test_an_error_of_the_endpoint_ends_with_one_and_names_the_transcript(home: Path):
    with chat_endpoint(Refuse(401)) as fake:
        ran = chat(fake, "Hello?")
    assert ran.exit_code == 1
    assert "401" in ran.stderr
    assert "transcript" in ran.stderr


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_key_that_comes_in_parts_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: int
):
    monkeypatch.setenv("SOME_API_KEY", KEY)
    text = f"key-of: {KEY}{KEY}key-of-the\x1b[2J\u202e end key"
    terminal = Terminal(secret=KEY)
    for start in range(0, len(text), size):
        terminal.text(text[start : start + size])
    terminal.end_of_text()
    shown = capsys.readouterr().out
    assert shown == "key-of: ******key-of-the[2J end key\n"
