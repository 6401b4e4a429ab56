"""The command line: the same results as every door, readable by people and by programs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lingshu_tools.app import App
from lingshu_tools.calls.registry import registry
from lingshu_tools.cli import main
from lingshu_tools.experiments.replays import Comparison

KNOCK_OUT = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8, "wait_s": 45}
ENVELOPE = {
    "status",
    "summary",
    "experiment_id",
    "screen_id",
    "units",
    "support",
    "evidence",
    "caveats",
    "ledger_head",
    "next_step",
    "truncated",
}


def run(shell: CliRunner, *arguments: str, **more: Any) -> Result:
    return shell.invoke(main, list(arguments), **more)


def test_call_prints_one_json_object_with_the_whole_envelope(shell: CliRunner):
    whole = KNOCK_OUT | {"detail": "detailed"}
    ran = run(shell, "call", "perturb_cells", json.dumps(whole))
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result.keys() >= ENVELOPE
    assert result["genes"][0].keys() >= {
        "gene",
        "log2_fold_change",
        "mc_interval",
        "control_mean",
        "perturbed_mean",
    }


def test_call_prints_what_an_agent_gets(shell: CliRunner):
    concise = json.loads(run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT)).stdout)
    assert {"status", "summary", "experiment_id", "ledger_head", "next_step"} <= concise.keys()
    assert "units" not in concise
    assert "control_mean" not in concise["genes"][0]


@pytest.mark.parametrize("name", registry())
def test_the_page_of_one_tool_has_all_that_a_call_needs(shell: CliRunner, name: str):
    spec, ran = registry()[name], run(shell, "tools", name)
    assert ran.exit_code == 0, ran.output
    words = " ".join(ran.stdout.split())
    assert " ".join(spec.description.split()) in words
    for argument, node in spec.input_schema["properties"].items():
        assert f"{argument} (" in words
        assert " ".join(node.get("description", "").split()) in words
        inner = node.get("items", node).get("properties", {})
        assert all(f"{field} (" in words for field in inner)
        assert all(str(value) in words for value in node.get("enum", ()))
    assert all(field in words for field in spec.output_schema["properties"])
    assert max(map(len, ran.stdout.splitlines())) <= 100
    (whole,) = [t for t in json.loads(run(shell, "tools", "--json").stdout) if t["name"] == name]
    assert json.loads(run(shell, "tools", name, "--json").stdout) == whole
    defined = json.loads(run(shell, "tools", name, "--format", "anthropic").stdout)
    assert defined["input_schema"] == spec.input_schema


@pytest.mark.parametrize("more", [(), ("--json",), ("--format", "openai")])
def test_an_unknown_tool_is_refused_with_the_nearest_names(shell: CliRunner, more: tuple[str, ...]):
    ran = run(shell, "tools", "perturb_cels", *more)
    assert ran.exit_code == 1
    assert "Did you mean 'perturb_cells'" in ran.output
    assert "compare_experiments" in ran.output


def test_call_reads_standard_input_and_files(shell: CliRunner, tmp_path: Path):
    file = tmp_path / "arguments.json"
    file.write_text('{"names": ["STAT1"]}')
    piped = run(shell, "call", "find_genes", "-", input='{"names": ["STAT1"]}')
    read = run(shell, "call", "find_genes", f"@{file}")
    assert piped.exit_code == read.exit_code == 0
    assert json.loads(piped.stdout) == json.loads(read.stdout)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("call describe_model - <&-", "standard input is closed"),
        ("tools >/dev/full", "no space is left to write to"),
    ],
)
def test_what_cannot_be_read_or_written_is_one_line(home: Path, line: str, said: str):
    command = f"{sys.executable} -P -m lingshu_tools.cli {line}"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "LINGSHU_HOME": str(home)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("tool", "arguments", "taught"),
    [
        ("perturb_cell", "{}", "perturb_cells"),
        ("perturb_cells", '{"interventions": []}', "interventions"),
        ("describe_model", "[1]", "JSON object"),
        ("describe_model", "{", "JSON"),
        ("describe_model", "@/nowhere.json", "/nowhere.json"),
    ],
)
def test_a_refused_call_prints_the_error_as_json_and_exits_with_one(
    shell: CliRunner, tool: str, arguments: str, taught: str
):
    ran = run(shell, "call", tool, arguments)
    assert ran.exit_code == 1
    result = json.loads(ran.stdout)
    assert result["status"] == "error"
    assert taught in result["summary"]


def test_tools_are_listed_one_to_a_line(shell: CliRunner):
    lines = run(shell, "tools").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(registry())


@pytest.mark.parametrize(
    ("form", "schema"),
    [("openai", "parameters"), ("anthropic", "input_schema"), ("json", "input_schema")],
)
def test_tool_definitions_are_printed_for_frameworks(shell: CliRunner, form: str, schema: str):
    printed = json.loads(run(shell, "tools", "--format", form).stdout)
    assert [tool["name"] for tool in printed] == list(registry())
    assert all(tool[schema]["type"] == "object" for tool in printed)
    closed = [tool[schema].get("additionalProperties") is False for tool in printed]
    assert all(closed) if form == "openai" else not any(closed)


def test_an_experiment_is_listed_shown_replayed_and_verified(shell: CliRunner):
    created = json.loads(run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT)).stdout)
    name = created["experiment_id"]
    assert name in run(shell, "ledger", "list").stdout
    shown = json.loads(run(shell, "ledger", "show", name, "--json").stdout)
    assert shown["experiment_id"] == name
    replayed = run(shell, "replay", name, "--json")
    assert json.loads(replayed.stdout)["verdict"] == "exact"
    assert replayed.exit_code == 0
    verified = run(shell, "ledger", "verify", "--json", "--anchor", created["ledger_head"])
    assert json.loads(verified.stdout)["ok"] is True
    assert verified.exit_code == 0


def test_a_ledger_is_exported_and_imported_elsewhere(shell: CliRunner, tmp_path: Path):
    name = json.loads(run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT)).stdout)
    zipped, other = str(tmp_path / "a.zip"), str(tmp_path / "other")
    created = json.loads(run(shell, "ledger", "export", zipped, "--json").stdout)
    assert created["head"] == name["ledger_head"]
    messages = run(shell, "ledger", "import", zipped, "--into", other)
    assert messages.exit_code == 0, messages.output
    assert created["head"] in messages.stdout
    assert run(shell, "ledger", "verify", "--home", other).exit_code == 0
    shown = run(shell, "ledger", "show", name["experiment_id"], "--home", other)
    assert "STAT1 knockout" in shown.stdout
    again = run(shell, "ledger", "import", zipped, "--into", other)
    assert again.exit_code == 1
    assert "is not empty" in again.stderr


def test_gc_lists_what_it_would_delete_and_deletes_when_told(shell: CliRunner, home: Path):
    run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT))
    orphan = App(home).ledger.objects.path(App(home).ledger.put_object(b"orphan"))
    os.utime(orphan, (1, 1))
    listed = run(shell, "ledger", "gc")
    assert str(orphan) in listed.stdout
    assert "nothing deleted" in listed.stdout
    assert orphan.exists()
    assert json.loads(run(shell, "ledger", "gc", "--delete", "--json").stdout)["deleted"] == 1
    assert not orphan.exists()


def test_a_ledger_file_elsewhere_is_read_without_being_written(shell: CliRunner, home: Path):
    run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT))
    database = home / "experiments.db"
    before = database.read_bytes()
    ran = run(shell, "ledger", "verify", "--ledger", str(database), "--json")
    assert json.loads(ran.stdout)["ok"] is True
    assert database.read_bytes() == before


def test_a_broken_chain_exits_with_one(shell: CliRunner):
    run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT))
    forged = "1:sha256:" + "0" * 64
    ran = run(shell, "ledger", "verify", "--anchor", forged, "--json")
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["problems"]


def test_an_unknown_experiment_is_an_error_for_people_and_for_programs(shell: CliRunner):
    messages = run(shell, "ledger", "show", "exp_none")
    assert messages.exit_code == 1
    assert "exp_none" in messages.stderr
    printed = run(shell, "ledger", "show", "exp_none", "--json")
    assert printed.exit_code == 1
    assert json.loads(printed.stdout)["status"] == "error"


@pytest.mark.parametrize("command", ["doctor", "models", "tools"])
def test_looking_makes_no_home(shell: CliRunner, home: Path, command: str):
    ran = run(shell, command, "--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)
    assert not home.exists()


def test_doctor_says_where_it_looked_and_that_checkpoints_are_intact(shell: CliRunner, home: Path):
    state = json.loads(run(shell, "doctor", "--json").stdout)
    assert state["home"] == str(home)
    assert ": " in state["ledger"]["journal"]
    assert all(value.startswith("intact") for value in state["checkpoints"].values())


def test_home_may_stand_before_or_after_the_command(shell: CliRunner, tmp_path: Path):
    other = tmp_path / "other"
    for line in (
        ["--home", str(other), "doctor", "--json"],
        ["doctor", "--json", "--home", str(other)],
    ):
        assert json.loads(run(shell, *line).stdout)["home"] == str(other)


@pytest.mark.parametrize(
    ("line", "module", "rest"),
    [
        (["train", "--preset", "x", "--help"], "lingshu_model.train", ["--preset", "x", "--help"]),
        (["evaluate", "thp1"], "lingshu_model.evaluate", ["thp1"]),
        (["serve"], "lingshu_mcp", []),
        (["serve", "--http", "127.0.0.1:1"], "lingshu_mcp", ["--http", "127.0.0.1:1"]),
        (["demo"], "lingshu_mcp.demo", []),
        (["engine", "run", "--home", "h", "--threads", "1"], "lingshu_model.engine",
         ["--home", "h", "--threads", "1"]),
    ],
)  # fmt: skip
def test_heavy_commands_become_processes_of_their_own(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, line: list[str], module: str, rest: list[str]
):
    became: list[list[str]] = []
    monkeypatch.setattr("os.execve", lambda _, arguments, __: became.append(arguments))
    assert run(shell, *line).exit_code == 0
    assert became[0][1:] == ["-P", "-m", module, *rest]


def test_the_home_is_handed_on_to_the_process_a_command_becomes(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    homes: list[str] = []
    monkeypatch.setattr("os.execve", lambda _, __, environ: homes.append(environ["LINGSHU_HOME"]))
    run(shell, "serve", "--home", str(tmp_path))
    run(shell, "demo")
    assert homes == [str(tmp_path), str(Path("demo-home").absolute())]


def test_all_experiments_are_replayed_and_a_second_time_only_looked_up(shell: CliRunner):
    for seed in (1, 2):
        run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT | {"seed": seed}))
    first = run(shell, "replay", "--all")
    assert first.exit_code == 0, first.output
    assert "2 of 2 finished experiments replayed: 2 exact" in first.stdout
    assert "2 now, 0 earlier" in first.stdout
    second = json.loads(run(shell, "replay", "--sample", "1%", "--json").stdout)
    assert (second["chosen"], second["replayed_now"], second["replayed_earlier"]) == (1, 0, 1)
    assert second["verdicts"] == {"exact": 1}


def test_a_replay_that_differs_exits_with_one_and_is_named(
    shell: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch
):
    name = json.loads(run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT)).stdout)
    monkeypatch.setattr(
        "lingshu_tools.experiments.replays.compared", lambda *_: Comparison("different", {})
    )
    ran = run(shell, "replay", "--all")
    assert ran.exit_code == 1
    assert f"{name['experiment_id']}: different" in ran.stdout


@pytest.mark.parametrize(
    ("line", "taught"),
    [
        ([], "--sample 1%"),
        (["--all", "--sample", "1%"], "--sample 1%"),
        (["--sample", "1"], "in per cent"),
        (["--sample", "0%"], "in per cent"),
        (["--sample", "101%"], "in per cent"),
        (["exp_x", "--ledger", "pyproject.toml"], "goes with --all"),
    ],
)
def test_a_replay_line_that_says_too_much_or_too_little_is_refused(
    shell: CliRunner, line: list[str], taught: str
):
    ran = run(shell, "replay", *line)
    assert ran.exit_code == 2
    assert taught in ran.stderr


def test_experiments_are_tagged_and_listed_by_tag(shell: CliRunner):
    request = KNOCK_OUT | {"tags": ["pilot"]}
    first = json.loads(run(shell, "call", "perturb_cells", json.dumps(request)).stdout)
    second = json.loads(run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT)).stdout)
    messages = run(shell, "ledger", "tag", second["experiment_id"], "to repeat", "plate 3")
    assert messages.stdout == f"{second['experiment_id']}: plate 3, to repeat\n"
    rows = json.loads(run(shell, "ledger", "list", "--tag", "pilot", "--json").stdout)
    assert [(r["experiment_id"], r["tags"]) for r in rows["experiments"]] == [
        (first["experiment_id"], ["pilot"])
    ]
    assert "plate 3, to repeat" in run(shell, "ledger", "show", second["experiment_id"]).stdout
    taught = run(shell, "call", "perturb_cells", json.dumps(KNOCK_OUT | {"tags": ["\u202ex"]}))
    assert taught.exit_code == 1
