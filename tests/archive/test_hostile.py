"""Archives that lie: each is refused for its own reason, and nothing of it is left."""

import json
import shutil
import sqlite3
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from made_ledgers import fill

from lingshu_tools.archive import ArchiveError, Limits, export_ledger, import_ledger, members
from lingshu_tools.archive.form import MAX_RATIO
from lingshu_tools.ledger import Ledger, digest_bytes

Parts = dict[str, bytes]
Change = Callable[[Parts], None]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The members of an archive with nothing wrong; every lie is one change to them."""
    folder = tmp_path_factory.mktemp("honest")
    ledger = Ledger.open(folder / "home")
    fill(ledger)
    with zipfile.ZipFile(export_ledger(ledger, folder / "a.zip").path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def packed(path: Path, parts: Parts, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def refused(path: Path, reason: str, **options: object) -> None:
    """Import into a new home fails with `reason` and leaves no trace."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(ArchiveError, match=reason) as caught:
        import_ledger(path, path.parent / "new", **options)
    assert str(path) in str(caught.value)
    assert sorted(path.parent.iterdir()) == before


def described(parts: Parts, **changes: object) -> None:
    said = json.loads(parts["metadata.json"]) | changes
    parts["metadata.json"] = json.dumps(said).encode()


def redigested(parts: Parts, name: str) -> None:
    """Let the metadata agree with a member that was changed, as a careful forger would."""
    files = json.loads(parts["metadata.json"])["files"]
    files[name] = {"bytes": len(parts[name]), "digest": digest_bytes(parts[name])}
    described(parts, files=files)


@contextmanager
def database(parts: Parts, folder: Path) -> Iterator[sqlite3.Connection]:
    """Change the database by raw SQL, triggers out of the way, and describe it as it is then."""
    file = folder / "forged.db"
    file.write_bytes(parts["experiments.db"])
    with closing(sqlite3.connect(file)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        connection.commit()
    parts["experiments.db"] = file.read_bytes()
    file.unlink()
    redigested(parts, "experiments.db")


def objects(parts: Parts) -> list[str]:
    return [name for name in parts if name.startswith("objects/")]


def test_the_honest_one_is_let_in(honest: Parts, tmp_path: Path):
    path = packed(tmp_path / "a.zip", honest)
    assert import_ledger(path, tmp_path / "new").metadata.rows["outcome"] == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../evil", "leads out of the folder"),
        ("objects/../../evil", "leads out of the folder"),
        ("objects\\..\\evil", "leads out of the folder"),
        ("/etc/passwd", "is an absolute path"),
        ("\\\\server\\share", "is an absolute path"),
        ("C:\\evil", "is an absolute path"),
        ("objects/", "is no ordinary file"),
        ("objects/ab/cd", "is no part of an archive"),
        ("objects/AB/" + "c" * 62, "is no part of an archive"),
        ("experiments.db-wal", "is no part of an archive"),
        ("heads.txt", "is no part of an archive"),
        ("locks/exp_x.lock", "is no part of an archive"),
        ("metadata.json\n", "is no part of an archive"),
    ],
)
def test_a_name_that_is_no_part_of_an_archive(
    honest: Parts, tmp_path: Path, name: str, reason: str
):
    refused(packed(tmp_path / "a.zip", {**honest, name: b""}), reason)


def test_a_name_that_hides_behind_a_zero_byte(honest: Parts, tmp_path: Path):
    good = next(iter(objects(honest)))
    path = packed(tmp_path / "a.zip", {**honest, f"{good[:-1]}X": b""})
    raw = path.read_bytes().replace(f"{good[:-1]}X".encode(), f"{good[:-1]}\0".encode())
    path.write_bytes(raw)
    refused(path, "is no part of an archive")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "no ordinary file"), (stat.S_IFCHR, "ordinary")],
)
def test_an_entry_that_is_a_link_or_a_device(honest: Parts, tmp_path: Path, kind: int, reason: str):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in honest.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((kind if name in objects(honest) else stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, data)
    refused(path, reason)


def test_the_same_name_twice(honest: Parts, tmp_path: Path):
    path = packed(tmp_path / "a.zip", honest)
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(path, "a") as archive,
    ):
        archive.writestr("metadata.json", honest["metadata.json"])
    refused(path, r"'metadata.json' 2 times")


def test_a_bomb_by_ratio(honest: Parts, tmp_path: Path):
    parts = {**honest, objects(honest)[0]: bytes(5_000_000)}
    path = packed(tmp_path / "a.zip", parts, zipfile.ZIP_DEFLATED)
    refused(path, f"more than {MAX_RATIO} to 1")


def test_a_bomb_by_total_and_by_count(honest: Parts, tmp_path: Path):
    path = packed(tmp_path / "a.zip", honest)
    total = sum(map(len, honest.values()))
    refused(path, f"unpacks to {total:,} bytes", limits=Limits(total=total - 1))
    count = len(honest)
    refused(path, f"{count} entries, and {count - 1}", limits=Limits(entries=count - 1))
    refused(path, r"is [\d,]+ bytes long, and 500", limits=Limits(json=500))


def test_a_bomb_that_hides_how_many_entries_it_has(honest: Parts, tmp_path: Path):
    path = packed(tmp_path / "a.zip", honest)
    raw = bytearray(path.read_bytes())
    end = len(raw) - 22
    start = struct.unpack_from("<L", raw, end + 16)[0]
    struct.pack_into("<2H", raw, end + 8, 1, 1)
    path.write_bytes(raw)
    assert start
    refused(path, "entries, and 2 are accepted", limits=Limits(entries=2))


def test_entries_that_overlap(honest: Parts, tmp_path: Path):
    # Each entry claims nearly the whole file as its own bytes: a bomb without a ratio.
    path = packed(tmp_path / "a.zip", honest)
    raw = bytearray(path.read_bytes())
    place = struct.unpack_from("<L", raw, len(raw) - 6)[0]
    big = 3_000_000
    for _ in honest:
        struct.pack_into("<2L", raw, place + 20, big, big)
        place += 46 + sum(struct.unpack_from("<3H", raw, place + 28))
    path.write_bytes(raw)
    refused(path, "overlap")


def test_a_disk_too_small_for_it(honest: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(packed(tmp_path / "a.zip", honest), "bytes for a moment, and 1,000 are free")


def test_every_truncation(honest: Parts, tmp_path: Path):
    small = {k: v for k, v in honest.items() if len(v) < 1_000_000}
    whole = packed(tmp_path / "whole.zip", small).read_bytes()
    for keep in (0, 1, 21, 22, len(whole) // 2, len(whole) - 23, len(whole) - 22, len(whole) - 1):
        path = tmp_path / "a.zip"
        path.write_bytes(whole[:keep])
        refused(path, "is no whole zip file")


def test_something_else_altogether(tmp_path: Path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"not a zip at all, but long enough to be one")
    refused(path, "is no whole zip file")


def test_a_locator_that_leads_nowhere(honest: Parts, tmp_path: Path):
    path = packed(tmp_path / "a.zip", honest)
    raw = path.read_bytes()
    path.write_bytes(raw[:-22] + struct.pack("<4sLQL", b"PK\6\7", 0, len(raw), 1) + raw[-22:])
    refused(path, "is no whole zip file")


def test_an_encrypted_or_strangely_compressed_entry(honest: Parts, tmp_path: Path):
    path = packed(tmp_path / "a.zip", honest, zipfile.ZIP_BZIP2)
    refused(path, "by method 12")
    raw = bytearray(packed(path, honest).read_bytes())
    place = struct.unpack_from("<L", raw, len(raw) - 6)[0]
    raw[place + 8] |= 1
    path.write_bytes(raw)
    refused(path, "is encrypted")


def test_a_damaged_member(honest: Parts, tmp_path: Path):
    path = packed(tmp_path / "a.zip", honest)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"some cells", b"sOme cells"))
    refused(path, r"cannot be read \(Bad CRC-32")
    with_size = bytearray(raw)
    place = struct.unpack_from("<L", with_size, len(raw) - 6)[0]
    struct.pack_into("<L", with_size, place + 24, 100_000)  # metadata.json says it is longer
    path.write_bytes(with_size)
    refused(path, "damaged")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.pop("metadata.json"), "lacks metadata.json"),
        (lambda p: p.pop("experiments.db"), "lacks experiments.db"),
        (lambda p: p.update({"metadata.json": b"{"}), "not the metadata of an archive"),
        (lambda p: p.update({"metadata.json": b"[" * 100_000}), "not the metadata of an archive"),
        (lambda p: p.update({"metadata.json": b"[]"}), "not the metadata of an archive"),
        (lambda p: described(p, format="lingshu-archive-2"), "'lingshu-archive-2'.*newer"),
        (lambda p: described(p, more=1), "does not describe an archive"),
        (lambda p: described(p, head="12"), "does not describe an archive"),
        (lambda p: described(p, files={}), "experiments.db is not the one"),
        (lambda p: described(p, ledger="led_another"), "another ledger"),
        (lambda p: described(p, head="1:sha256:" + "0" * 64), "its newest row is"),
        (lambda p: described(p, rows={"outcome": 3}), "it holds the rows"),
        (lambda p: described(p, objects={"count": 2, "bytes": 1}), "its rows name"),
        (lambda p: p.update({"ro-crate-metadata.json": b"{}"}), "ro-crate-metadata.json is not"),
        (lambda p: p.pop(objects(p)[0]), "lacks 1 objects that its rows name"),
        (lambda p: p.update({"objects/ab/" + "c" * 62: b"x"}), "holds 1 objects that no row names"),
        (lambda p: p.update({objects(p)[0]: b"short"}), "and its row says"),
        (lambda p: p.update({o: b"X" * len(p[o]) for o in objects(p)}), "not those it is named"),
    ],
)
def test_metadata_and_objects_that_do_not_agree(
    honest: Parts, tmp_path: Path, change: Change, reason: str
):
    parts = dict(honest)
    change(parts)
    refused(packed(tmp_path / "a.zip", parts), reason)


def test_a_database_that_is_not_the_described_one(honest: Parts, tmp_path: Path):
    parts = dict(honest)
    parts["experiments.db"] = parts["experiments.db"][:-1] + b"\1"
    refused(packed(tmp_path / "a.zip", parts), "experiments.db is sha256:.* says sha256:")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"SQLite format 3\0" + b"\x10\0\2\2" + bytes(80), "no SQLite file with a rollback"),
        (b"x" * 5000, "no SQLite file"),
        (b"SQLite format 3\0" + b"\x10\0\1\1" + bytes(5000), "does not hold the rows|damaged"),
    ],
)
def test_a_database_that_is_none(honest: Parts, tmp_path: Path, data: bytes, reason: str):
    parts = {**honest, "experiments.db": data}
    redigested(parts, "experiments.db")
    refused(packed(tmp_path / "a.zip", parts), reason)


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        ("DROP TABLE chain", "a database, but not a ledger"),
        ("UPDATE ledger SET format = 'lingshu-ledger-2'", "lingshu-ledger-2"),
        ("DELETE FROM ledger", r"its ledger is \(\)"),
        ("UPDATE chain SET kind = 'later' WHERE seq = 2", "later: use a newer"),
        ("ALTER TABLE experiment ADD COLUMN later TEXT", "experiment.later: use a newer"),
        ("UPDATE experiment SET seed = 8 WHERE seed = 7", "does not verify: row .*was changed"),
        ("UPDATE chain SET row_hash = 'x' WHERE seq = 3", "does not verify: row 3"),
        ("DELETE FROM cancellation", "it holds the rows"),
        ("DELETE FROM chain WHERE seq = 4", "does not hold the rows|does not verify"),
        ("UPDATE experiment SET parent = CAST(X'FF' AS TEXT)", "does not hold.* decode"),
        ("ALTER TABLE screen RENAME TO s; CREATE VIEW screen AS SELECT * FROM s", "is computed"),
        (
            "DROP TABLE cancellation; CREATE VIRTUAL TABLE cancellation USING fts5(a)",
            "is computed",
        ),
        (
            "ALTER TABLE server ADD COLUMN x TEXT AS (hex(zeroblob(9))) VIRTUAL",
            "is computed",
        ),
    ],
)
def test_a_database_whose_rows_lie(honest: Parts, tmp_path: Path, statements: str, reason: str):
    parts = dict(honest)
    with database(parts, tmp_path) as connection:
        connection.executescript(f"PRAGMA foreign_keys=OFF; {statements};")
    refused(packed(tmp_path / "a.zip", parts), reason)


def test_what_is_no_row_does_not_arrive(honest: Parts, tmp_path: Path):
    parts = dict(honest)
    with database(parts, tmp_path) as connection:
        connection.execute("CREATE TABLE stowaway (x TEXT)")
        connection.execute("CREATE TRIGGER t AFTER INSERT ON server BEGIN SELECT 1; END")
    home = import_ledger(packed(tmp_path / "a.zip", parts), tmp_path / "new").home
    with closing(sqlite3.connect(home / "experiments.db")) as connection:
        names = {n for (n,) in connection.execute("SELECT name FROM sqlite_master")}
    assert {"stowaway", "t"} & names == set()
    assert "server_no_update" in names
    assert Ledger.open(home).verify().ok


def test_a_file_that_cannot_be_read(honest: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(members, "_directory", broken)
    refused(packed(tmp_path / "a.zip", honest), "cannot be read .*Input/output error")
