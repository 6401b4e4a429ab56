"""The benchmarks that train or predict, run whole on made cells."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_contexts import CYTOKINE, SPEC, write_data

from benchmarks import contexts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    write_data(tmp_path)
    path = tmp_path / "made.json"
    path.write_text(json.dumps(SPEC | {"sources": SPEC["sources"][:1]}))
    return path


def table(module: str, *words: object) -> list[list[str]]:
    """Run a benchmark, in a process as people do, and return the rows of the table it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_further_sources_are_judged_by_the_preset_s_own_cells(preset: Path, tmp_path: Path) -> None:
    further = tmp_path / "further.json"
    further.write_text(json.dumps(SPEC["sources"][1:]))
    words = (preset, further, "--data", tmp_path, "--out", tmp_path / "out", "--epochs", 1)
    rows = table("sources", *words)
    # Of 8 conditions of 80 cells one is never trained on, and a fifth of the others validates.
    assert [row[:2] for row in rows] == [["stimulated", "112"], ["all", "112"]]
    before, after, change = float(rows[1][2]), float(rows[1][3]), float(rows[1][4].split()[0])
    assert before != after
    assert change == pytest.approx(after - before, abs=2e-5)
    both = json.loads((tmp_path / "out/both/checkpoint/made/config.json").read_text())
    assert both["context_fields"]["dataset"] == ["resting", "stimulated"]
    assert table("sources", *words) == rows, "going on from a finished run changes nothing"


def test_contexts_left_out_are_told_by_the_others(preset: Path, tmp_path: Path) -> None:
    rows = table("contexts", preset, "--target", CYTOKINE, "--data", tmp_path)
    assert [row[0] for row in rows[::3]] == [
        f"{t} stimulated" for t in ("B cell", "CD8 T cell", "monocyte")
    ]
    told = {(row[0].removesuffix(" stimulated"), row[1]): float(row[2]) for row in rows}
    assert all(
        told[kind, "its relatives"] > 0.3 for kind in ("B cell", "CD8 T cell", "monocyte")
    ), told
    assert told["CD8 T cell", "its relatives"] > told["CD8 T cell", "the nearest"]


def test_a_target_that_too_few_contexts_have_is_refused(preset: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        contexts.main, [str(preset), "--target", "TNF", "--data", str(tmp_path)]
    )
    assert done.exit_code == 1
    assert "0 contexts of made have 'TNF'; three are needed" in done.output
