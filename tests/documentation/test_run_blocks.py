"""Python blocks of a page run in order and share their names; one that raises is reported."""

from pathlib import Path

import pytest

from docs.builder.run_blocks import run


def page(folder: Path, *blocks: str) -> Path:
    path = folder / "page.md"
    path.write_text("".join(f"```python\n{block}\n```\n\n" for block in blocks), "utf-8")
    return path


def test_blocks_share_their_names(tmp_path: Path):
    assert run([page(tmp_path, "a = 1", "assert a == 1")]) == 0


def test_cells_are_made_for_blocks_that_train(tmp_path: Path):
    assert (
        run([page(tmp_path, "assert adata.n_obs == 960 and 'NT' in set(adata.obs['gene'])")]) == 0
    )


def test_a_block_that_raises_is_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run([page(tmp_path, "a = 1", "print(b)", "c = nothing")]) == 2
    assert "name 'b' is not defined" in capsys.readouterr().err
