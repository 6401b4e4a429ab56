"""The blob's bytes against safetensors' own, and cells that stay in their file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from lingshu_model.contracts import (
    Blob,
    Cells,
    Origin,
    decode_cells,
    encode_cells,
    read_origin,
    row_blocks,
)
from lingshu_model.contracts import cells as module

SHAPES = [(1, 1), (7, 5), (40, 299), (1, 100), (0, 4), (3, 18_080)]


def built(n_cells: int, n_genes: int, share: float = 0.3) -> Cells:
    rng = np.random.Generator(np.random.Philox(n_cells))
    counts = (rng.random((n_cells, n_genes)) < share) * rng.integers(1, 400, (n_cells, n_genes))
    return Cells(counts, rng.random(n_genes) < 0.9)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bytes_are_those_of_safetensors(shape: tuple[int, int], share: float):
    cells = built(*shape, share)
    dense = cells.counts
    rows, columns = np.nonzero(dense)
    arrays = {
        "counts": dense[rows, columns],
        "indices": columns.astype(np.int32),
        "indptr": np.searchsorted(rows, np.arange(len(dense) + 1)).astype(np.int64),
        "measured": cells.measured.astype(np.uint8),
    }
    assert encode_cells(cells) == save(arrays, metadata={"encoding": "lingshu-cells-1"})


@pytest.mark.parametrize("piece", [8, 1 << 20])
def test_cells_in_a_file_are_the_same_in_parts_and_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
):
    cells = built(40, 299)
    blob = encode_cells(cells)
    (tmp_path / "blob").write_bytes(blob)
    monkeypatch.setattr(module, "PIECE", piece)
    result = decode_cells(tmp_path / "blob")
    (tmp_path / "blob").unlink()
    assert np.array_equal(result.counts, cells.counts)
    assert encode_cells(result) == blob
    assert b"".join(Blob([result[:13], result[13:13], result[13:]])) == blob
    assert np.array_equal(result[5:9].counts, cells.counts[5:9])


def test_a_large_file_is_not_read_before_its_cells_are_asked_for(tmp_path: Path):
    path = tmp_path / "blob"
    path.write_bytes(encode_cells(built(600, 299, 1.0)))
    assert path.stat().st_size > module.PIECE
    cells = decode_cells(path)
    os.truncate(path, path.stat().st_size * 9 // 10)
    assert cells[:10].shape == (10, 299)
    with pytest.raises(ValueError, match="bytes early"):
        cells[590:]


@pytest.mark.parametrize("cut", [1, 7, 8, 100, 1000])
def test_a_truncated_blob_is_refused(tmp_path: Path, cut: int):
    blob = encode_cells(built(7, 40))[:-cut]
    (tmp_path / "blob").write_bytes(blob)
    for source in (blob, tmp_path / "blob"):
        with pytest.raises(ValueError, match=rf"these {len(blob)} bytes are not a lingshu-cells-1"):
            decode_cells(source)


def damaged(name: str, values: list[int], dtype: type = np.int32) -> bytes:
    arrays = {
        "counts": np.array([1, 2], np.int32),
        "indices": np.array([0, 2], np.int32),
        "indptr": np.array([0, 1, 2], np.int64),
        "measured": np.ones(3, np.uint8),
    }
    arrays[name] = np.array(values, dtype)
    return save(arrays, metadata={"encoding": "lingshu-cells-1"})


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        (damaged("indices", [0, 3]), "genes 0 to 3 on a panel of 3"),
        (damaged("indices", [-1, 2]), "genes -1 to 2"),
        (damaged("indptr", [0, 2, 1], np.int64), "0 to 1 of 2 genes"),
        (damaged("indptr", [0, 3, 2], np.int64), "cell 1 ends before it begins"),
        (damaged("indptr", [0, 1, 2]), "the tensor indptr is"),
        (damaged("counts", [1]), "1 counts"),
        (save({"counts": np.ones(1)}), "the encoding is None"),
        (b"\xff" * 40, "a header of"),
        (b"", "a header of"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(blob: bytes, said: str):
    with pytest.raises(ValueError, match=said):
        decode_cells(blob)


def test_parts_that_measure_other_genes_are_no_blob():
    item, other = (
        Cells(np.ones((1, 2), np.int32), np.array([True, last])) for last in (True, False)
    )
    for parts in ([item, other], []):
        with pytest.raises(ValueError, match=r"different genes|at least one part"):
            b"".join(Blob(parts))


def test_too_many_counts_are_not_made_dense(monkeypatch: pytest.MonkeyPatch):
    cells = built(40, 299)
    monkeypatch.setattr(module, "DENSE_COUNTS", 39 * 299)
    with pytest.raises(ValueError, match=r"\(40, 299\) counts are too many at once"):
        _ = cells.counts
    assert np.concatenate([cells[rows].counts for rows in row_blocks(39, 299)]).shape == (39, 299)
    with pytest.raises(ValueError, match="leaves cells out"):
        _ = cells[::2]


def test_blocks_hold_at_least_one_cell_and_all_of_them():
    assert list(row_blocks(3, 10**9, 5)) == [slice(5, 6), slice(6, 7), slice(7, 8)]
    assert list(row_blocks(0, 5)) == []
    sizes = [rows.stop - rows.start for rows in row_blocks(10_000, 299)]
    assert sizes == [4096, 4096, 1808]


def test_the_header_is_the_one_that_was_always_written():
    length = int.from_bytes(encode_cells(built(2, 3))[:8], "little")
    header = json.loads(encode_cells(built(2, 3))[8 : 8 + length])
    assert list(header) == ["__metadata__", "indptr", "counts", "indices", "measured"]
    assert header["__metadata__"] == {"encoding": "lingshu-cells-1"}


@pytest.mark.parametrize("piece", [8, 1 << 20])
@pytest.mark.parametrize("profile", ["sha256:p", None])
def test_a_blob_says_which_request_its_cells_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, profile: str | None
):
    monkeypatch.setattr(module, "PIECE", piece)
    cells, origin = built(7, 5), Origin("sha256:r", profile)
    path = tmp_path / "blob"
    path.write_bytes(b"".join(Blob([cells], origin)))
    result = decode_cells(path)
    assert result.origin == read_origin(path) == origin
    assert encode_cells(result) == path.read_bytes()
    assert load(path.read_bytes())["counts"].tolist() == cells.values[:].tolist()
    # A part answers less than the whole.
    assert result[:3].origin is None
    path.write_bytes(encode_cells(cells))
    assert read_origin(path) is None
    for damaged in (b"", b"\xff" * 40, path.read_bytes()[:30]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="lingshu-cells-1"):
            read_origin(path)
