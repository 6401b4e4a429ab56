"""The crate, judged by the RO-Crate community's own validator, where that is installed."""

import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

JUDGE = Path(__file__).with_name("validate_crate.py")


@pytest.fixture
def issues() -> Callable[[Path], list[str]]:
    """What the validator says of an archive that the profile requires otherwise."""
    python = os.environ.get("ROC_PYTHON")
    if not python:
        pytest.skip(
            "ROC_PYTHON is not set: make an environment, `pip install roc-validator==0.13.0` and "
            "`pip install --no-deps rocrate==0.13.0` in it, and name its python"
        )

    def judge(archive: Path) -> list[str]:
        messages = subprocess.run(
            [python, JUDGE, archive, "required"], capture_output=True, text=True, check=False
        )
        assert messages.returncode == 0, messages.stderr
        result = json.loads(messages.stdout)
        assert result["passed"] == (result["issues"] == [])
        return result["issues"]

    return judge


def test_the_validator_finds_nothing_that_process_run_crate_requires(
    issues: Callable[[Path], list[str]], archive: Path
):
    assert issues(archive) == []


def test_the_validator_would_find_an_action_without_its_instrument(
    issues: Callable[[Path], list[str]], archive: Path, tmp_path: Path
):
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(broken, "w") as copy:
        for name in whole.namelist():
            data = whole.read(name)
            if name == "ro-crate-metadata.json":
                crate = json.loads(data)
                for entity in crate["@graph"]:
                    entity.pop("instrument", None)
                data = json.dumps(crate).encode()
            copy.writestr(name, data)
    assert [result for result in issues(broken) if "instrument" in result]
