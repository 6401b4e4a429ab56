import os
from pathlib import Path

from lingshu_model.engine.results import Results
from lingshu_model.wire.durable import UNFINISHED


def test_what_was_used_longest_ago_is_pruned_first(tmp_path: Path):
    results = Results(tmp_path, limit=3 * 172)
    for age, key in enumerate(("a", "b", "c")):
        results.write(key, b"x" * 100)
        os.utime(tmp_path / f"{key}.cells", (age, age))
    assert results.touch("a")
    results.write("d", b"x" * 100)
    assert [key for key in "abcd" if results.read(key)] == ["a", "c", "d"]


def test_one_result_larger_than_the_limit_is_kept_until_the_next(tmp_path: Path):
    results = Results(tmp_path, limit=10)
    results.write("a", b"x" * 100)
    assert results.read("a")
    results.write("b", b"x" * 100)
    assert results.read("a") is None


def test_half_written_results_are_cleared_and_never_read(tmp_path: Path):
    (tmp_path / f"{UNFINISHED}a").write_bytes(b"half")
    results = Results(tmp_path)
    assert results.read("a") is None
    assert list(tmp_path.iterdir()) == []
    results.write("b", b"whole")
    (tmp_path / "b.cells").write_bytes((tmp_path / "b.cells").read_bytes()[:-1])
    assert results.read("b") is None
    assert not results.touch("b")
