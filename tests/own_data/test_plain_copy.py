"""A user's AnnData stays as it is, and is read whatever else is in it."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from made_data import adata_of

from lingshu_tools.errors import InputError
from lingshu_tools.training.child import inspect
from lingshu_tools.training.plain_copy import write_plain


def _file(adata: Any, folder: Path) -> anndata.AnnData:
    write_plain(adata, folder / "copy.h5ad")
    return anndata.read_h5ad(folder / "copy.h5ad")


def test_labels_of_the_user_do_not_become_categories(tmp_path: Path):
    """AnnData's writer makes them so in the object that it writes."""
    adata = adata_of()
    before = adata.copy()
    written = _file(adata, tmp_path)
    assert adata.obs.dtypes.equals(before.obs.dtypes)
    assert adata.obs.equals(before.obs)
    assert written.obs["condition"].astype(str).equals(before.obs["condition"].astype(str))


def test_an_object_backed_by_a_file_keeps_its_file(tmp_path: Path):
    """AnnData's writer points it at the file that was written last, which is removed."""
    adata_of().write_h5ad(tmp_path / "mine.h5ad")
    backed = anndata.read_h5ad(tmp_path / "mine.h5ad", backed="r")
    backed.obs["condition"] = backed.obs["condition"].cat.rename_categories({"ctrl": "NT"})
    written = _file(backed, tmp_path)
    assert Path(str(backed.filename)) == tmp_path / "mine.h5ad"
    (tmp_path / "copy.h5ad").unlink()
    assert np.array_equal(backed.X[:5].toarray(), written.X[:5].toarray())
    # Labels that were changed in memory are those that are read.
    assert "NT" in set(written.obs["condition"])
    backed.file.close()


def test_a_view_stays_a_view(tmp_path: Path):
    """A part of the cells is written without a copy of them in its place."""
    view = adata_of()[:40]
    assert _file(view, tmp_path).n_obs == 40
    assert view.is_view


@pytest.mark.parametrize(
    "column",
    [
        [1 if i % 2 else "x" for i in range(120)],
        pd.date_range("2024-01-01", periods=120),
        pd.Categorical(pd.cut(np.arange(120.0), 3)),
        [None, "a", 2.5] * 40,
    ],
    ids=["mixed", "dates", "intervals", "missing"],
)
def test_columns_of_any_values_can_be_there(tmp_path: Path, column: Any):
    """They are text in the file, missing where they were missing."""
    adata = adata_of()
    adata.obs["odd"] = column
    written = _file(adata, tmp_path)
    values = pd.Series(adata.obs["odd"].to_numpy(object))
    assert written.obs["odd"].isna().to_numpy().tolist() == values.isna().tolist()
    assert str(written.obs["odd"].iloc[1]) == str(values.iloc[1])


def test_what_training_does_not_read_is_not_written(tmp_path: Path):
    """A function in `uns`, a column with the writer's name, embeddings."""
    adata = adata_of()
    adata.uns["colour"] = lambda: None
    adata.obs["_index"] = 1
    adata.obsm["X_pca"] = np.zeros((120, 2))
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    written = _file(adata, tmp_path)
    assert not written.uns
    assert [*written.layers] == ["counts"]
    assert written.raw is not None
    assert np.array_equal(written.raw.X.toarray(), adata.X.toarray())
    assert "_index" in adata.obs


@pytest.mark.parametrize("cells", [3, pd.DataFrame(), {"rna": 1}, None])
def test_what_is_no_anndata_is_refused_as_that(tmp_path: Path, cells: Any):
    """With what would do."""
    with pytest.raises(InputError, match=f"not {type(cells).__name__}; of a MuData"):
        write_plain(cells, tmp_path / "copy.h5ad")


def test_what_cannot_be_written_is_the_users_to_mend(tmp_path: Path):
    """The reason is that of the writer."""
    adata = adata_of()
    with pytest.raises(InputError, match="cannot be written to a file"):
        write_plain(adata, tmp_path / "missing" / "copy.h5ad")


def test_messages_name_the_object_and_not_a_file_that_is_gone():
    """The private file is removed before anybody reads its name."""
    inspection = inspect(adata_of(), control="ctrl")
    assert inspection.lines[0].startswith("file          the AnnData: 120 cells")
    assert inspection.details["next_step"].startswith("lingshu train FILE.h5ad ")
    with pytest.raises(InputError, match=r"^the AnnData: obs"):
        inspect(adata_of(), control="nothing")
