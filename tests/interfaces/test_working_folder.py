"""No code of the working folder is run, whatever its files are called."""

import ast
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import executed, write_hostile_files
from stdio import HELLO

from lingshu_model.system.places import EnginePlaces
from lingshu_tools.calls.waiting import wait_until_over
from lingshu_tools.children import ChildError, Children, Task, Work
from lingshu_tools.children.task import Kind
from lingshu_tools.engine_client.starting import RANKS, start_detached
from lingshu_tools.errors import LingshuError
from lingshu_tools.ledger import Ledger, verify
from lingshu_tools.system import interpreter
from lingshu_tools.system.interpreter import environ_of, output_of

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
INITIALIZE = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, full of hostile files, none of which may have been run at the end."""
    created = write_hostile_files(tmp_path / "project")
    monkeypatch.chdir(created)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    yield created
    assert executed(created) == []


def run(*line: str | Path, said: str = "") -> str:
    finished = subprocess.run(
        line, input=said, capture_output=True, text=True, timeout=120, env=os.environ, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("line", [["lingshu-mcp"], ["lingshu", "serve"]])
def test_the_server_starts_in_a_hostile_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]
):
    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    answer = json.loads(run(SCRIPTS / line[0], *line[1:], said=INITIALIZE + "\n"))
    assert answer["result"]["serverInfo"]["name"] == "lingshu"


@pytest.mark.parametrize("line", [["doctor"], ["train", "--help"]])
def test_a_command_runs_in_a_hostile_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]
):
    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    assert run(SCRIPTS / "lingshu", *line)


@pytest.mark.parametrize(
    "module", ["lingshu_tools.cli", "lingshu_mcp", "lingshu_model.contracts.h5ad"]
)
def test_a_module_started_by_hand_leaves_the_folder_that_python_put_on_the_path(
    folder: Path, module: str
):
    # Python itself imports these, and finds the product, before any code of the product can run.
    for name in (*sys.stdlib_module_names, "lingshu_mcp", "lingshu_model", "lingshu_tools"):
        if name not in ("queue", "random", "sqlite3", "tempfile", "uuid"):
            (folder / f"{name}.py").unlink(missing_ok=True)
    run(sys.executable, "-m", module, "--help")


@pytest.mark.parametrize("kind", ["plot", "export", "table"])
def test_a_child_that_draws_or_writes_takes_nothing_from_the_folder(
    folder: Path, tmp_path: Path, kind: Kind
):
    # It has imported all it needs when it finds that the job is none.
    children = Children(tmp_path / "home")
    work = children.begin(Task(kind, "nothing", {}, tmp_path / "out"))
    assert isinstance(work, Work)
    wait_until_over(work.watch, 60)
    with pytest.raises(ChildError, match="KeyError"):
        children.result(work)


@pytest.mark.parametrize("ranks", [pytest.param("2", marks=pytest.mark.slow), "1"])
def test_an_engine_and_its_ranks_take_nothing_from_the_folder(
    folder: Path, tmp_path: Path, ranks: str
):
    # accelerate starts the ranks itself, with -m and without -P.
    environ = {**os.environ, RANKS: ranks, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    started = start_detached(EnginePlaces(tmp_path / "home"), ("--help",), environ)
    assert started.process.wait(300) == 0, started.last_words()
    assert started.log.read_text().count("show this help message") == int(ranks)


def test_the_processes_of_an_audit_take_nothing_from_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verify, "ALONE", 1)
    monkeypatch.setattr(verify, "_cores", lambda: 2)
    ledger = Ledger.open(tmp_path / "home")
    for n in range(4):
        ledger.record_screen({"n": n})
    assert ledger.verify().ok


def test_a_child_s_child_takes_nothing_from_the_folder(folder: Path):
    code = (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-c', 'import queue, PIL, torch.version'], check=True)"
    )
    output_of(["-c", code])


def test_only_absolute_entries_of_a_list_of_folders_reach_a_child(tmp_path: Path):
    for name in interpreter.FOLDER_LISTS:
        given = os.pathsep.join(["", "relative", str(tmp_path), ".", "~"])
        entries = environ_of({name: given})[name].split(os.pathsep)
        assert entries[0] == str(tmp_path)
        assert not {"", "relative", ".", "~"} & {*entries[1:]}
    for name in ("PATH", "LD_LIBRARY_PATH"):
        assert name not in environ_of({name: ":"})
    for name in interpreter.FOLDERS:
        assert name not in environ_of({name: "lib"})
        assert environ_of({name: str(tmp_path)})[name] == str(tmp_path)


def test_an_absolute_entry_of_pythonpath_is_honoured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "of_the_user.py").write_text("print('imported')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", str(tmp_path / "extra")]))
    assert output_of(["-c", "import of_the_user"]) == "imported\n"


def test_folders_that_this_process_has_on_its_path_do_not_reach_a_child(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "path", ["", str(folder), *sys.path, str(folder)])
    environ = environ_of()
    monkeypatch.undo()
    assert str(folder) not in environ["PYTHONPATH"].split(os.pathsep)
    monkeypatch.chdir(folder)
    assert output_of(["-c", "import queue, PIL; print(PIL.__name__)"]) == "PIL\n"


def test_a_child_finds_this_very_product_behind_the_installed_packages(tmp_path: Path):
    code = (
        "import json, lingshu_tools as a, lingshu_model as b, importlib.util as u, sys; "
        "files = [a.__file__, b.__file__, u.find_spec('lingshu_mcp').origin]; "
        "print(json.dumps([files, sys.path]))"
    )
    files, path = json.loads(output_of(["-c", code]))
    for name, file in zip(("lingshu_tools", "lingshu_model", "lingshu_mcp"), files, strict=True):
        assert file == __import__(name).__file__
    holder = str(Path(files[0]).parents[1])
    assert path.index(holder) > path.index(str(Path(os.__file__).parent))


def test_what_this_process_did_not_read_its_child_does_not_read(tmp_path: Path):
    code = (
        "from lingshu_tools.system.interpreter import environ_of\n"
        "print(environ_of({'PYTHONPATH': '/x'}))"
    )
    printed = run(sys.executable, "-I", "-c", code)
    assert "/x" not in printed
    assert "'PYTHONNOUSERSITE': '1'" in printed


def test_python_inside_another_program_starts_no_child(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(LingshuError, match="ordinary interpreter"):
        interpreter.command("-c", "pass")


STARTERS = {"multiprocessing", "pty", "subprocess"}
CALLS = ("exec", "spawn", "posix_spawn", "popen", "system", "create_subprocess", "open_process",
         "run_process", "startfile")  # fmt: skip
ALLOWED = {
    "lingshu_tools/system/interpreter.py",
    # They run Pythons of other environments, none of which holds the product.
    "benchmarks/peers/__main__.py",
    "benchmarks/peers/driver.py",
    "benchmarks/environments.py",
    "benchmarks/peers/scripts/state_peer.py",
    "benchmarks/reliability/readers.py",
    "benchmarks/clients/__main__.py",
    "benchmarks/clients/sessions/__main__.py",
    "benchmarks/clients/sessions/drivers/bridge.py",
    "benchmarks/clients/sessions/drivers/inspector.py",
    "benchmarks/any_data/peers.py",
    # They make an environment of the wheel, and time the start of a server.
    "benchmarks/install/__main__.py",
    "benchmarks/overhead.py",
    # They run npm and node, and the server with fixtures of this checkout.
    "benchmarks/node.py",
    "benchmarks/conformance/suite.py",
    # It times the installed command `lingshu`.
    "benchmarks/own_data.py",
    # They start the server and the command of this checkout, to look at it and to kill it.
    "benchmarks/page/browser.py",
    "benchmarks/planning/killed.py",
    # It mounts a file system.
    "benchmarks/reliability/disks.py",
}


def starts_python(source: str) -> list[str]:
    """Return the expressions of a module that could start a process, or name the interpreter."""
    result: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                result += [n.name for n in names if STARTERS & {*n.name.split(".")}]
            case ast.ImportFrom(module=str(module), names=names):
                parts = {*module.split("."), *(n.name for n in names)}
                result += sorted(parts & {*STARTERS, "ProcessPoolExecutor", "executable"})
                result += [n.name for n in names if module == "os" and n.name.startswith(CALLS)]
            case ast.Attribute(attr=name, value=ast.Name(id=owner)):
                process = owner in ("os", "asyncio", "anyio", "torch") and name.startswith(CALLS)
                if process or (owner, name) == ("sys", "executable") or name in STARTERS:
                    result.append(f"{owner}.{name}")
            case _:
                pass
    return result


@pytest.mark.parametrize(
    "code",
    ["import subprocess", "from subprocess import run", "import torch.multiprocessing as mp",
     "from concurrent.futures import ProcessPoolExecutor", "x = sys.executable", "os.execv(a, b)",
     "from os import execve", "from sys import executable", "os.posix_spawn(a, b, c)",
     "os.system('x')", "asyncio.create_subprocess_exec(a)", "anyio.open_process(a)",
     "from torch import multiprocessing", "torch.multiprocessing.spawn(f)"],
)  # fmt: skip
def test_the_search_for_process_starts_sees(code: str):
    assert starts_python(code)


def test_one_module_alone_starts_python():
    parts = ("lingshu_tools", "model", "mcp_server", "benchmarks")
    sources = [path for part in parts for path in sorted((ROOT / part).rglob("*.py"))]
    assert len(sources) > 200
    names = {
        str(path.relative_to(ROOT)): starts_python(path.read_text("utf-8")) for path in sources
    }
    assert {name for name, result in names.items() if result} == ALLOWED


@pytest.mark.parametrize("first", [".", "", "bin"])
def test_a_command_starts_no_program_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
):
    ran = tmp_path / "ran"
    for folder in (tmp_path, tmp_path / "bin"):
        folder.mkdir(exist_ok=True)
        for name in ("uname", "git", "gcc", "nproc", "ldconfig", "lscpu", "python3"):
            (folder / name).write_text(f"#!/bin/sh\necho {name} >> {ran}\n")
            (folder / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([first, os.environ["PATH"]]))
    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    run(SCRIPTS / "lingshu", "doctor")
    assert not ran.exists()
