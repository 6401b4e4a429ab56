"""What leaves arrives: the same rows, the same objects, and experiments that replay exactly."""

import json
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from made_ledgers import KNOCKOUT, fill, finished, request

from lingshu_tools.archive import export_ledger, import_ledger
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import Head, Ledger, NewOutcome, digest_bytes
from lingshu_tools.ledger.schema import metadata as tables


def rows(database: Path) -> dict[str, list[tuple]]:
    with closing(sqlite3.connect(database)) as connection:
        names = sorted(tables.tables)
        return {n: connection.execute(f"SELECT * FROM {n} ORDER BY seq").fetchall() for n in names}


def test_every_row_and_object_arrives_and_verifies(ledger: Ledger, archive: Path, tmp_path: Path):
    created = import_ledger(archive, tmp_path / "new")
    arrived = Ledger.open(created.home)
    assert rows(arrived.database) == rows(ledger.database)
    assert all(rows(ledger.database).values())
    report = arrived.verify()
    assert report.ok
    assert (report.head, report.objects) == (ledger.head(), 2)
    assert created.metadata.head == str(ledger.head())


def test_the_arrived_ledger_takes_new_experiments(archive: Path, tmp_path: Path):
    arrived = Ledger.open(import_ledger(archive, tmp_path / "new").home)
    before = arrived.head()
    fill(arrived)
    assert arrived.verify(anchors=[before]).ok


def test_a_replay_in_the_new_home_is_exact(open_app, tmp_path: Path):
    first = open_app("home")
    done = finished(first, "perturb_cells", KNOCKOUT).experiment_id
    export_ledger(first.ledger, tmp_path / "a.zip")
    import_ledger(tmp_path / "a.zip", tmp_path / "new")
    second = open_app("new")
    assert second.ledger.verify().ok
    again = finished(second, "replay_experiment", {"id": done, "wait_s": 45})
    verdict = getattr(again, "replay", again).verdict
    assert verdict == "exact"
    assert call(second, "get_experiment", {"id": done}).genes == (
        call(first, "get_experiment", {"id": done}).genes
    )


def test_the_same_ledger_gives_the_same_bytes_wherever_it_is(
    ledger: Ledger, archive: Path, tmp_path: Path
):
    again = export_ledger(ledger, tmp_path / "again.zip")
    moved = Ledger.open(import_ledger(archive, tmp_path / "new").home)
    travelled = export_ledger(moved, tmp_path / "travelled.zip")
    assert again.digest == travelled.digest == digest_bytes(archive.read_bytes())


def test_rows_committed_while_it_leaves_are_not_half_in_it(ledger: Ledger, tmp_path: Path):
    begun: list[Head] = []

    def commit(done: int, total: int) -> None:
        if not begun:
            begun.append(ledger.head())
            fill(ledger)

    created = export_ledger(ledger, tmp_path / "a.zip", progress=commit)
    assert created.metadata.head == str(begun[0]) != str(ledger.head())
    arrived = Ledger.open(import_ledger(created.path, tmp_path / "new").home)
    assert arrived.head() == begun[0]


def test_what_it_unpacks_to_is_what_it_says(ledger: Ledger, archive: Path):
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        said = json.loads(opened.read("metadata.json"))
        for name, file in said["files"].items():
            data = opened.read(name)
            assert (len(data), digest_bytes(data)) == (file["bytes"], file["digest"])
        for name in names[3:]:
            assert "sha256:" + "".join(name.split("/")[1:]) == digest_bytes(opened.read(name))
        assert opened.read("experiments.db")[18:20] == b"\1\1"
    assert names[:3] == ["metadata.json", "ro-crate-metadata.json", "experiments.db"]
    assert said["format"] == "lingshu-archive-1"
    assert sum(said["rows"].values()) == ledger.head().seq
    assert said["objects"] == {"bytes": 3_000_010, "count": len(names) - 3}


def test_an_existing_file_is_not_overwritten(ledger: Ledger, archive: Path):
    before = archive.read_bytes()
    with pytest.raises(InputError, match="exists; name a file that does not"):
        export_ledger(ledger, archive)
    assert archive.read_bytes() == before


def test_a_ledger_without_its_objects_is_not_exported(ledger: Ledger, tmp_path: Path):
    victim = next((tmp_path / "home" / "objects").glob("*/*"))
    victim.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"1 of 2 objects are not in .*replay"):
        export_ledger(ledger, tmp_path / "out" / "a.zip")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_object_or_row_is_not_exported(ledger: Ledger, tmp_path: Path):
    victim = next((tmp_path / "home" / "objects").glob("*/*"))
    kept = victim.read_bytes()
    victim.write_bytes(b"?" + kept[1:])
    with pytest.raises(LedgerError, match=r"does not verify, so it was not exported.*damaged"):
        export_ledger(ledger, tmp_path / "a.zip")
    victim.write_bytes(kept)
    with closing(sqlite3.connect(ledger.database)) as connection:
        connection.execute("DROP TRIGGER experiment_no_update")
        connection.execute("UPDATE experiment SET seed = 9 WHERE seed = 8")
        connection.commit()
    with pytest.raises(LedgerError, match=r"row \d+: experiment row hashes to"):
        export_ledger(ledger, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_cut_tail_is_not_exported(ledger: Ledger, tmp_path: Path):
    Ledger.open(tmp_path / "home")  # opening writes the newest head down
    heads = (tmp_path / "home" / "heads.txt").read_text().splitlines()
    seq = heads[-1].split(":")[0]
    forged = f"{int(seq) - 1}:sha256:{'0' * 64}"
    (tmp_path / "home" / "heads.txt").write_text(f"{forged}\n")
    with pytest.raises(LedgerError, match="history rewritten"):
        export_ledger(ledger, tmp_path / "a.zip")


def test_an_outcome_still_in_the_spool_is_named(ledger: Ledger, tmp_path: Path):
    waiting = ledger.begin(request(seed=9))
    attempt = ledger.attempt(waiting.id)
    with closing(sqlite3.connect(ledger.database)) as connection:
        connection.execute("PRAGMA writable_schema=1")
        connection.execute("CREATE TRIGGER stop BEFORE INSERT ON outcome BEGIN "
                           "SELECT RAISE(ABORT, 'no'); END")  # fmt: skip
        connection.commit()
    with pytest.raises(LedgerError, match="safe in"):
        ledger.seal(attempt, NewOutcome(kind="failed", error="x"))
    assert export_ledger(ledger, tmp_path / "a.zip").spooled == (waiting.id,)


@pytest.mark.parametrize("there", ["file", "folder"])
def test_a_home_that_is_not_empty_is_left_alone(archive: Path, tmp_path: Path, there: str):
    home = tmp_path / "taken"
    home.mkdir()
    (home / "note.txt").write_text("mine") if there == "file" else (home / "engines").mkdir()
    before = sorted(home.iterdir())
    with pytest.raises(InputError, match="is not empty"):
        import_ledger(archive, home)
    assert sorted(home.iterdir()) == before


def test_an_empty_home_is_filled_and_a_missing_archive_is_named(archive: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert Ledger.open(import_ledger(archive, tmp_path / "empty").home).verify().ok
    with pytest.raises(InputError, match="is no file; name the zip"):
        import_ledger(tmp_path / "none.zip", tmp_path / "new")


def test_a_home_filled_meanwhile_is_left_alone(archive: Path, tmp_path: Path):
    home = tmp_path / "new"

    def fill_it(done: int, total: int) -> None:
        home.mkdir(exist_ok=True)
        (home / "note.txt").write_text("mine")

    with pytest.raises(InputError, match="was filled while the archive was read"):
        import_ledger(archive, home, progress=fill_it)
    assert [path.name for path in home.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("operation", ["out", "in"])
def test_a_full_disk_is_said_and_leaves_nothing(
    ledger: Ledger, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
):
    before = sorted(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lingshu_model.system.durable._sync", full)
    operations = {
        "out": lambda: export_ledger(ledger, tmp_path / "b.zip"),
        "in": lambda: import_ledger(archive, tmp_path / "new"),
    }
    with pytest.raises(LedgerError, match="No space left on device"):
        operations[operation]()
    assert sorted(tmp_path.iterdir()) == before
