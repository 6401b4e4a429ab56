"""`python -m benchmarks.install [STEP ...]`: the package as a new user gets it, in empty homes.

Builds the wheel, installs it with pipx and runs it with uvx, connects every client and starts what
was written for it, packs and starts the bundle, verifies and runs the user unit's command, and
talks to a scripted endpoint. Each step has a separate home. What the commands printed is in
OUT/STEP.txt. Variables of pip and uv in the environment are passed on.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import python_of
from lingshu_testing.chat_endpoint import Refuse, Say, chat_endpoint

ROOT = Path(__file__).parents[2]
CLIENTS = ("claude-code", "claude-desktop", "cursor", "vscode", "codex", "gemini")
MCPB = "@anthropic-ai/mcpb@2.1.2"
LIMIT_S = 900
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "0"},
}


class Failed(Exception):  # noqa: N818 - it is reported, not raised at a user
    """A step did not do what it should; the text says what came instead."""


@dataclass
class Place:
    """Where a run works.

    Attributes:
        out: the folder of the run.
        tools: the folder of uv and pipx.
        wheel: of this checkout.
        log: what the commands of the step printed.
    """

    out: Path
    tools: Path
    wheel: Path
    log: list[str]

    def home(self, name: str) -> Path:
        """Return a new empty home."""
        path = self.out / "homes" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    @property
    def pipx_home(self) -> Path:
        return self.out / "homes" / "pipx"

    @property
    def lingshu(self) -> Path:
        return self.pipx_home / ".local" / "bin" / "lingshu"

    def environ(self, home: Path, **more: str) -> dict[str, str]:
        """Return the variables of a new user's shell."""
        passed = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_", "SSL_CERT"))}
        path = f"{home}/.local/bin:{self.tools}:/usr/local/bin:/usr/bin:/bin"
        settings = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}
        # One cache for all homes: what is tried is the installation, not the download.
        return {"UV_CACHE_DIR": str(self.out / "uv-cache"), **passed, **settings, **more}

    def run(
        self, home: Path, *command: str | Path, stdin: str = "", fails: bool = False, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the new user; a failure ends the step."""
        ran = subprocess.run(
            [str(part) for part in command],
            input=stdin,
            env=self.environ(home, **more),
            cwd=home,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        shown = " ".join(str(part) for part in command)
        self.log.append(f"$ {shown}\n{ran.stdout}{ran.stderr}[exit {ran.returncode}]\n")
        if bool(ran.returncode) != fails:
            message = f"`{shown}` ended with {ran.returncode}: {(ran.stderr or ran.stdout)[-400:]}"
            raise Failed(message)
        return ran


def listed_tools(place: Place, home: Path, command: list[str], env: Mapping[str, str]) -> int:
    """Return how many tools a server lists over stdio."""
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    text = "".join(json.dumps(message) + "\n" for message in messages)
    ran = place.run(home, *command, stdin=text, **env)
    answers = {a["id"]: a for a in map(json.loads, ran.stdout.splitlines())}
    return len(answers[2]["result"]["tools"])


def pipx(place: Place) -> str:
    home = place.home("pipx")
    place.run(home, place.tools / "pipx", "install", f"lingshu-tools[all] @ {place.wheel.as_uri()}")
    version = place.run(home, place.lingshu, "--version").stdout.strip()
    arguments = {"checkpoint": "thp1-crispr", "n_cells": 16, "wait_s": 45}
    begun = place.run(home, place.lingshu, "call", "sample_cells", json.dumps(arguments)).stdout
    answer = json.loads(begun)
    while answer["status"] in ("queued", "running"):
        follow = json.dumps({"id": answer["experiment_id"], "wait_s": 45})
        answer = json.loads(place.run(home, place.lingshu, "call", "get_experiment", follow).stdout)
    place.run(home, place.lingshu, "ledger", "verify")
    place.run(home, place.lingshu, "engine", "stop")
    return f"{version}; {answer['status']}: 16 cells sampled, ledger verified"


def uvx(place: Place) -> str:
    home = place.home("uvx")
    source = f"lingshu-tools[mcp] @ {place.wheel.as_uri()}"
    count = listed_tools(place, home, ["uvx", "--from", source, "lingshu-mcp"], {})
    plain = ["uvx", "--with", source, "--from", source, "lingshu-tools"]
    by_name = listed_tools(place, home, plain, {})
    place.run(home, "uvx", "--from", source, "lingshu", "install", "codex", "--yes")
    entry = tomllib.loads((home / ".codex/config.toml").read_text("utf-8"))["mcp_servers"][
        "lingshu"
    ]
    written = listed_tools(place, home, [entry["command"], *entry["args"]], {})
    return f"{count} tools listed, {by_name} by the package's name, {written} by what install wrote"


def install(place: Place) -> str:
    counts: list[int] = []
    for client in CLIENTS:
        home = place.home(f"install-{client}")
        printed = place.run(home, place.lingshu, "install", client, "--print").stdout
        place.run(home, place.lingshu, "install", client, fails=True)  # nobody to be asked
        place.run(home, place.lingshu, "install", client, "--yes")
        [path] = [p for p in home.rglob("*") if p.is_file()]
        text = path.read_text("utf-8")
        if text != printed:
            raise Failed(f"{client}: what is printed is not what is written")
        values = tomllib.loads(text) if client == "codex" else json.loads(text)
        [servers] = values.values()
        entry: dict[str, Any] = servers["lingshu"]
        command = [entry["command"], *entry["args"]]
        counts.append(listed_tools(place, home, command, entry.get("env", {})))
    return f"{len(counts)} clients written; the command of each lists {min(counts)} tools"


def bundle(place: Place) -> str:
    home, out = place.home("bundle"), place.out / "lingshu-tools.mcpb"
    pack = ROOT / "mcp_server" / "bundle" / "pack.py"
    place.run(home, sys.executable, pack, place.wheel, out)
    unpacked = home / "unpacked"
    checked = "mcpb not run (no npx)"
    if npx := shutil.which("npx"):
        place.run(home, npx, "--yes", MCPB, "unpack", out, unpacked)
        place.run(home, npx, "--yes", MCPB, "validate", unpacked / "manifest.json")
        checked = f"validated and unpacked by {MCPB}"
    else:
        shutil.unpack_archive(out, unpacked, "zip")
    manifest = json.loads((unpacked / "manifest.json").read_text("utf-8"))
    config = manifest["server"]["mcp_config"]
    command = [config["command"], *config["args"]]
    command = [part.replace("${__dirname}", str(unpacked)) for part in command]
    count = listed_tools(place, home, command, {"LINGSHU_HOME": str(home / "lingshu")})
    return f"{out.stat().st_size / 1e6:.0f} MB, {checked}, started: {count} tools"


def unit(place: Place) -> str:
    home = place.home("unit")
    text = (ROOT / "mcp_server" / "lingshu.service").read_text("utf-8")
    # The unit's command is where pipx put it.
    text = text.replace("%h", str(place.pipx_home))
    path = home / "lingshu.service"
    path.write_text(text, "utf-8")
    verified = "not verified (no systemd)"
    if analyze := shutil.which("systemd-analyze"):
        place.run(home, analyze, "verify", "--user", "--man=no", path, XDG_RUNTIME_DIR=str(home))
        verified = "verified by systemd-analyze"
    [command] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    command = command.replace(":8931", ":0")
    # The URL is on standard error; a client may read it there.
    process = subprocess.Popen(
        command.split(), env=place.environ(home), stderr=subprocess.PIPE, text=True, cwd=home
    )
    try:
        line = process.stderr.readline() if process.stderr else ""
        place.log.append(f"$ {command}\n{line}")
        if "127.0.0.1" not in line:
            raise Failed(f"the unit's command printed {line!r}")
    finally:
        begin = time.monotonic()
        process.terminate()
        status = process.wait(LIMIT_S)
    return (
        f"{verified}; serves, and ended {time.monotonic() - begin:.1f} s after SIGTERM ({status})"
    )


def chat(place: Place) -> str:
    home = place.home("chat")
    call = {
        "checkpoint": "thp1-crispr",
        "interventions": [{"kind": "knockout", "target": "STAT1"}],
        "n_cells": 16,
        "wait_s": 45,
    }
    replies = (
        Refuse(429, {"Retry-After": "1"}),
        Say("", [("perturb_cells", call)], cut_after=2),
        Say("I run it.", [("perturb_cells", call), ("perturb_cell", "{"), ("find_genes", "[")]),
        Say("STAT1 was knocked out."),
    )
    with chat_endpoint(*replies) as fake:
        named = ["--endpoint", fake.url, "--model", "scripted"]
        ran = place.run(
            home,
            place.lingshu,
            "chat",
            *named,
            "What does losing STAT1 do?",
            LINGSHU_CHAT_API_KEY="key-of-the-benchmark",
        )
        place.run(home, place.lingshu, "engine", "stop")
    if ran.stdout != "I run it.\nSTAT1 was knocked out.\n":
        raise Failed(f"the chat printed {ran.stdout!r}")
    files = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    if b"key-of-the-benchmark" in files + ran.stderr.encode():
        raise Failed("the key was printed or saved")
    [saved] = home.rglob("chats/*.jsonl")
    calls = [
        e for e in map(json.loads, saved.read_text("utf-8").splitlines()) if e["kind"] == "call"
    ]
    states = ", ".join(f"{e['tool']} {e['answer']['status']}" for e in calls)
    return (
        f"{len(fake.requests)} requests (one limited, one cut); {states}; {calls[0]['cells']} cells"
    )


STEPS: dict[str, Callable[[Place], str]] = {
    "pipx": pipx,
    "uvx": uvx,
    "install": install,
    "bundle": bundle,
    "unit": unit,
    "chat": chat,
}


def main() -> int:
    """Print a table; the exit status is 1 where a step failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--out", type=Path, default=Path("runs/install"))
    arguments = parser.parse_args()
    out: Path = arguments.out.absolute()
    tools = python_of("tools", Path(__file__).with_name("requirements.txt"), out).parent
    place = Place(out, tools, Path(), [])
    wheels = out / "dist"
    shutil.rmtree(wheels, ignore_errors=True)
    place.run(place.home("build"), tools / "uv", "build", "--wheel", "-q", "-o", wheels, ROOT)
    [place.wheel] = wheels.glob("*.whl")
    print(f"wheel: {place.wheel.name}, {place.wheel.stat().st_size / 1e6:.0f} MB\n")
    print("| step | seconds | outcome |\n|---|---|---|", flush=True)
    failed = False
    for name in arguments.steps or STEPS:
        place.log = []
        begin = time.monotonic()
        try:
            outcome = STEPS[name](place)
        except (Failed, KeyError, ValueError, subprocess.TimeoutExpired) as error:
            outcome, failed = f"FAILED: {error}", True
        (out / f"{name}.txt").write_text("\n".join(place.log), "utf-8")
        print(f"| {name} | {time.monotonic() - begin:.0f} | {outcome} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
