"""What `lingshu train` refuses to read, and that a refusal leaves nothing behind."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_model import SPEC, made_cells

from lingshu_model.contracts.h5ad import Limits, UnsafeFileError, audit_h5ad
from lingshu_model.train.data import sources as data
from lingshu_model.train.spec import Unseen


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made_cells().write_h5ad(tmp_path / "made.h5ad", compression="gzip")
    return tmp_path / "made.h5ad"


def external_storage(file: h5py.File, folder: Path) -> None:
    secret = folder / "secret.bin"
    secret.write_bytes(b"\1" * 120 * 30 * 4)
    del file["X"]
    file.create_dataset("X", (120, 30), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["X"] = np.ones((120, 30), "f4")
    del file["X"]
    file["X"] = h5py.ExternalLink(str(folder / "other.h5"), "/X")


def soft_link(file: h5py.File, folder: Path) -> None:
    file["uns/again"] = h5py.SoftLink("/X")


def virtual_dataset(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["X"] = np.ones((120, 30), "f4")
    layout = h5py.VirtualLayout((120, 30), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "X", (120, 30))
    del file["X"]
    file.create_virtual_dataset("X", layout)


def empty_claim(file: h5py.File, folder: Path) -> None:
    del file["X"]
    file.create_dataset("X", (10_000_000, 1_000), "f4", chunks=(1000, 1000), compression="gzip")


def reference(file: h5py.File, folder: Path) -> None:
    file["uns/pointer"] = np.array([file["X"].ref], h5py.ref_dtype)


def reference_attribute(file: h5py.File, folder: Path) -> None:
    file.attrs["pointer"] = file["X"].ref


def hard_link(file: h5py.File, folder: Path) -> None:
    file["uns/up"] = file["obs"]


LIES: dict[Callable[[h5py.File, Path], None], str] = {
    external_storage: "X keeps its values in another file",
    external_link: "X is a ExternalLink",
    soft_link: "uns/again is a SoftLink",
    virtual_dataset: "X takes its values from other files",
    empty_claim: "X claims 40,000,000,000 bytes and stores 0",
    reference: "uns/pointer holds references",
    reference_attribute: "@pointer holds references",
    hard_link: "is an object that the file names twice",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_file_that_is_more_than_it_says_is_refused_before_it_is_read(
    file: Path, tmp_path: Path, lie: Callable[[h5py.File, Path], None]
) -> None:
    with h5py.File(file, "r+") as opened:
        lie(opened, tmp_path)
    with pytest.raises(data.DataError, match=LIES[lie]):
        data.read_cells(SPEC, tmp_path)


def test_an_honest_file_passes(file: Path) -> None:
    audit_h5ad(file)


def test_claims_are_limited(file: Path) -> None:
    with pytest.raises(UnsafeFileError, match=r"claims [0-9,]+ bytes; at most 100 are taken"):
        audit_h5ad(file, Limits(dataset=100))
    with pytest.raises(UnsafeFileError, match="bytes in all"):
        audit_h5ad(file, Limits(whole=100))


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "not an HDF5"), (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "is damaged")]
)
def test_what_is_no_file_of_its_kind_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "made.h5ad").write_bytes(content)
    with pytest.raises(data.DataError, match=words):
        data.read_cells(SPEC, tmp_path)


def test_a_truncated_file_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(data.DataError, match="damaged"):
        data.read_cells(SPEC, tmp_path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1.0, "negative"),
        (0.5, r"whole numbers \(raw UMI\), and X holds 0.5"),
        (np.log1p(3.0), "X holds 1.38629; what was normalised or logged cannot be undone"),
        (np.nan, "no numbers"),
    ],
)
def test_what_is_no_raw_count_is_refused(tmp_path: Path, value: float, words: str) -> None:
    cells = made_cells()
    cells.X[3, 4] = value
    cells.write_h5ad(tmp_path / "made.h5ad")
    with pytest.raises(data.DataError, match=words):
        data.read_cells(SPEC, tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["G0"], "names the gene 'G0' twice"),
        ([""], "has no name for the gene in column 1"),
        (["nan"], "has no name for the gene in column 1"),
    ],
)
def test_genes_without_a_name_of_their_own_are_refused(
    tmp_path: Path, names: list[str], words: str
) -> None:
    cells = made_cells()
    cells.var_names = [cells.var_names[0], *names, *cells.var_names[2:]]
    cells.write_h5ad(tmp_path / "made.h5ad")
    with pytest.raises(data.DataError, match=words):
        data.read_cells(SPEC, tmp_path)


def test_a_spec_that_leaves_nothing_to_train_on_is_refused(file: Path, tmp_path: Path) -> None:
    unseen = [Unseen(context={}, target=target) for target in ("G1", "G5")]
    cells = data.read_cells(SPEC, tmp_path)
    perturbed = cells.take(np.flatnonzero(cells.condition > 0))
    with pytest.raises(data.DataError, match="no cell is left to train on"):
        data.split(perturbed, SPEC.model_copy(update={"unseen": unseen}))


def trained(folder: Path, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; no file it writes may pass `largest_file` bytes, as on a full disk."""
    (folder / "spec.json").write_text(SPEC.model_dump_json(), "utf-8")

    def limited() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [sys.executable, "-m", "lingshu_model.train", "spec.json", "--threads", "1"]
    return subprocess.run(
        [*command, "--data", ".", "--out", "runs", "--epochs", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
        # Bytecode is larger than the limit too, and none of this test's business.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_a_disk_that_fills_leaves_nothing_half_written_and_training_goes_on_later(
    file: Path, tmp_path: Path
) -> None:
    full = trained(tmp_path, largest_file=50_000)
    assert full.returncode == 1
    assert "cannot write below runs" in full.stderr
    assert not re.search("^Traceback", full.stderr, re.MULTILINE)
    left = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"log.csv"}
    finished = trained(tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "runs/made/checkpoint/made.digests.json").is_file()


def test_a_wrong_spec_is_one_clear_line_per_field(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}", "utf-8")
    command = [sys.executable, "-m", "lingshu_model.train", str(tmp_path / "spec.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "sources" in ended.stderr
    assert "Traceback" not in ended.stderr
