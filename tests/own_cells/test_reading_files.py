"""A user's file brought onto the panel: chosen cells, counts, genes, and refusals in words."""

import os
from pathlib import Path

import numpy as np
import pytest
from user_cells_lab import PANEL, cells_of

from lingshu_model.contracts import Checkpoint
from lingshu_model.contracts.user_cells import UserCellsStore
from lingshu_model.train.data.compressed import DataError
from lingshu_model.user_cells.genes import report
from lingshu_model.user_cells.reading import Selection, check_unchanged, open_inside, read_cells
from lingshu_tools.app import App
from lingshu_tools.children import Children
from lingshu_tools.errors import InputError
from lingshu_tools.system.deadline import time_limit
from lingshu_tools.user_cells import ReadCells, Request, Roots, read


def gene(symbol: str, ensembl: str = "", aliases=(), previous=()) -> dict[str, object]:
    return {"symbol": symbol, "ensembl": ensembl, "aliases": aliases, "previous": previous}


HUMAN = [
    gene("STAT1", "ENSG00000115415", ["ISGF-3"], ["STAT91"]),
    gene("ISG15", "ENSG00000187608", ["G1P2", "SHARED"]),
    gene("CCL2", "ENSG00000108691", ["MCP1"]),
    gene("SPP1", "ENSG00000118785", ["OPN", "SHARED"]),
]


def test_genes_are_matched_by_name_former_name_alias_and_id():
    names = ["STAT91", "ISG15", "ENSG00000108691.7", "UNKNOWN1"]
    result = report(HUMAN, names, names)
    assert result.columns == {0: 0, 1: 1, 2: 2}
    assert (result.matched, result.others) == (2, 1)
    assert result.renamed == {"STAT91": "STAT1"}
    assert result.missing == ("SPP1",)


def test_a_name_of_two_genes_is_ambiguous_and_neither_is_measured_by_it():
    result = report(HUMAN, ["STAT1", "CCL2", "SHARED"], [])
    assert result.ambiguous == {"SHARED": ("ISG15", "SPP1")}
    assert set(result.missing) == {"ISG15", "SPP1"}


def test_an_alias_beside_the_symbol_itself_is_ambiguous_and_the_symbol_counts():
    result = report(HUMAN, ["MCP1", "CCL2", "STAT1"], [])
    assert result.columns == {0: 2, 2: 1}
    assert result.ambiguous == {"MCP1": ("CCL2",)}


def test_two_aliases_of_a_gene_are_ambiguous():
    panel = [gene("A1"), gene("B1"), gene("C1", aliases=["X", "Y"])]
    result = report(panel, ["A1", "B1", "X", "Y"], [])
    assert result.ambiguous == {"X": ("C1",), "Y": ("C1",)}
    assert result.missing == ("C1",)


def test_the_symbol_of_another_gene_is_not_taken_for_an_alias():
    result = report(HUMAN, ["STAT1", "ISG15", "OPN"], [], known=[gene("OPN")])
    assert (result.others, result.renamed) == (1, {})


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (["Stat1", "Isg15", "Ccl2", "Spp1"], "mouse or rat"),
        (["ENSMUSG00000026104", "ENSMUSG00000035692.3"], "mouse"),
        (["ENSRNOG00000000001", "ENSRNOG00000000002"], "rat"),
        (["ENSXYZG00000000001", "ENSXYZG00000000002"], "another species"),
    ],
)
def test_another_species_is_refused_by_its_name(names: list[str], species: str):
    with pytest.raises(DataError, match=f"(?s){species}.*ortholog"):
        report(HUMAN, names, names)


def test_mouse_names_are_refused_though_some_are_aliases_of_human_genes():
    panel = [gene(f"GEN{i}", aliases=[f"Gen{i}"] if i < 30 else []) for i in range(100)]
    with pytest.raises(DataError, match="mouse or rat"):
        report(panel, [f"Gen{i}" for i in range(100)], [])


def test_a_file_of_other_names_is_refused_with_what_would_help():
    with pytest.raises(DataError, match=r"adata\.var_names"):
        report(HUMAN, ["probe_1", "probe_2"], [])


def reading(file: Path, checkpoint: Checkpoint, **selection):
    return read_cells(file, checkpoint, Selection(**selection))


def test_counts_arrive_on_the_panel_and_absent_genes_are_unmeasured(
    folder: Path, checkpoint: Checkpoint
):
    kept = tuple(reversed(PANEL[20:]))
    adata = cells_of(30, genes=(*kept, "OTHER"))
    adata.write_h5ad(folder / "part.h5ad")
    user = reading(folder / "part.h5ad", checkpoint)
    assert user.cells.shape == (30, len(PANEL))
    assert user.cells.measured.tolist() == [False] * 20 + [True] * 100
    counts = user.cells.counts
    for symbol in (PANEL[20], PANEL[77], PANEL[-1]):
        stored = adata[:, symbol].X.toarray().ravel()
        assert np.array_equal(counts[:, PANEL.index(symbol)], stored)
    assert not counts[:, :20].any()
    assert user.genes.missing == PANEL[:20]


def test_cells_are_chosen_by_label_and_number_the_same_each_time(
    file: Path, checkpoint: Checkpoint
):
    whole = reading(file, checkpoint, where={"cell_type": "B"})
    assert (len(whole.cells), whole.n_matching, whole.n_file) == (40, 40, 80)
    few = [
        reading(file, checkpoint, where={"cell_type": "B"}, n_cells=9, seed=s) for s in (3, 3, 4)
    ]
    assert np.array_equal(few[0].cells.counts, few[1].cells.counts)
    assert not np.array_equal(few[0].cells.counts, few[2].cells.counts)
    rows = {row.tobytes() for row in whole.cells.counts}
    assert all(row.tobytes() in rows for row in few[0].cells.counts)


@pytest.mark.parametrize(
    ("where", "words"),
    [({"cell_type": "b"}, "did you mean 'B'"), ({"celltype": "B"}, "did you mean 'cell_type'")],
)
def test_an_unknown_label_or_column_is_refused_with_the_nearest(
    file: Path, checkpoint: Checkpoint, where: dict[str, str], words: str
):
    with pytest.raises(DataError, match=words):
        reading(file, checkpoint, where=where)


def test_logged_values_are_refused_and_counts_beside_them_are_taken(
    folder: Path, checkpoint: Checkpoint
):
    adata = cells_of(40)
    counts = adata.X.copy()
    adata.X = counts.copy()
    adata.X.data = np.log1p(adata.X.data)
    adata.write_h5ad(folder / "logged.h5ad")
    with pytest.raises(DataError, match="no raw counts"):
        reading(folder / "logged.h5ad", checkpoint)
    adata.layers["counts"] = counts
    adata.write_h5ad(folder / "both.h5ad")
    user = reading(folder / "both.h5ad", checkpoint)
    assert user.counts == "layers/counts"
    with pytest.raises(DataError, match="raw counts are needed"):
        reading(folder / "both.h5ad", checkpoint, counts="X")


def test_cells_of_another_species_by_their_labels_are_refused(folder: Path, checkpoint: Checkpoint):
    cells_of(20, organism=["Mus musculus"] * 20).write_h5ad(folder / "mouse.h5ad")
    with pytest.raises(DataError, match="mus musculus"):
        reading(folder / "mouse.h5ad", checkpoint)


def test_empty_cells_are_refused(folder: Path, checkpoint: Checkpoint):
    adata = cells_of(20)
    dense = adata.X.toarray()
    dense[4] = 0
    adata.X = dense
    adata.write_h5ad(folder / "empty.h5ad")
    with pytest.raises(DataError, match="1 of the 20 chosen cells"):
        reading(folder / "empty.h5ad", checkpoint)


def test_a_file_is_opened_in_its_folder_alone_and_not_through_a_link(folder: Path, file: Path):
    link = folder / "link.h5ad"
    link.symlink_to(file)
    for path, folders in ((file, [folder / "elsewhere"]), (link, [folder])):
        with pytest.raises(DataError, match="allowed folder"):
            open_inside(path, folders)


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path, file: Path):

    descriptor, digest = open_inside(file.resolve(), [folder.resolve()])
    try:
        check_unchanged(file.resolve(), descriptor, digest)
        cells_of(81).write_h5ad(file)
        with pytest.raises(DataError, match="changed while it was read"):
            check_unchanged(file.resolve(), descriptor, digest)
    finally:
        os.close(descriptor)


def test_another_file_in_its_place_is_not_read_however_short_it_is_there(
    file: Path, folder: Path, checkpoint: Checkpoint
):
    path, aside, other = file.resolve(), folder / "aside.h5ad", folder / "other.h5ad"
    cells_of(81, seed=2).write_h5ad(other)
    descriptor, digest = open_inside(path, [folder.resolve()])
    try:
        path.rename(aside)
        other.rename(path)
        user = read_cells(path, checkpoint, Selection(), descriptor)
        path.rename(other)
        aside.rename(path)
        check_unchanged(path, descriptor, digest)
        assert user.n_file == len(user.cells) == 80
        assert (
            user.cells.values.sum() == read_cells(path, checkpoint, Selection()).cells.values.sum()
        )
    finally:
        os.close(descriptor)


def test_errors_of_an_open_file_name_it_by_its_path(folder: Path, checkpoint: Checkpoint):
    path = folder / "none.h5ad"
    path.write_bytes(b"no HDF5")
    descriptor, _ = open_inside(path.resolve(), [folder.resolve()])
    try:
        with pytest.raises(DataError, match=r"none\.h5ad is not an HDF5 file"):
            read_cells(path, checkpoint, Selection(), descriptor)
    finally:
        os.close(descriptor)


def read_patiently(app: App, checkpoint: Checkpoint, request: Request) -> ReadCells:
    while True:
        with time_limit(60):
            result = read(app, checkpoint, request)
        if isinstance(result, ReadCells):
            return result


def test_a_child_reads_the_file_and_the_home_keeps_the_cells(
    app: App, checkpoint: Checkpoint, file: Path, folder: Path
):
    Roots(app.home).add(folder)
    app.children = Children(app.home)
    done = read_patiently(app, checkpoint, Request(str(file), n_cells=10))
    stored = UserCellsStore.of(app.home).cells(done.report["cells"])
    assert stored.shape == (10, len(PANEL))
    assert done.report["genes"]["matched"] == len(PANEL)
    assert done.record["file_digest"].startswith("sha256:")
    # A file that was changed is read again, though its name is the same.
    cells_of(12, seed=5).write_h5ad(file)
    again = read_patiently(app, checkpoint, Request(str(file), n_cells=10))
    assert again.report["cells"] != done.report["cells"]
    # What the caller can mend comes as an error, and is not remembered.
    with pytest.raises(InputError, match="did you mean 'cell_type'"):
        read_patiently(app, checkpoint, Request(str(file), where={"celltypes": "B"}))
