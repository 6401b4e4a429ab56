"""Files are read from allowed folders alone, whatever a path looks like."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from lingshu_tools.cli import main
from lingshu_tools.errors import InputError, LedgerError, NotFoundError
from lingshu_tools.user_cells import Roots


@pytest.fixture
def roots(tmp_path: Path, folder: Path) -> Roots:
    roots = Roots(tmp_path / "home")
    roots.add(folder)
    return roots


def test_nothing_is_read_before_a_folder_is_allowed(tmp_path: Path, file: Path):
    with pytest.raises(InputError, match="lingshu roots add"):
        Roots(tmp_path / "home").allowed(str(file))


def test_a_file_is_named_by_its_path_or_relative_to_a_folder(roots: Roots, file: Path):
    assert roots.allowed(str(file)) == file.resolve()
    assert roots.allowed("mine.h5ad") == file.resolve()


def test_what_is_outside_is_refused_alike_whether_or_not_it_exists(roots: Roots, tmp_path: Path):
    (tmp_path / "secret.h5ad").write_bytes(b"")
    texts: list[str] = []
    for name in ("secret.h5ad", "nothing.h5ad"):
        with pytest.raises(InputError) as refused:
            roots.allowed(str(tmp_path / name))
        texts.append(str(refused.value).replace(name, "NAME"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "path", ["../secret.h5ad", "sub/../../secret.h5ad", "link.h5ad", "folder/secret.h5ad"]
)
def test_no_detour_leads_out_of_a_folder(roots: Roots, folder: Path, tmp_path: Path, path: str):
    (tmp_path / "secret.h5ad").write_bytes(b"")
    (folder / "sub").mkdir()
    (folder / "link.h5ad").symlink_to(tmp_path / "secret.h5ad")
    (folder / "folder").symlink_to(tmp_path)
    for given in (path, str(folder / path)):
        with pytest.raises(InputError, match="no allowed folder"):
            roots.allowed(given)


def test_a_folder_with_a_longer_name_is_another_folder(roots: Roots, folder: Path):
    beside = folder.with_name(f"{folder.name}-private")
    beside.mkdir()
    (beside / "x.h5ad").write_bytes(b"")
    with pytest.raises(InputError, match="no allowed folder"):
        roots.allowed(str(beside / "x.h5ad"))


@pytest.mark.parametrize(
    "given", ["", ".", "\0", pytest.param("a" * 5000, id="long"), "mine.h5ad\0.txt"]
)
def test_what_is_no_file_is_refused_in_words(roots: Roots, file: Path, given: str):
    with pytest.raises(InputError):
        roots.allowed(given)


def test_a_pipe_is_no_file(roots: Roots, folder: Path):
    os.mkfifo(folder / "pipe.h5ad")
    with pytest.raises(NotFoundError):
        roots.allowed("pipe.h5ad")


@pytest.mark.parametrize("high", ["/", "~", "home"])
def test_folders_that_hold_everything_are_not_allowed(
    roots: Roots, tmp_path: Path, high: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "home").mkdir(exist_ok=True)
    folder = tmp_path if high == "home" else Path(high)
    with pytest.raises(InputError, match="more than data files"):
        roots.add(folder)


def test_a_name_in_two_folders_must_be_given_whole(roots: Roots, file: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / file.name).write_bytes(b"")
    roots.add(other)
    with pytest.raises(InputError, match="several folders"):
        roots.allowed(file.name)


def test_the_list_of_folders_is_not_read_through_a_link(roots: Roots, tmp_path: Path, file: Path):
    (tmp_path / "theirs.json").write_text('{"roots": ["/"]}')
    roots.file.unlink()
    roots.file.symlink_to(tmp_path / "theirs.json")
    with pytest.raises(LedgerError, match="symbolic link"):
        roots.allowed(str(file))


def test_a_removed_folder_is_closed_at_once(roots: Roots, folder: Path, file: Path):
    roots.remove(folder)
    with pytest.raises(InputError, match="no folder is allowed"):
        roots.allowed(str(file))
    with pytest.raises(NotFoundError):
        roots.remove(folder)


def test_the_command_line_adds_lists_and_removes(tmp_path: Path, folder: Path):
    def run(*arguments: str) -> str:
        shown = CliRunner().invoke(main, ["roots", *arguments, "--home", str(tmp_path / "h")])
        assert shown.exit_code == 0, shown.output
        return shown.stdout

    assert "lingshu roots add" in run("list")
    assert str(folder) in run("add", str(folder))
    assert json.loads(run("list", "--json")) == [str(folder)]
    run("remove", str(folder))
    assert json.loads(run("--json")) == []
