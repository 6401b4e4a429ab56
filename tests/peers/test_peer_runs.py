"""Peers are run on what they may see, and what they leave is kept as everyone's cells are."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_peers import BAD, GOOD, split_folder
from safetensors.numpy import load

from benchmarks import environments
from benchmarks.peers import driver
from benchmarks.peers.driver import Peer, Places, run_peer
from lingshu_model.contracts import decode_cells


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """A split and, already run on it with seeds 0 and 1, the peer `good`."""
    home = tmp_path_factory.mktemp("peers")
    scripts = home / "scripts"
    scripts.mkdir()
    (scripts / "good.py").write_text(GOOD)
    (scripts / "bad.py").write_text(BAD)
    places = Places(split_folder(home / "split"), home / "out", home / "envs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "SCRIPTS", scripts)
        patch.setattr(driver, "PEERS", {n: Peer("here", f"{n}.py") for n in ("good", "bad")})
        patch.setattr(driver, "python_of", lambda *_: Path(sys.executable))
        run_peer("good", places, [0, 1], [])
        yield places


def test_a_peer_sees_no_held_out_cell(places: Places):
    said = (places.out / "good" / "log-1.txt").read_text()
    assert said == "seen ['train.h5ad', 'validation.h5ad', 'wanted.json']\n"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_peer_leaves_as_many_cells_of_every_wanted_condition_as_are_held_out(
    places: Places, seed: int
):
    result = {
        path.name.removesuffix(".safetensors"): decode_cells(path.read_bytes())
        for path in (places.out / "made" / f"seed-{seed}").glob("*.safetensors")
    }
    sizes = {name: len(cells) for name, cells in result.items()}
    assert sizes == {"T, one": 3, "B, two": 2, "B, one": 7, "B, one, IFN": 7}
    assert (result["T, one"].counts == seed + 1).all()


def test_what_a_data_set_does_not_measure_is_no_count(places: Places):
    folder = places.out / "made" / "seed-0"
    unmeasured = decode_cells((folder / "B, two.safetensors").read_bytes())
    assert unmeasured.measured.tolist() == [True, True, False, True]
    assert unmeasured.counts[:, 2].sum() == 0
    assert decode_cells((folder / "B, one.safetensors").read_bytes()).measured.all()


def test_a_peer_without_counts_hands_over_its_expression(places: Places):
    blob = (places.out / "made-means" / "seed-0" / "B, two.log1p.safetensors").read_bytes()
    arrays = load(blob)
    assert np.array_equal(arrays["log1p_cp10k"], np.tile(np.float32([0.5, 0.5, 0, 0.5]), (2, 1)))
    assert arrays["measured"].tolist() == [1, 1, 0, 1]


def test_a_seed_is_run_again_only_with_other_options(places: Places):
    elsewhere = replace(places, out=places.out.with_name("elsewhere"))
    shutil.copytree(places.out, elsewhere.out)
    log = elsewhere.out / "good" / "log-0.txt"
    log.write_text("untouched")
    folders = run_peer("good", elsewhere, [0, 1], [])
    assert folders == [elsewhere.out / "made", elsewhere.out / "made-means"]
    assert log.read_text() == "untouched"
    run_peer("good", elsewhere, [0], ["--epochs", "9"])
    assert log.read_text() != "untouched"


def test_what_a_run_took_stands_in_the_table_of_costs(places: Places):
    assert "| made | 0 | 1,200 |  |  | 12.5 |  |  |" in driver.cost_table(places.out).splitlines()
    with pytest.raises(ValueError, match=r"notes\.json"):
        driver.cost_table(places.split)


def test_a_peer_that_fails_leaves_its_words_and_no_cells(places: Places, tmp_path: Path):
    with pytest.raises(subprocess.CalledProcessError):
        run_peer("bad", replace(places, out=tmp_path), [0], [])
    assert "not to my taste" in (tmp_path / "bad" / "log-0.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_our_packages_are_out_of_a_peers_reach(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "here")
    assert "PYTHONPATH" not in environments.surroundings()


def test_an_environment_is_installed_once_and_again_when_its_requirements_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed: list[Path] = []

    def install(home: Path, _required: Path) -> None:
        installed.append(home)
        home.mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "install", install)
    required = tmp_path / "peer.txt"
    required.write_text("one==1\n")
    for _ in range(2):
        python = environments.python_of("peer", required, tmp_path)
    assert python == tmp_path / "peer" / "bin" / "python"
    required.write_text("one==2\n")
    environments.python_of("peer", required, tmp_path)
    assert installed == [tmp_path / "peer"] * 2
