"""`lingshu models`: checkpoints added to a home, packed for others, verified, removed."""

import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from lingshu_model.contracts import Catalogue, CheckpointError, digest_file
from lingshu_model.contracts.catalogue import FORMAT, pin
from lingshu_tools import training
from lingshu_tools.app import App
from lingshu_tools.cli import main
from lingshu_tools.errors import InputError, LingshuError, NotFoundError


def made_run(root: Path, name: str = "mine", value: float = 1.0, *, pool: bool = False) -> Path:
    """Return the folder of a training run with a small checkpoint in it."""
    folder = root / name / "checkpoint" / name
    folder.mkdir(parents=True)
    context = {"cell_type": "T"}
    config = {"format": FORMAT, "name": name, "contexts": [{"context": context, "n_cells": 3}]}
    (folder / "config.json").write_text(json.dumps({**config, "seen": []}))
    (folder / "panel.json").write_text(json.dumps({"genes": [{"symbol": "G0"}]}))
    save_file({"w": np.full(9, value, np.float32)}, folder / "model-00.safetensors")
    if pool:
        save_file({"counts": np.ones(4, np.uint16)}, folder / "pool-00.safetensors")
    pin(folder)
    return root / name


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_run_is_added_and_found_by_every_tool_of_the_home(tmp_path: Path, home: Path):
    added = training.add(home, made_run(tmp_path / "runs"))
    assert added.origin == "added"
    catalogue = App(home).catalogue
    assert catalogue.load("mine").digest == added.checkpoint.digest
    assert catalogue.load("mine").path == home / "models" / "mine"
    assert {k.checkpoint.name: k.origin for k in training.kept(home, catalogue)} == {
        "mine": "added",
        "k562-crispra-semisynthetic": "shipped",
        "pbmc": "shipped",
        "thp1-crispr": "shipped",
    }


@pytest.mark.parametrize("part", ["", "checkpoint", "checkpoint/mine"])
def test_any_folder_of_a_run_will_do(tmp_path: Path, home: Path, part: str):
    run = made_run(tmp_path / "runs")
    assert training.add(home, run / part).checkpoint.name == "mine"
    # A second time it is there already.
    assert training.add(home, run / part).checkpoint.name == "mine"
    assert sorted(p.name for p in (home / "models").iterdir()) == ["mine", "mine.digests.json"]


def test_a_colleague_adds_the_pack_and_has_the_same_checkpoint(tmp_path: Path, home: Path):
    mine = training.add(home, made_run(tmp_path / "runs")).checkpoint
    first = training.pack(mine, tmp_path / "mine.lingshu")
    theirs = training.add(tmp_path / "other", first, digest=mine.digest).checkpoint
    assert theirs.digest == mine.digest
    assert {p.name: p.read_bytes() for p in theirs.path.iterdir()} == {
        p.name: p.read_bytes() for p in mine.path.iterdir()
    }
    again = training.pack(theirs, tmp_path / "again.lingshu")
    assert again.read_bytes() == first.read_bytes()


def test_a_pack_is_held_against_the_digest_of_its_maker(tmp_path: Path, home: Path):
    mine = training.add(home, made_run(tmp_path / "runs")).checkpoint
    pack = training.pack(mine, tmp_path / "mine.lingshu")
    with pytest.raises(InputError, match="is asked for"):
        training.add(tmp_path / "other", pack, digest="sha256:0")
    assert not [*(tmp_path / "other" / "models").iterdir()]


@pytest.mark.parametrize("name", ["model-00.safetensors", "config.json", "panel.json"])
def test_a_changed_file_is_never_added(tmp_path: Path, home: Path, name: str):
    run = made_run(tmp_path / "runs")
    with (run / "checkpoint/mine" / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match="but its pinned digest is"):
        training.add(home, run)
    assert not [*(home / "models").iterdir()]


def test_a_name_that_is_taken_is_refused_and_may_be_replaced(tmp_path: Path, home: Path):
    training.add(home, made_run(tmp_path / "one"))
    other = made_run(tmp_path / "two", value=2.0)
    with pytest.raises(InputError, match="another checkpoint called 'mine'"):
        training.add(home, other)
    new = training.add(home, other, replace=True).checkpoint
    assert Catalogue([home / "models"]).load("mine").digest == new.digest
    with pytest.raises(InputError, match="shipped checkpoint"):
        training.add(home, made_run(tmp_path / "three", "pbmc"))


def test_what_holds_no_checkpoint_is_refused_with_what_would(tmp_path: Path, home: Path):
    (tmp_path / "empty").mkdir()
    for source, words in ((tmp_path / "empty", "holds no checkpoint"),
                          (tmp_path / "gone", "does not exist")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            training.add(home, source)


def test_a_removed_checkpoint_is_gone_and_no_other_is(tmp_path: Path, home: Path):
    training.add(home, made_run(tmp_path / "runs"))
    training.add(home, made_run(tmp_path / "runs", "other"))
    training.remove(home, "mine")
    assert "mine" not in App(home).catalogue.names()
    assert "other" in App(home).catalogue.names()
    for name in ("mine", "pbmc", "../models/other", "*"):
        with pytest.raises(NotFoundError, match="no checkpoint"):
            training.remove(home, name)


Change = Callable[[zipfile.ZipFile], None]


def member(name: str, text: str = "{}", mode: int = stat.S_IFREG | 0o600) -> Change:
    def change(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, text)

    return change


HOSTILE: dict[str, tuple[Change, str]] = {
    "a parent": (member("../evil.json"), "no file of a checkpoint"),
    "a parent within": (member("mine/../../evil.json"), "no file of a checkpoint"),
    "an absolute path": (member("/tmp/evil.json"), "no file of a checkpoint"),
    "a drive": (member("C:\\evil.json"), "no file of a checkpoint"),
    "a folder": (member("mine/more/"), "no file of a checkpoint"),
    "a deeper file": (member("mine/more/config.json"), "no file of a checkpoint"),
    "a link": (member("mine/link.json", "/etc/passwd", stat.S_IFLNK | 0o777), "no file"),
    "a pickle": (member("mine/weights.pkl"), "no file of a checkpoint"),
    "code": (member("mine/run.py"), "no file of a checkpoint"),
    "a hidden file": (member("mine/.config.json"), "no file of a checkpoint"),
    "another checkpoint": (member("other/config.json"), "must hold one checkpoint"),
    "a file without digest": (member("mine/more.json"), "not in both"),
    "a file twice": (member("mine/config.json"), "twice"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_pack_with_anything_else_is_refused_and_leaves_nothing(
    tmp_path: Path, home: Path, hostile: str
):
    checkpoint = training.add(home, made_run(tmp_path / "runs")).checkpoint
    pack = training.pack(checkpoint, tmp_path / "mine.lingshu")
    change, words = HOSTILE[hostile]
    with zipfile.ZipFile(pack, "a") as archive:
        change(archive)
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words):
        training.add(home, pack)
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_truncated_pack_and_a_file_that_is_none_are_refused(tmp_path: Path, home: Path):
    checkpoint = training.add(home, made_run(tmp_path / "runs")).checkpoint
    pack = training.pack(checkpoint, tmp_path / "mine.lingshu")
    (tmp_path / "half.lingshu").write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])
    (tmp_path / "text.lingshu").write_text("no zip")
    for name in ("half", "text"):
        with pytest.raises(InputError, match="no pack of a checkpoint"):
            training.add(home, tmp_path / f"{name}.lingshu")


def test_a_pack_that_claims_more_than_it_holds_is_refused(tmp_path: Path, home: Path):
    checkpoint = training.add(home, made_run(tmp_path / "runs")).checkpoint
    pack = training.pack(checkpoint, tmp_path / "mine.lingshu")
    data = bytearray(pack.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = (2**31 - 1).to_bytes(4, "little")
    pack.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"more than is taken|is damaged"):
        training.add(home, pack)


def run(home: Path, *line: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["--home", str(home), *line])
    return result.exit_code, result.output


def test_the_commands_add_list_verify_pack_and_remove(tmp_path: Path, home: Path):
    source = made_run(tmp_path / "runs")
    status, said = run(home, "models", "add", str(source))
    assert status == 0
    assert "mine is added: 1 genes, sha256:" in said
    assert "mine  added" in run(home, "models")[1]
    assert "mine  added" in run(home, "models", "list")[1]
    assert run(home, "models", "verify", "mine")[0] == 0
    target = tmp_path / "mine.lingshu"
    status, said = run(home, "models", "pack", "mine", "--out", str(target))
    assert status == 0
    assert "lingshu models add mine.lingshu --digest sha256:" in said
    assert run(home, "models", "pack", "mine", "--out", str(target))[0] == 1
    assert run(home, "models", "remove", "mine")[0] == 2
    status, said = run(home, "models", "remove", "mine", "--yes")
    assert (status, said) == (0, "mine is removed\n")
    assert run(home, "models", "verify", "mine")[0] == 1


@pytest.mark.parametrize("pool", [True, False])
def test_a_checkpoint_with_real_cells_says_so_wherever_it_is_named(
    tmp_path: Path, home: Path, pool: bool
):
    words, folder = "real control cells of its training data", tmp_path / "runs"
    lines = [
        ("models", "add", str(made_run(folder, pool=pool))),
        ("models",),
        ("models", "list"),
        ("models", "pack", "mine", "--out", str(tmp_path / "a.lingshu")),
        ("--home", str(tmp_path / "other"), "models", "add", str(tmp_path / "a.lingshu")),
    ]
    for line in lines:
        status, said = run(home, *line)
        assert status == 0
        assert (words in said) == pool, line
    parsed = json.loads(CliRunner().invoke(main, ["--home", str(home), "models", "--json"]).stdout)
    assert {r["name"]: r["holds_training_cells"] for r in parsed}["mine"] == pool
    line = ["--home", str(home), "models", "pack", "mine", "--out", str(tmp_path / "b"), "--json"]
    assert json.loads(CliRunner().invoke(main, line).stdout)["holds_training_cells"] == pool


def test_verify_names_the_file_that_is_damaged(tmp_path: Path, home: Path):
    training.add(home, made_run(tmp_path / "runs"))
    weights = home / "models/mine/model-00.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (home / "models/mine/more.txt").write_text("")
    status, said = run(home, "models", "verify", "mine", "--json")
    wrong = json.loads(said)["wrong"]
    assert status == 1
    assert "model-00.safetensors" in wrong[0]
    assert "more.txt is no file of the checkpoint" in wrong[1]


def test_a_checkpoint_replaced_under_way_is_whole_at_every_moment(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    old = training.add(home, made_run(tmp_path / "one")).checkpoint

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises((OSError, LingshuError)):
        training.add(home, made_run(tmp_path / "two", value=2.0), replace=True)
    assert training.verify(Catalogue([home / "models"]).load("mine")) == []
    assert Catalogue([home / "models"]).load("mine").digest == old.digest
    assert len([*(home / "models").iterdir()]) == 2


def pin_as(folder: Path, name: str, digest: str | None = None) -> None:
    """Pin a further file of a checkpoint under a name of any kind."""
    pins = folder.parent / f"{folder.name}.digests.json"
    content = json.loads(pins.read_text())
    content["files"][name] = digest or digest_file(folder / name)
    pins.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["../../../roots.json", "more/file.json", "..", "", "C:evil.json", "a\\b.json", "a\0b"]
)
def test_a_folder_whose_digests_name_a_file_elsewhere_is_refused_and_writes_nothing(
    tmp_path: Path, home: Path, name: str
):
    run = made_run(tmp_path / "runs" / "of" / "a" / "stranger")
    folder = run / "checkpoint" / "mine"
    # From the folder of a checkpoint that is being added, this leads to the home.
    (folder / "../../../roots.json").write_text('{"roots": ["/"]}')
    (folder / "more").mkdir()
    (folder / "more" / "file.json").write_text("{}")
    pin_as(folder, name, digest_file(folder / name) if name[-5:] in ("s.json", "e.json") else "x")
    with pytest.raises(InputError, match="is no file of the folder"):
        training.add(home, run)
    assert sorted(str(p.relative_to(home)) for p in home.rglob("*")) == ["models"]


DAMAGED = {
    "a list": "[]",
    "too deep": "[" * 100_000,
    "UTF-16": "{}".encode("utf-16"),
    "another format": json.dumps({"format": ["x"]}),
    "no conditions": json.dumps({"format": FORMAT, "contexts": []}),
    "contexts of another form": json.dumps({"format": FORMAT, "contexts": {"a": 1}, "seen": []}),
    "a condition without target": json.dumps(
        {
            "format": FORMAT,
            "contexts": [],
            "seen": [{"context": {}, "interventions": [{"kind": "knockout"}]}],
        }
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_checkpoint_of_another_form_is_refused_and_hinders_no_other(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, damage: str
):
    source = made_run(tmp_path / "runs")
    content = DAMAGED[damage]
    folder = source / "checkpoint" / "mine"
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "config.json").write_bytes(data)
    pin(folder)
    with pytest.raises(InputError, match=r"mine.*(cannot be read|has the format|copy the check)"):
        training.add(home, source)
    monkeypatch.setenv("LINGSHU_CHECKPOINTS", str(folder.parent))
    status, said = run(home, "models", "list")
    assert status == 0
    assert "mine cannot be used" in said
    assert "pbmc" in said
    status, said = run(home, "call", "describe_model", '{"checkpoint": "pbmc"}')
    assert status == 0
    status, said = run(home, "models", "verify", "mine")
    assert status == 1
    assert said.startswith("Error: ")


def test_a_link_in_the_place_of_the_folder_of_checkpoints_is_not_followed(
    tmp_path: Path, home: Path
):
    home.mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    (home / "models").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LingshuError, match="is a symbolic link"):
        training.add(home, made_run(tmp_path / "runs"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "panel", ["[]", "{}", '{"genes": []}', '{"genes": [{"symbol": 3}]}', '{"genes": ["G0"]}']
)
def test_a_panel_without_genes_is_named(tmp_path: Path, home: Path, panel: str):
    run = made_run(tmp_path / "runs")
    (run / "checkpoint/mine/panel.json").write_text(panel)
    pin(run / "checkpoint/mine")
    with pytest.raises((InputError, CheckpointError), match="no list of genes with symbols"):
        _ = training.add(home, run).checkpoint.panel
