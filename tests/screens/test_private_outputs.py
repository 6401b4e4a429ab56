"""Pictures and exports are this user's alone, and nothing is written through a link."""

import os
import stat
from pathlib import Path

import pytest
from made_screens import run

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import LingshuError

T01 = [{"kind": "knockout", "target": "T01"}]
FORMATS = ("h5ad", "csv", "script")


def perturb(app: App) -> str:
    return call(
        app, "perturb_cells", {"interventions": T01, "n_cells": 16, "wait_s": 45}
    ).experiment_id


@pytest.mark.parametrize("mask", [0o000, 0o777], ids=oct)
def test_all_that_tools_leave_in_a_home_is_private_whatever_the_umask(app: App, mask: int):
    before = os.umask(mask)
    try:
        name = perturb(app)
        created = [
            call(app, "plot_experiment", {"id": name, "wait_s": 45}).png,
            *(
                call(app, "export_experiment", {"id": name, "format": f, "wait_s": 45}).path
                for f in FORMATS
            ),
        ]
        run(app, objective={"lower": ["G01"]}, candidates=["T01", "T02"], n_cells=16)
    finally:
        os.umask(before)
    assert all(Path(path).is_file() for path in created)
    result = {path: stat.S_IMODE(path.lstat().st_mode) for path in (app.home, *app.home.rglob("*"))}
    assert result == {path: 0o700 if path.is_dir() else 0o600 for path in result}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", ["exports", "file"])
def test_an_export_is_not_written_through_a_link(app: App, tmp_path: Path, form: str, place: str):
    name = perturb(app)
    target = tmp_path / "target"
    if place == "exports":
        target.mkdir()
        (app.home / "exports").symlink_to(target)
    else:
        target.write_text("precious")
        (app.home / "exports").mkdir(mode=0o700)
        suffix = "py" if form == "script" else form
        (app.home / "exports" / f"{name}.{suffix}").symlink_to(target)
    with pytest.raises(LingshuError, match="is a symbolic link"):
        call(app, "export_experiment", {"id": name, "format": form, "wait_s": 45})
    assert not list(target.iterdir()) if target.is_dir() else target.read_text() == "precious"
