"""`lingshu screen`: the same screen as every door, from a terminal, and resumable."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.cli import main, screen_command

SCREEN = (
    "screen",
    "--lower",
    "PSMB9",
    "--lower",
    "IRF1:2",
    "-n",
    "16",
    "-c",
    "STAT1",
    "-c",
    "JAK2",
)


def run(shell: CliRunner, *arguments: str) -> Result:
    return shell.invoke(main, list(arguments))


def test_a_screen_is_planned_run_and_ranked(shell: CliRunner, home: Path):
    ran = run(shell, *SCREEN, "--json")
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result["status"] == "succeeded"
    assert {row["perturbation"] for row in result["ranking"]} == {"STAT1 knockout", "JAK2 knockout"}
    assert result["objective"]["lower"] == ["IRF1:2", "PSMB9"]
    same = call(App(home), "run_screen", {"screen_id": result["screen_id"], "wait_s": 45})
    assert [r.score for r in same.ranking] == [r["score"] for r in result["ranking"]]


def test_the_same_command_or_the_id_goes_on_with_the_same_screen(shell: CliRunner, home: Path):
    first = run(shell, *SCREEN)
    assert first.exit_code == 0, first.output
    (screen,) = App(home).ledger.find_screens()
    assert f"lingshu screen {screen.id} goes on" in first.stderr
    head = str(App(home).ledger.head())
    again, by_id = run(shell, *SCREEN), run(shell, "screen", screen.id)
    assert again.stdout == by_id.stdout == first.stdout
    assert str(App(home).ledger.head()) == head
    assert "STAT1 knockout" in first.stdout


def test_a_dry_run_plans_and_begins_nothing(shell: CliRunner, home: Path):
    ran = run(shell, *SCREEN, "--dry-run", "--json")
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result["status"] == "planned"
    assert not App(home).ledger.children(result["screen_id"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("screen", "scr_1", "--lower", "PSMB9"), ["scr_1", "objective", "leave out"]),
        (("screen",), ["no gene"]),
        (("screen", "--lower", "NOGENE"), ["NOGENE"]),
        (("screen", "scr_0000"), ["scr_0000"]),
        (("screen", "--lower", "PSMB9", "--magnitude", "nan"), ["magnitude"]),
        (("screen", "--lower", "PSMB9", "--context", "x"), ["context"]),
        (("screen", "--lower", "PSMB9", "--budget", "3"), ["budget=3"]),
    ],
)
def test_a_wrong_command_is_refused_and_nothing_is_stored(
    shell: CliRunner, home: Path, arguments: tuple[str, ...], words: list[str]
):
    ran = run(shell, *arguments)
    assert ran.exit_code != 0
    assert all(word in ran.output for word in words), ran.output
    assert "Traceback" not in ran.output
    assert not App(home).ledger.find_screens()


def test_an_interruption_says_how_to_go_on(
    shell: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(app: App, tool: str, arguments: dict) -> object:
        if tool == "run_screen":
            raise KeyboardInterrupt
        return call(app, tool, arguments)

    with monkeypatch.context() as patched:
        patched.setattr("lingshu_tools.calls.dispatcher.call", interrupted)
        ran = run(shell, *SCREEN)
    (screen,) = App(home).ledger.find_screens()
    assert ran.exit_code == 130
    assert f"lingshu screen {screen.id} goes on" in ran.stderr
    assert run(shell, "screen", screen.id).exit_code == 0


def test_a_candidate_that_fails_ends_the_command_with_an_error(
    shell: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch
):
    submitted: list[str] = []
    submit, wait = FakeEngine.submit, FakeEngine.wait

    def counted(self: FakeEngine, arm, **more):
        submitted.extend(i.target for i in arm.interventions)
        return submit(self, arm, **more)

    def failing(self: FakeEngine, job_id: str, wait_s: float):
        view = wait(self, job_id, wait_s)
        if any(i.target == "JAK2" for i in self.arms[job_id].interventions):
            return view.model_copy(update={"state": "failed", "error": "not enough memory"})
        return view

    monkeypatch.setattr(FakeEngine, "submit", counted)
    monkeypatch.setattr(FakeEngine, "wait", failing)
    monkeypatch.setattr(screen_command, "STEP_S", 0.0)
    ran = run(shell, *SCREEN, "--json")
    result = json.loads(ran.stdout)
    assert any("JAK2" in caveat for caveat in result["caveats"])
    assert [row["perturbation"] for row in result["ranking"]] == ["STAT1 knockout"]
    # It is begun once: the command does not try again what failed.
    assert submitted.count("JAK2") == 1


def test_a_pipe_gets_a_line_of_progress_each_half_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    clock = iter([0.0, 29.0, 31.0, 45.0, 62.0])
    monkeypatch.setattr(screen_command.time, "monotonic", lambda: next(clock))
    lines = screen_command.Lines("scr_1")
    for cells in (10, 2000, 2500, 4000):
        lines(cells, 4096)
    assert capsys.readouterr().err == "scr_1: 2,000 of 4,096 cells\nscr_1: 4,000 of 4,096 cells\n"
