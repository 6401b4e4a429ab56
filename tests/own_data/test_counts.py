"""Counts of a user's file: where they are, how they are stored, and what is none."""

import json
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
from made_data import adata_of, read, read_file, spec_for
from scipy import sparse

from lingshu_model.train.data.sources import DataError, read_cells
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.spec_file import SpecError


def doubled(value: float, dtype: Any, form: str) -> anndata.AnnData:
    """Return cells in which every place is stored twice, with `value` each time."""
    n, genes = 60, 12
    columns = np.tile(np.repeat(np.arange(genes), 2), n)
    rows = np.repeat(np.arange(n), 2 * genes)
    values = np.full(len(rows), value, dtype)
    values[: 2 * genes] = 0  # one cell differs, so that there is something to learn
    adata = adata_of(n, genes)
    kind = sparse.csr_matrix if form == "csr" else sparse.csc_matrix
    if form == "csc":
        order = np.lexsort((rows, columns))
        pointers = np.arange(genes + 1) * 2 * n
        adata.X = kind((values[order], rows[order], pointers), (n, genes))
    else:
        adata.X = kind((values, columns, np.arange(n + 1) * 2 * genes), (n, genes))
    return adata


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize(
    ("value", "dtype"), [(100, np.float32), (100, np.int64), (200, np.uint8), (0.5, np.float64)]
)
def test_what_is_stored_twice_for_one_place_is_added_up(
    tmp_path: Path, value: float, dtype: Any, form: str
):
    cells, _ = read(doubled(value, dtype, form), tmp_path)
    assert cells.counts()[1:].min() == cells.counts()[1:].max() == 2 * value


@pytest.mark.parametrize(
    ("dtype", "form"),
    [("f2", "dense"), ("f2", "csr"), ("f2", "csc"), ("u1", "csr"), ("i4", "csc"), ("u8", "dense"),
     ("?", "csr"), ("f8", "dense")],
)  # fmt: skip
def test_counts_are_the_same_in_every_type_and_layout(tmp_path: Path, dtype: str, form: str):
    adata = adata_of()
    dense = np.minimum(adata.X.toarray(), 1 if dtype == "?" else 9)
    kinds = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
    adata.X = kinds[form](dense.astype("f4"))
    adata.write_h5ad(tmp_path / "d.h5ad")
    with h5py.File(tmp_path / "d.h5ad", "r+") as file:
        place: Any = file if form == "dense" else file["X"]
        name = "X" if form == "dense" else "data"
        values, attributes = place[name][:].astype(dtype), dict(place[name].attrs)
        del place[name]
        place[name] = values
        place[name].attrs.update(attributes)
    cells, _ = read_file(tmp_path)
    assert np.array_equal(cells.counts(), dense.astype(int))


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [
        (2**63 + 5, np.uint64, r"X holds 9.22337e\+18, and no cell has so many"),
        (1e30, np.float64, r"X holds 1e\+30, and no cell has so many"),
        (1 + 1j, np.complex64, "X holds complex64 values"),
        (np.inf, np.float32, "no numbers"),
    ],
)
def test_a_value_that_is_no_count_is_named(tmp_path: Path, value: Any, dtype: Any, words: str):
    adata = adata_of()
    adata.write_h5ad(tmp_path / "d.h5ad")
    dense = adata.X.toarray().astype(dtype)
    dense[0, 0] = value
    with h5py.File(tmp_path / "d.h5ad", "r+") as file:
        del file["X"]
        file["X"] = dense
        file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises(DataError, match=words):
        read_file(tmp_path)


@pytest.mark.parametrize("place", ["layers/counts", "raw/X"])
def test_counts_are_read_from_where_the_specification_says(tmp_path: Path, place: str):
    adata = adata_of()
    counts = adata.X.toarray()
    if place == "raw/X":
        adata.raw = adata.copy()
        adata = adata[:, :10].copy()
    else:
        adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    with pytest.raises(DataError, match=f"the file also has {place}"):
        read(adata, tmp_path)
    cells, _ = read_file(tmp_path, source={"counts": place})
    assert np.array_equal(cells.counts(), counts)


def test_an_empty_x_is_named_with_the_layers_that_are_there(tmp_path: Path):
    adata = adata_of()
    adata.layers["counts"] = adata.X.copy()
    adata.X = None
    with pytest.raises(DataError, match=r"no X; the file has layers/counts|X is empty; the file"):
        read(adata, tmp_path)
    cells, _ = read_file(tmp_path, source={"counts": "layers/counts"})
    assert len(cells) == 120


def test_one_gene_is_too_few(tmp_path: Path):
    with pytest.raises(DataError, match="1 gene is too few"):
        read(adata_of(12, 1, labels=("ctrl", "G0")), tmp_path)


@pytest.mark.parametrize(("value", "words"), [(0, "0 everywhere"), (3, "all cells have the same")])
def test_cells_with_nothing_to_learn_from_are_refused(tmp_path: Path, value: int, words: str):
    adata = adata_of(60)
    adata.X = sparse.csr_matrix(np.full(adata.shape, value, np.float32))
    with pytest.raises(DataError, match=words):
        read(adata, tmp_path)


def test_a_link_to_a_file_is_followed(tmp_path: Path):
    adata_of().write_h5ad(tmp_path / "real.h5ad")
    (tmp_path / "middle.h5ad").symlink_to("real.h5ad")
    (tmp_path / "d.h5ad").symlink_to(tmp_path / "middle.h5ad")
    cells, _ = read_file(tmp_path)
    assert len(cells) == 120


def test_a_link_that_leads_nowhere_is_refused_as_that(tmp_path: Path):
    (tmp_path / "d.h5ad").symlink_to(tmp_path / "gone.h5ad")
    with pytest.raises(DataError, match="a link that leads to no file"):
        read_file(tmp_path)


def test_a_link_to_a_file_that_is_unsafe_is_refused(tmp_path: Path):
    adata_of().write_h5ad(tmp_path / "real.h5ad")
    with h5py.File(tmp_path / "real.h5ad", "r+") as file:
        file["uns/again"] = h5py.SoftLink("/X")
    (tmp_path / "d.h5ad").symlink_to(tmp_path / "real.h5ad")
    with pytest.raises(DataError, match="uns/again is a SoftLink"):
        read_file(tmp_path)


def test_a_file_that_is_open_for_writing_is_in_use(tmp_path: Path):
    adata_of().write_h5ad(tmp_path / "d.h5ad")
    with (
        h5py.File(tmp_path / "d.h5ad", "r+"),
        pytest.raises(DataError, match="in use by another program"),
    ):
        read_in_another_process(tmp_path)


def read_in_another_process(folder: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lingshu_model.contracts.h5ad import audit_h5ad\n"
        "try:\n audit_h5ad(Path(sys.argv[1]))\nexcept ValueError as error:\n print(error)"
    )
    arguments = [sys.executable, "-c", code, str(folder / "d.h5ad")]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    if said:
        raise DataError(said)


def test_a_zarr_store_is_refused_as_a_folder(tmp_path: Path):
    (tmp_path / "d.h5ad").mkdir()
    with pytest.raises(DataError, match=r"is a folder.*read_zarr"):
        read_file(tmp_path)


def test_columns_of_categories_that_old_files_refer_to_are_read(tmp_path: Path):
    adata_of().write_h5ad(tmp_path / "d.h5ad")
    with h5py.File(tmp_path / "d.h5ad", "r+") as file:
        obs: Any = file["obs"]
        del obs["condition"]
        obs["__categories/condition"] = np.array([b"A", b"B", b"ctrl"])
        obs["condition"] = np.array([[2, 0, 1][i % 3] for i in range(120)], "i1")
        obs["condition"].attrs["categories"] = obs["__categories/condition"].ref
        obs.attrs["encoding-version"] = "0.1.0"
    cells, _ = read_file(tmp_path)
    assert len(cells.conditions) == 3


@pytest.mark.parametrize("target", ["X", "unlinked"])
def test_a_reference_to_anything_else_is_refused(tmp_path: Path, target: str):
    adata_of().write_h5ad(tmp_path / "d.h5ad")
    with h5py.File(tmp_path / "d.h5ad", "r+") as file:
        obs: Any = file["obs"]
        obs["__categories/condition"] = np.array([b"A", b"B", b"ctrl"])
        hidden = file.create_dataset(None, data=np.array([b"A"]))
        reference = hidden.ref if target == "unlinked" else file["uns"].ref
        del obs["condition"]
        obs["condition"] = np.zeros(120, "i1")
        obs["condition"].attrs["categories"] = reference
    with pytest.raises(DataError, match=r"holds references|is damaged"):
        read_file(tmp_path)


def test_a_column_listed_twice_is_read_once(tmp_path: Path):
    adata_of().write_h5ad(tmp_path / "d.h5ad")
    with h5py.File(tmp_path / "d.h5ad", "r+") as file:
        names = ["condition", "condition", "cell_type"]
        file["obs"].attrs["column-order"] = np.array(names, dtype=object)
    cells, _ = read_file(tmp_path)
    assert len(cells.conditions) == 3


DAMAGE = {
    "below 0": ("indices", lambda v: np.where(np.arange(len(v)) == 5, -1, v)),
    "beyond": ("indices", lambda v: np.where(np.arange(len(v)) == 5, 10**15, v.astype("i8"))),
    "one too far": ("indices", lambda v: np.where(np.arange(len(v)) == 5, 120, v)),
    "fractions": ("indices", lambda v: v + 0.5),
    "pointers with fractions": ("indptr", lambda v: v + 0.5),
}


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize(("name", "change"), DAMAGE.values(), ids=DAMAGE)
def test_positions_outside_of_a_matrix_are_refused(
    tmp_path: Path, form: str, name: str, change: Any
):
    adata = adata_of()
    adata.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[form](adata.X)
    adata.write_h5ad(tmp_path / "d.h5ad")
    with h5py.File(tmp_path / "d.h5ad", "r+") as file:
        group: Any = file["X"]
        values = change(group[name][:])
        del group[name]
        group[name] = values
    with pytest.raises(DataError, match=r"d\.h5ad.*is damaged"):
        read_file(tmp_path)
    matches = inspect(tmp_path / "d.h5ad")
    if name == "indices" or form == "csr":
        assert "is damaged" in matches.counts_words + matches.fatal[0].what
        assert matches.counts is None


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("shape", [(10**14, 24), (120, 10**14), (-1, 24), (120,)])
def test_a_matrix_that_claims_another_size_is_refused_before_anything_is_allocated(
    tmp_path: Path, form: str, shape: tuple[int, ...]
):
    adata = adata_of()
    adata.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[form](adata.X)
    adata.write_h5ad(tmp_path / "d.h5ad")
    with h5py.File(tmp_path / "d.h5ad", "r+") as file:
        file["X"].attrs["shape"] = np.array(shape)
    with pytest.raises(DataError, match=r"obs and var are 120 and 24|no matrix that can be read"):
        read_file(tmp_path)
    assert inspect(tmp_path / "d.h5ad").counts is None


@pytest.mark.parametrize("codes", [[0, 1, 7], [0, 1, -5]])
def test_codes_of_categories_that_are_not_there_are_refused(tmp_path: Path, codes: list[int]):
    # anndata 0.6: records, with the categories of a column in `uns`.
    adata_of(3).write_h5ad(tmp_path / "d.h5ad")
    with h5py.File(tmp_path / "d.h5ad", "r+") as file:
        rows = [(f"c{i}".encode(), code) for i, code in enumerate(codes)]
        del file["obs"]
        file["obs"] = np.array(rows, [("index", "S4"), ("condition", "i1")])
        file["uns/condition_categories"] = np.array([b"ctrl", b"A"])
    with pytest.raises(DataError, match="obs is damaged"):
        inspect(tmp_path / "d.h5ad")


def test_targets_that_are_no_genes_of_the_panel_are_remarked_on(tmp_path: Path):
    adata = adata_of(labels=("ctrl", "STAT1", "JAK2"))
    adata.var["gene_name"] = ["STAT1", "JAK2", "", *(f"S{i}" for i in range(20)), "STAT1"]
    adata.var_names = [f"ENSG{i:011d}" for i in range(24)]
    _, notes = read(adata, tmp_path)
    assert any("none of the 2 targets" in note and "gene_names" in note for note in notes)
    cells, notes = read_file(tmp_path, source={"gene_names": "gene_name"})
    assert not notes
    # A gene without a name of its own goes by its id.
    assert cells.panel[:3] == ("STAT1", "JAK2", "ENSG00000000002")
    assert cells.panel[-1] == "ENSG00000000023"


SPEC = spec_for().model_dump_json(indent=1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (SPEC.encode("utf-16"), r"s\.json is UTF-16"),
        (SPEC.replace('"t"', '"é"').encode("latin-1"), r"s\.json is not UTF-8 \(byte \d+ is 0xe9"),
        (SPEC.replace('"seed"', '"epochs": 2, "seed"').encode(), "'epochs' is there twice"),
        (SPEC.replace('"seed": 0', '"seed": NaN').encode(), "NaN is no JSON number"),
        (SPEC.replace('"seed": 0', '"sede": 0').encode(), "sede is no field; did you mean 'seed'"),
        (SPEC.replace('"kind": "knockout"', '"kind": "ko"').encode(),
         r"sources\.0\.perturbation\.kind: .*'knockout'.* \(it is \"ko\"\)"),
        (SPEC.replace('"ctrl"', '[]').encode(), r"sources\.0\.perturbation\.control"),
        (b"{", r"s\.json is no JSON"),
        (b"[]", "the whole"),
    ],
)  # fmt: skip
def test_a_specification_that_is_wrong_is_refused_by_file_and_field(
    tmp_path: Path, content: bytes, words: str
):
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(SpecError, match=words):
        TrainingSpec.read(tmp_path / "s.json")


def test_a_specification_may_begin_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "s.json").write_text(SPEC, "utf-8-sig")
    assert TrainingSpec.read(tmp_path / "s.json") == TrainingSpec.of(json.loads(SPEC), "s")


def test_a_file_of_two_genes_is_enough(tmp_path: Path):
    adata = adata_of(60, 2)
    adata.write_h5ad(tmp_path / "d.h5ad")
    assert len(read_cells(spec_for(), tmp_path).panel) == 2
