"""Terminals and pipes that do not take UTF-8: help, results and errors are printed all the same."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import anyio
import pytest

from lingshu_tools.cli.commands import main, read_json
from lingshu_tools.errors import InputError

NARROW = ["ascii", "latin-1", "cp1252", "koi8-r", "shift_jis"]


class Screen:
    """Standard output and error of one encoding."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoding = encoding
        self._monkeypatch = monkeypatch
        self._bytes = {name: io.BytesIO() for name in ("stdout", "stderr")}

    def run(self, *line: str) -> int:
        # Not in a fixture: pytest puts its own streams there before the test begins.
        for name, raw in self._bytes.items():
            stream = io.TextIOWrapper(raw, encoding=self.encoding, write_through=True)
            self._monkeypatch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as ended:
            main([*line], prog_name="lingshu")
        return int(ended.value.code or 0)

    def shown(self, name: str = "stdout") -> str:
        getattr(sys, name).flush()
        # click writes UTF-8 where a stream claims to be ASCII.
        encoding = "utf-8" if self.encoding == "ascii" else self.encoding
        return self._bytes[name].getvalue().decode(encoding)


@pytest.fixture(params=NARROW)
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    with monkeypatch.context() as context:
        yield Screen(request.param, context)


def test_help_and_texts_are_printed(screen: Screen):
    assert screen.run("tools") == 0
    assert "describe_model" in screen.shown()
    assert "..." in screen.shown() or "…" in screen.shown()


def test_json_loses_nothing(screen: Screen):
    assert screen.run("call", "list_experiments", '{"γδ 李 😀 é": 1}') == 1
    assert "γδ 李 😀 é" in json.loads(screen.shown())["summary"]


def test_errors_are_printed(screen: Screen, tmp_path: Path):
    assert screen.run("--home", str(tmp_path), "ledger", "show", "exp_γ李😀…") == 1
    assert "exp_" in screen.shown("stderr")


def test_a_sign_without_a_usual_form_becomes_an_escape(monkeypatch: pytest.MonkeyPatch):
    screen = Screen("latin-1", monkeypatch)
    assert screen.run("--version") == 0
    sys.stdout.write("a − b ≤ 3 × γ 😀 é")
    assert screen.shown().endswith("a - b <= 3 × \\u03b3 \\U0001f600 é")


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "C"],
)
def test_a_command_that_becomes_another_process_prints_there_too(environ: dict[str, str]):
    line = [str(Path(sys.executable).with_name("lingshu")), "evaluate", "--help"]
    ended = subprocess.run(line, env=os.environ | environ, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_json_arguments_are_utf_8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch):
    # As sys.argv holds them where the locale is C.
    text = '{"tag": "é李"}'.encode().decode("ascii", "surrogateescape")
    monkeypatch.setattr(os, "fsencode", lambda t: t.encode("ascii", "surrogateescape"))
    assert read_json(text) == {"tag": "é李"}
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO('{"tag": "é"}'.encode()), encoding="ascii")
    )
    assert read_json("-") == {"tag": "é"}


@pytest.mark.parametrize("text", ["\udcff", "[" * 100_000], ids=["byte", "deep"])
def test_arguments_that_are_no_text_are_refused(text: str):
    with pytest.raises(InputError, match="cannot read the arguments"):
        read_json(text)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Begin with Python's handler of Ctrl-C, and put the handlers back that a command changes."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (("call", "list_experiments"), "lingshu_tools.calls.dispatcher.call"),
        (("ledger", "list"), "lingshu_tools.app.App.__init__"),
        (("models",), "lingshu_tools.app.App.__init__"),
        (("--home", "no-home", "--json", "doctor"), "lingshu_tools.cli.common.settings"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
@pytest.mark.usefixtures("handlers")
def test_ctrl_c_ends_a_command_as_a_shell_expects_it(
    line: tuple[str, ...],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def press(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(where, press)
    with pytest.raises(SystemExit) as ended:
        main([*line], prog_name="lingshu")
    assert ended.value.code == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "\ninterrupted; experiments begun before are kept\n"


@pytest.mark.parametrize(
    ("module", "where"),
    [
        ("lingshu_model.train.__main__", "lingshu_model.train.command.train"),
        ("lingshu_model.evaluate.__main__", "lingshu_model.evaluate.__main__._store"),
        ("lingshu_mcp.demo", "lingshu_mcp.demo.run"),
    ],
    ids=["train", "evaluate", "demo"],
)
@pytest.mark.usefixtures("handlers")
def test_ctrl_c_ends_what_a_command_becomes_in_the_same_way(
    module: str,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def press(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("nothing happened")

    async def press_and_wait(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep(60)

    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(where, press_and_wait if module == "lingshu_mcp.demo" else press)
    (tmp_path / "specification.json").touch()
    line = {
        "lingshu_model.train.__main__": [str(tmp_path / "specification.json")],
        "lingshu_model.evaluate.__main__": ["made", "--out", str(tmp_path)],
        "lingshu_mcp.demo": [],
    }[module]
    with pytest.raises(SystemExit) as ended:
        import_module(module).main(line, prog_name="lingshu")
    assert ended.value.code == 130
    assert "Aborted" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["main", "serve"])
def test_ctrl_c_while_modules_are_read_prints_no_traceback(name: str):
    started = (
        "import sys\n"
        "class Pressed:\n"
        "    def find_spec(self, module, *_):\n"
        "        if module == 'lingshu_tools.cli.commands':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Pressed())\n"
        f"from lingshu_tools.cli import {name}\n"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", started], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "")
