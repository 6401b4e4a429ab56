"""A launcher's variables count only where they are asked for, complete and consistent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lingshu_model.system.launcher import (
    LauncherError,
    named_ranks,
    refuse_changes,
    settle,
)
from lingshu_model.train.__main__ import main
from lingshu_tools.cli import main as lingshu

RANK_1_OF_2 = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
STRAY = {
    "one of one": RANK_1_OF_2 | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
    "one of two": RANK_1_OF_2,
    "empty": {"RANK": "", "WORLD_SIZE": ""},
    "no local world": {"LOCAL_WORLD_SIZE": "0"},
    "words": {"RANK": "first", "WORLD_SIZE": "many", "LOCAL_RANK": "x"},
    "by hand": {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "h"},
    "mpi": {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "PMI_SIZE": "4"},
    "torchrun": RANK_1_OF_2 | {"TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0"},
    "kubeflow": {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "4", "RANK": "0", "WORLD_SIZE": "8"},
    "accelerate": {"ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_TORCH_DEVICE": "cuda:7"},
}


@pytest.mark.parametrize("stray", STRAY.values(), ids=list(STRAY))
@pytest.mark.parametrize("ranks", [None, 1])
def test_variables_nobody_asked_for_are_taken_out(stray: dict[str, str], ranks: int | None):
    environ = {"PATH": "/bin", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "2"} | stray
    assert settle(environ, ranks) is False
    assert environ == {"PATH": "/bin", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "2"}


def test_a_rank_keeps_what_its_launcher_gave_it():
    given = RANK_1_OF_2 | {"TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_RANK": "0"}
    environ = given | {"ACCELERATE_DYNAMO_MODE": "default", "OMPI_COMM_WORLD_SIZE": "9"}
    assert settle(environ, 2) is True
    assert environ == given


@pytest.mark.parametrize("missing", RANK_1_OF_2)
def test_ranks_of_which_a_variable_is_missing_or_empty_are_none(missing: str):
    for stray in (
        {k: v for k, v in RANK_1_OF_2.items() if k != missing},
        RANK_1_OF_2 | {missing: ""},
    ):
        environ = dict(stray)
        assert named_ranks(environ) == 1
        assert settle(environ, 2) is False
        assert environ == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"WORLD_SIZE": "3"}, "--ranks 2, but there are 3 processes"),
        ({"RANK": "2"}, "do not agree .*RANK='2', WORLD_SIZE='2'"),
        ({"RANK": "-1"}, "do not agree"),
        ({"RANK": "0"}, "do not agree .*LOCAL_RANK='1'"),
        ({"LOCAL_WORLD_SIZE": "1"}, "do not agree"),
        ({"LOCAL_WORLD_SIZE": "4"}, "do not agree"),
        ({"MASTER_PORT": "any"}, "do not agree .*leave --ranks out to use one process"),
    ],
)
def test_ranks_that_do_not_agree_are_refused(change: dict[str, str], text: str):
    with pytest.raises(LauncherError, match=text):
        settle(RANK_1_OF_2 | change, 2)


@pytest.mark.parametrize("value", ["", "0", "abc", "-2", "1.5"])
def test_a_number_of_threads_that_is_none_is_taken_out(value: str):
    environ = {"OMP_NUM_THREADS": value}
    settle(environ, None)
    assert environ == {}


CHANGING = [
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
    ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
    ("ACCELERATE_USE_FSDP", "true"),
    ("ACCELERATE_USE_DEEPSPEED", "1"),
    ("ACCELERATE_USE_MEGATRON_LM", "yes"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
]


@pytest.mark.parametrize(("name", "value"), CHANGING)
def test_settings_that_would_change_weights_are_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv(name, value)
    spec = tmp_path / "spec.json"
    spec.write_text("{}")
    said = CliRunner().invoke(main, [str(spec)])
    assert said.exit_code == 1
    assert f"lingshu train: {name}={value!r} would change the weights" in said.output


def test_what_launchers_set_to_nothing_is_not_refused():
    refuse_changes(
        {
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
            "ACCELERATE_DYNAMO_BACKEND": "NO",
            "ACCELERATE_USE_FSDP": "false",
            "ACCELERATE_MIXED_PRECISION": "fp16",  # never read: the command chooses the dtype
        }
    )


def environment_of_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str
) -> dict[str, str]:
    """Return the environment in which the training itself begins."""
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(
        "lingshu_model.train.command.train", lambda *_, **__: seen.append(dict(os.environ))
    )
    spec = tmp_path / "spec.json"
    spec.write_text("{}")
    ended = CliRunner().invoke(main, [str(spec), *arguments])
    assert ended.exit_code == 0, ended.output
    return seen[0]


def test_training_alone_sees_no_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in RANK_1_OF_2.items():
        monkeypatch.setenv(name, value)
    result = environment_of_training(monkeypatch, tmp_path, "--ranks", "1")
    assert not result.keys() & RANK_1_OF_2.keys()


def test_training_by_ranks_sees_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in RANK_1_OF_2.items():
        monkeypatch.setenv(name, value)
    result = environment_of_training(monkeypatch, tmp_path, "--ranks", "2")
    assert result.items() >= RANK_1_OF_2.items()


def test_a_module_that_does_not_know_whether_it_is_a_rank_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name, value in RANK_1_OF_2.items():
        monkeypatch.setenv(name, value)
    spec = tmp_path / "spec.json"
    spec.write_text("{}")
    said = CliRunner().invoke(main, [str(spec)])
    assert said.exit_code == 1
    assert "give --ranks 2 to train in all of them, or --ranks 1 to train" in said.output


@pytest.mark.parametrize(
    ("given", "kept"),
    [(["s.json"], False), (["s.json", "--ranks", "2"], True), (["s.json", "--ranks=2"], True)],
)
def test_the_command_trains_in_one_process_unless_several_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: list[str], kept: bool
):
    for name, value in RANK_1_OF_2.items():
        monkeypatch.setenv(name, value)
    became: list[dict[str, str]] = []
    monkeypatch.setattr("os.execve", lambda _, __, environ: became.append(environ))
    assert CliRunner().invoke(lingshu, ["train", *given]).exit_code == 0
    assert (became[0].items() >= RANK_1_OF_2.items()) is kept
    assert bool(became[0].keys() & RANK_1_OF_2.keys()) is kept


def test_heavy_libraries_are_imported_after_the_environment_is_settled():
    code = (
        "import sys; from lingshu_model.train.__main__ import main; "
        "import lingshu_model.engine.__main__; "
        "print(sys.modules.keys() & {'torch', 'accelerate'})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
