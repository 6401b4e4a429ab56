"""Which columns and matrices of a file enter training: genes, and the counts of whole cells."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from made_data import adata_of, read_file
from scipy import sparse

from lingshu_model.train.data.h5ad import opened
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.options import Options

PROTEINS = 6
# As files of 10x are: anndata warns whenever it sees them.
pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")


def cite_seq(form: Any, column: str = "feature_types") -> anndata.AnnData:
    """Return 24 genes and 6 antibodies of 500 counts each, one with the name of a gene."""
    genes = adata_of()
    antibodies = np.full((len(genes), PROTEINS), 500.0, np.float32)
    # Antibodies between genes: positions of genes after them must not shift.
    parts = [genes.X[:, :5].toarray(), antibodies, genes.X[:, 5:].toarray()]
    names = [*genes.var_names[:5], "A", *(f"CD{i}" for i in range(1, PROTEINS))]
    types = ["Gene Expression"] * 5 + ["Antibody Capture"] * PROTEINS + ["Gene Expression"] * 19
    var = pd.DataFrame({column: types}, index=[*names, *genes.var_names[5:]])
    return anndata.AnnData(form(np.hstack(parts)), genes.obs, var)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("column", ["feature_types", "Feature_Type", "modality"])
def test_antibodies_are_no_genes_and_no_part_of_the_depth(tmp_path: Path, form: Any, column: str):
    """The same cells as without them are read, whatever the layout, and it is said."""
    cite_seq(form, column).write_h5ad(tmp_path / "d.h5ad")
    cells, notes = read_file(tmp_path)
    genes = adata_of()
    assert cells.panel == tuple(genes.var_names)
    assert np.array_equal(cells.counts(), genes.X.toarray())
    assert any("6 Antibody Capture" in note and column in note for note in notes)
    seen = inspect(tmp_path / "d.h5ad")
    assert not seen.fatal
    assert seen.genes == 24
    assert seen.depth < 100
    assert any("6 of 30 features are no genes" in p.what for p in seen.problems)


def test_features_of_raw_are_told_by_its_own_table(tmp_path: Path):
    """`raw` has features that `var` has not."""
    adata = cite_seq(sparse.csr_matrix)
    adata.raw = adata.copy()
    adata = adata[:, adata.var["feature_types"] == "Gene Expression"].copy()
    adata.X = adata.X.astype(np.float64).multiply(0.37).tocsr()
    adata.write_h5ad(tmp_path / "d.h5ad")
    seen = inspect(tmp_path / "d.h5ad")
    assert (seen.counts, seen.genes) == ("raw/X", 24)
    assert seen.depth < 100
    with opened(tmp_path / "d.h5ad", "raw/X") as file:
        assert next(file.blocks(np.arange(3))).shape == (3, 24)


@pytest.mark.parametrize("labels", [["protein_coding", "lncRNA"], ["Gene Expression"]])
def test_a_column_without_other_assays_leaves_nothing_out(tmp_path: Path, labels: list[str]):
    """Biotypes of genes are no assays."""
    adata = adata_of()
    adata.var["feature_type"] = [labels[i % len(labels)] for i in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "d.h5ad")
    seen = inspect(tmp_path / "d.h5ad")
    assert seen.genes == 24
    assert not any("no genes" in p.what for p in seen.problems)


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ({"ambiguous": 0.1, "spliced": 0.7, "unspliced": 0.3}, "layers/spliced"),
        ({"a_mask": 0.0, "kept": 1.0}, "layers/kept"),
        ({"ambient": 0.5, "umi_counts": 1.0}, "layers/umi_counts"),
    ],
)
def test_of_several_layers_the_one_with_the_counts_of_a_cell_is_used(
    tmp_path: Path, layers: dict[str, float], chosen: str
):
    """Not the first by its name: parts of counts and masks come last, and the others are named."""
    adata = adata_of(600)
    whole = adata.X.toarray().astype(int)
    generator = np.random.default_rng(1)
    for name, share in layers.items():
        part = generator.binomial(whole, share) if share else (whole > 0).astype(int)
        adata.layers[name] = sparse.csr_matrix(part.astype(np.float32))
    adata.X = sparse.csr_matrix(np.log1p(whole).astype(np.float32))
    adata.write_h5ad(tmp_path / "d.h5ad")
    seen = inspect(tmp_path / "d.h5ad")
    assert seen.counts == chosen
    rest = [f"layers/{name}" for name in layers if f"layers/{name}" != chosen]
    (note,) = [p for p in seen.problems if "would do too" in p.what]
    assert all(name in note.what for name in rest)
    assert "--counts" in note.remedy


def test_ones_in_x_are_not_taken_for_the_counts_of_a_layer(tmp_path: Path):
    """X may say which genes a cell has, and a layer how much."""
    adata = adata_of()
    adata.layers["measured"] = adata.X.copy()
    adata.X = (adata.X > 0).astype(np.float32)
    adata.write_h5ad(tmp_path / "d.h5ad")
    assert inspect(tmp_path / "d.h5ad").counts == "layers/measured"


def test_names_that_two_genes_have_give_way_to_their_ids(tmp_path: Path):
    """The first keeps the name, as files of 10x have them; without ids they are refused."""
    adata = adata_of()
    names = [*adata.var_names]
    names[5] = names[7] = names[3]
    adata.var_names = names
    adata.write_h5ad(tmp_path / "d.h5ad")
    (problem,) = inspect(tmp_path / "d.h5ad").fatal
    assert names[3] in problem.what
    adata.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "d.h5ad")
    seen = inspect(tmp_path / "d.h5ad")
    assert not seen.fatal
    assert any("var['gene_ids']" in p.what and names[3] in p.what for p in seen.problems)
    cells, notes = read_file(tmp_path)
    assert cells.panel[5] == "ENSG00000000005"
    assert cells.panel[3] == names[3]
    assert np.array_equal(cells.counts(), adata.X.toarray())
    assert any("gene_ids" in note for note in notes)


def test_a_column_of_ids_named_by_the_user_is_read_as_ids(tmp_path: Path):
    """Human ids go by their symbols, wherever they are."""
    adata = adata_of(labels=("ctrl", "STAT1", "JAK2"))
    ids = [f"ENSG{99_000_000_000 + i:011d}.1" for i in range(adata.n_vars)]
    ids[4], ids[9] = "ENSG00000115415.20", "ENSG00000096968.14"
    adata.var["gene_ids"] = ids
    adata.write_h5ad(tmp_path / "d.h5ad")
    seen = inspect(tmp_path / "d.h5ad", Options(gene_names="gene_ids"))
    assert seen.human
    assert seen.gene_words.startswith("Ensembl ids in var['gene_ids'], human, with versions")
    assert not any("none of the" in p.what for p in seen.problems)


def test_counts_that_have_no_token_are_said_with_the_genes(tmp_path: Path):
    """They enter as 10,000, so that what is estimated of them is too small."""
    adata = adata_of()
    counts = adata.X.toarray()
    counts[:, 6] = 30_000 + np.arange(len(counts))
    counts[10:17] = 0
    adata.X = sparse.csr_matrix(counts)
    adata.write_h5ad(tmp_path / "d.h5ad")
    _, notes = read_file(tmp_path)
    (over,) = [note for note in notes if "above 9,999" in note]
    assert "1 of 24 genes" in over
    assert adata.var_names[6] in over
    assert any("7 of 120 cells have no count" in note for note in notes)
    remarks = [p for p in inspect(tmp_path / "d.h5ad").problems if "above 9,999" in p.what]
    assert remarks
