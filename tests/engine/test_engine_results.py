import os
from pathlib import Path

import numpy as np
import pytest

from lingshu_model.contracts import Blob, Cells, Origin, digest_bytes
from lingshu_model.engine.results import Results
from lingshu_model.engine.tiles import DamagedTileError
from lingshu_model.system.durable import UNFINISHED

ORIGIN = Origin("sha256:request", "sha256:profile")


def read(results: Results, key: str) -> bytes | None:
    result = results.open(key, ORIGIN)
    if result is None:
        return None
    with result.file:
        blob = result.file.read()
    assert (result.digest, result.size) == (digest_bytes(blob), len(blob))
    return blob


def blob(*counts: int, origin: Origin | None = ORIGIN) -> Blob:
    return Blob([tile(*(counts or (1, 2, 3)))], origin)


def test_what_was_used_longest_ago_is_pruned_first(tmp_path: Path):
    size = len(b"".join(blob())) + len(digest_bytes(b"")) + 1
    results = Results(tmp_path, limit=3 * size)
    for age, key in enumerate(("a", "b", "c")):
        results.write(key, blob())
        os.utime(tmp_path / f"{key}.cells", (age, age))
    assert results.touch("a", ORIGIN)
    results.write("d", blob())
    assert [key for key in "abcd" if read(results, key)] == ["a", "c", "d"]


def test_one_result_larger_than_the_limit_is_kept_until_the_next(tmp_path: Path):
    results = Results(tmp_path, limit=10)
    results.write("a", blob())
    assert read(results, "a")
    results.write("b", blob())
    assert read(results, "a") is None


@pytest.mark.parametrize("vanishing", ["the tiles", "the result"])
def test_an_arm_that_ends_while_results_are_pruned_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vanishing: str
):
    results = Results(tmp_path, limit=10)
    results.tiles.begin("b")
    results.write("b", blob())
    listed = results.tiles.idle

    def idle() -> list[Path]:
        # Two arms of an experiment often end at one moment, each on a thread of its own.
        if vanishing == "the result":
            (tmp_path / "b.cells").unlink()
            return listed()
        results.tiles.drop("b")
        results.tiles.sweep()
        return [*listed(), tmp_path / "tiles" / "b"]

    monkeypatch.setattr(results.tiles, "idle", idle)
    results.write("a", blob())
    assert read(results, "a") == b"".join(blob())


def test_half_written_results_are_cleared_and_never_read(tmp_path: Path):
    (tmp_path / f"{UNFINISHED}a").write_bytes(b"half")
    results = Results(tmp_path)
    assert read(results, "a") is None
    assert list(tmp_path.iterdir()) == [tmp_path / "tiles"]
    results.write("b", blob())
    (tmp_path / "b.cells").write_bytes((tmp_path / "b.cells").read_bytes()[:-1])
    assert read(results, "b") is None
    assert not results.touch("b", ORIGIN)


@pytest.mark.parametrize(
    "origin",
    [None, Origin("sha256:another", "sha256:profile"), Origin("sha256:request", "sha256:another")],
)
def test_cells_of_another_request_or_of_none_are_no_result(tmp_path: Path, origin: Origin | None):
    results = Results(tmp_path)
    results.write("a", blob(origin=origin))
    assert not results.touch("a", ORIGIN)
    assert read(results, "a") is None
    assert not (tmp_path / "a.cells").exists()


def test_a_result_moved_under_the_key_of_another_is_computed_again(tmp_path: Path):
    results = Results(tmp_path)
    results.write("a", blob())
    (tmp_path / "a.cells").rename(tmp_path / "b.cells")
    other = Origin("sha256:another", "sha256:profile")
    assert not results.touch("b", other)
    assert results.open("b", other) is None
    assert read(results, "a") is None


def test_a_tile_under_the_name_of_another_counts_as_damaged(tmp_path: Path):
    results = Results(tmp_path)
    for key in ("a", "b"):
        results.tiles.begin(key)
    results.tiles.write("a", 0, tile(1))
    results.tiles.write("a", 1, tile(2))
    folder = tmp_path / "tiles"
    (folder / "b" / "0.tile").write_bytes((folder / "a" / "0.tile").read_bytes())
    (folder / "a" / "0.tile").rename(folder / "a" / "2.tile")
    for key, index in (("b", 0), ("a", 2)):
        with pytest.raises(DamagedTileError):
            list(results.tiles.of(key, [index]))
    assert [cells.counts.tolist() for cells in results.tiles.of("a", [1])] == [[[2]]]
    Results(tmp_path)
    assert sorted(path.name for path in folder.glob("*/*")) == ["1.tile"]


def tile(*counts: int) -> Cells:
    return Cells(np.array(counts, np.int32)[:, None], np.ones(1, bool))


def test_tiles_of_any_order_are_the_bytes_of_the_whole_arm(tmp_path: Path):
    results = Results(tmp_path)
    assert results.tiles.begin("a") == set()
    for index, cells in ((10, tile(0, 5)), (9, tile(1, 2, 3)), (11, tile(7))):
        results.tiles.write("a", index, cells)
    results.write("a", Blob(results.tiles.of("a", range(9, 12)), ORIGIN))
    assert read(results, "a") == b"".join(blob(1, 2, 3, 0, 5, 7))


def test_an_engine_finds_the_tiles_of_one_that_was_killed_and_no_torn_one(tmp_path: Path):
    killed = Results(tmp_path)
    killed.tiles.begin("a")
    for index in (3, 4, 5):
        killed.tiles.write("a", index, tile(index))
    folder = tmp_path / "tiles" / "a"
    (folder / "4.tile").write_bytes((folder / "4.tile").read_bytes()[:-1])
    (folder / f"{UNFINISHED}6").write_bytes(b"half")
    assert Results(tmp_path).tiles.begin("a") == {3, 5}
    assert {path.name for path in folder.iterdir()} == {"3.tile", "5.tile"}


def test_an_arm_of_a_damaged_tile_is_no_result(tmp_path: Path):
    results = Results(tmp_path)
    results.tiles.begin("a")
    results.tiles.write("a", 0, tile(1))
    (tmp_path / "tiles" / "a" / "0.tile").write_bytes(b"other")
    with pytest.raises(DamagedTileError, match="tile 0 was damaged"):
        results.write("a", Blob(results.tiles.of("a", [0])))
    assert read(results, "a") is None
    assert list(tmp_path.iterdir()) == [tmp_path / "tiles"]


def test_what_was_finished_or_dropped_takes_no_more_tiles(tmp_path: Path):
    results = Results(tmp_path)
    for key in ("finished", "dropped"):
        results.tiles.begin(key)
        results.tiles.write(key, 0, tile(1))
    results.write("finished", blob())
    results.tiles.drop("dropped")
    with pytest.raises(FileNotFoundError):
        results.tiles.write("dropped", 1, tile(1))
    assert list(Results(tmp_path).tiles.folder.iterdir()) == []


def test_tiles_that_nobody_asks_for_again_make_room_for_results(tmp_path: Path):
    killed = Results(tmp_path)
    for key in ("wanted", "left"):
        killed.tiles.begin(key)
        killed.tiles.write(key, 0, tile(1))
    results = Results(tmp_path, limit=200)
    results.tiles.begin("wanted")
    results.write("a", blob())
    assert [path.name for path in results.tiles.folder.iterdir()] == ["wanted"]
