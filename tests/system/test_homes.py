"""A home is its user's alone: modes, owners and links."""

import json
import os
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner
from other_users import OTHER_UID, as_user, by_root

from lingshu_model.contracts import Catalogue, CheckpointError
from lingshu_tools.archive import export_ledger, import_ledger
from lingshu_tools.cli import main
from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, default_home, open_home
from lingshu_tools.ledger.home import FILES, FOLDERS
from lingshu_tools.system.home_modes import check_access

NEW = NewExperiment(
    tool="sample_cells",
    request={"n": 1},
    seed=1,
    checkpoint="tiny",
    checkpoint_digest="sha256:" + "1" * 64,
    panel_digest="sha256:" + "2" * 64,
)


def fill(home: Path) -> Ledger:
    """Make what a home holds, by the ledger's own means."""
    ledger = Ledger.open(home)
    experiment = ledger.begin(NEW)
    with ledger.attempt(experiment.id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="succeeded", artifacts={"cells": b"cells"}))
    ledger.find(text="exp_")  # makes the search index
    ledger._spool.put("exp_waiting", {"a": 1})
    return ledger


def modes(home: Path) -> dict[str, int]:
    return {
        str(path.relative_to(home.parent)): stat.S_IMODE(path.lstat().st_mode)
        for path in (home, *home.rglob("*"))
    }


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777], ids=oct)
@pytest.mark.parametrize(
    "uid", [pytest.param(OTHER_UID, marks=by_root), pytest.param(None, id="this user")]
)
def test_a_new_home_is_private_whatever_the_umask(
    tmp_path: Path, umask: Callable[[int], None], mask: int, uid: int | None
) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    fill(tmp_path / "first")  # imports what another user may not be able to read
    if uid is not None:
        os.chown(place, uid, uid)
    # Root may read a file of the mode 0000; another user may not, so both are tried.
    with nullcontext() if uid is None else as_user(uid, tmp_path):
        umask(mask)
        fill(place / "new" / "home")
        umask(0o022)
    created = modes(place / "new")
    assert {"new/home/experiments.db", "new/home/heads.txt", "new/home/objects"} <= created.keys()
    expected = {name: 0o700 if (place / name).is_dir() else 0o600 for name in created}
    assert created == expected


@by_root
@pytest.mark.parametrize("name", ["", *FILES, *FOLDERS, "heads.txt"])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    fill(home)
    path = home / name
    if not path.exists():
        path.mkdir() if name in FOLDERS else path.touch()
    os.chown(path, OTHER_UID, OTHER_UID)
    with pytest.raises(LedgerError, match=f"{path} belongs to user {OTHER_UID}.*LINGSHU_HOME"):
        Ledger.open(home)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS, "heads.txt"])
def test_a_link_in_a_home_is_refused_and_its_target_left_alone(tmp_path: Path, name: str) -> None:
    home, target = tmp_path / "home", tmp_path / "target"
    home.mkdir(mode=0o700)
    if name in FOLDERS:
        target.mkdir()
    else:
        target.write_bytes(b"precious")
    (home / name).symlink_to(target)
    with pytest.raises(LedgerError, match=f"{name} is a symbolic link, which is never followed"):
        fill(home)
    assert list(target.iterdir()) == [] if name in FOLDERS else target.read_bytes() == b"precious"


def test_a_link_under_the_name_of_an_object_is_no_object(tmp_path: Path) -> None:
    ledger = fill(tmp_path / "home")
    digest = ledger.put_object(b"more cells")
    path = ledger.objects.path(digest)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert not ledger.has_object(digest)
    assert ledger.put_object(b"more cells") == digest
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)  # opening it would wait for a writer
    assert not ledger.has_object(digest)


def test_a_link_in_the_place_of_a_folder_of_objects_is_refused(tmp_path: Path) -> None:
    ledger = fill(tmp_path / "home")
    digest = ledger.put_object(b"more cells")
    folder = ledger.objects.path(digest).parent
    ledger.objects.path(digest).unlink()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LedgerError, match="is a symbolic link"):
        ledger.put_object(b"more cells")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_home_may_be_a_link_to_a_folder_of_this_users(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "home").symlink_to(tmp_path / "real")
    fill(tmp_path / "home")
    assert (tmp_path / "real" / "experiments.db").is_file()


@by_root
def test_a_home_may_not_be_a_link_to_another_users_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.chown(tmp_path / "real", OTHER_UID, OTHER_UID)
    (tmp_path / "home").symlink_to(tmp_path / "real")
    with pytest.raises(LedgerError, match=f"belongs to user {OTHER_UID}"):
        Ledger.open(tmp_path / "home")


@by_root
def test_a_volume_of_roots_that_anybody_may_write_to_can_be_a_home(tmp_path: Path) -> None:
    # As containers get one. What others put into it is not used.
    fill(tmp_path / "first")
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    with as_user(OTHER_UID, tmp_path):
        fill(home)
    with as_user(OTHER_UID + 1), pytest.raises(LedgerError, match=f"belongs to user {OTHER_UID}"):
        Ledger.open(home)


@by_root
def test_a_home_that_cannot_be_entered_says_what_to_set(tmp_path: Path) -> None:
    fill(tmp_path / "home")
    for home in (tmp_path / "home", tmp_path / "new"):
        with (
            as_user(OTHER_UID, tmp_path),
            pytest.raises(LedgerError, match="set LINGSHU_HOME to a folder"),
        ):
            open_home(home)


@by_root
def test_checkpoints_of_a_home_that_cannot_be_entered_are_an_error_that_says_what_to_set(
    tmp_path: Path,
) -> None:
    fill(tmp_path / "home")
    with (
        as_user(OTHER_UID, tmp_path),
        pytest.raises(CheckpointError, match=r"cannot be read .* set LINGSHU_HOME to a folder"),
    ):
        Catalogue(home=tmp_path / "home").names()


def test_without_a_home_folder_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> Path:
        message = "Could not determine home directory."
        raise RuntimeError(message)

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("LINGSHU_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(InputError, match=r"has no home folder .*: set LINGSHU_HOME to a folder"):
        default_home()
    monkeypatch.setenv("LINGSHU_HOME", "~/cells")
    with pytest.raises(InputError, match="set LINGSHU_HOME"):
        default_home()
    monkeypatch.delenv("LINGSHU_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    if not str(default_home()).startswith("/data"):
        pytest.fail("XDG_DATA_HOME needs no home folder")


def test_a_home_whose_name_is_no_utf8_is_refused_with_what_to_set(tmp_path: Path) -> None:
    home = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(LedgerError, match=r"caf\\xe9.*no UTF-8 text.*LINGSHU_HOME"):
        open_home(home)
    assert not home.exists()


def test_a_home_made_of_an_archive_is_private(tmp_path: Path, umask: Callable[[int], None]) -> None:
    archive = export_ledger(fill(tmp_path / "home"), tmp_path / "ledger.zip").path
    umask(0)
    home = import_ledger(archive, tmp_path / "arrived").home
    umask(0o022)
    created = modes(home)
    assert created == {name: 0o700 if (tmp_path / name).is_dir() else 0o600 for name in created}


# lingshu doctor


def opened(home: Path) -> None:
    """Give a home the modes that homes had before."""
    fill(home)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def doctor(home: Path, *options: str) -> dict[str, object]:
    said = CliRunner().invoke(main, ["--home", str(home), "--json", "doctor", *options])
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout)["access"]


def test_doctor_closes_an_old_home_and_says_what_it_changed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    opened(home)
    (home / "engines").mkdir(mode=0o755)
    (home / "engines" / "engine.log").write_text("said")
    report = doctor(home, "--no-fix")
    assert "problems" in str(report["state"])
    assert f"{home} (mode 0755) is open to others: `lingshu doctor` closes it" in str(report)
    assert modes(home)["home"] == 0o755
    report = doctor(home)
    assert f"{home / 'engines' / 'engine.log'} (mode 0644)" in str(check_changed(report))
    assert {mode & 0o077 for mode in modes(home).values()} == {0}
    assert doctor(home) == {"state": "private", "locks": "flock"}
    next((home / "spool").iterdir()).unlink()
    assert len(Ledger.open(home).find().items) == 1


def check_changed(report: dict[str, object]) -> object:
    assert str(report["state"]).startswith("closed to others: ")
    assert "problem" not in report
    return report["closed"]


def test_doctor_names_links_and_follows_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o644)
    (home / "plots").symlink_to(outside)
    access = check_access(home, fix=True)
    assert access.problems == (
        f"{home / 'plots'} is a symbolic link, which is not followed: remove it",
    )
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_doctor_says_where_modes_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    opened(home)
    monkeypatch.setattr("lingshu_tools.system.home_modes.set_mode", lambda *_: False)
    access = check_access(home, fix=True)
    assert access.changed == ()
    assert "its file system keeps no modes. Set LINGSHU_HOME" in access.problems[0]


def test_doctor_of_a_home_that_is_not_there_finds_nothing(tmp_path: Path) -> None:
    assert doctor(tmp_path / "none")["state"] == "private"
    assert not (tmp_path / "none").exists()
