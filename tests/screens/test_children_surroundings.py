"""A user's settings neither change nor break a picture: equal numbers give equal files anywhere."""

import os
import shutil
from pathlib import Path

import pytest
from made_screens import open_app, run

from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.children import pool

RC = """\
figure.dpi: 17
font.size: 40
font.family: cursive
text.usetex: True
axes.facecolor: red
axes.grid: True
lines.linewidth: 9
savefig.bbox: tight
savefig.transparent: True
svg.fonttype: path
path.simplify: False
not a setting at all
"""
BROKEN = b"\xff\xfe\x00 font.size : \x80\n"
SURROUNDINGS = {
    "MPLBACKEND": "module://of_nobody",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "PYTHONHASHSEED": "12345",
    "PYTHONDEVMODE": "1",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "PYTHONINSPECT": "1",
    "PYTHONVERBOSE": "1",
    "LANG": "tr_TR.ISO-8859-9",
    "LC_ALL": "xx_YY",
    "OMP_NUM_THREADS": "0",
    "OPENBLAS_NUM_THREADS": "-1",
    "MKL_NUM_THREADS": "none",
    "MKL_DEBUG_CPU_TYPE": "5",
    "NPY_DISABLE_CPU_FEATURES": "NOTHING_LIKE_IT",
    "HDF5_PLUGIN_PATH": ".",
    "HDF5_DISABLE_VERSION_CHECK": "0",
    "SOURCE_DATE_EPOCH": "yesterday",
    "FREETYPE_PROPERTIES": "truetype:interpreter-version=35",
    "TZ": "Nowhere/Town",
    "COLUMNS": "-1",
    "TMPDIR": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "XDG_CACHE_HOME": "/nonexistent",
}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, a home and a configuration of matplotlib that would spoil a picture."""
    folder = tmp_path / "project"
    for place in (folder, folder / ".config" / "matplotlib", folder / "mpl"):
        place.mkdir(parents=True)
        (place / "matplotlibrc").write_text(RC)
    (folder / "mpl").chmod(0o500)
    monkeypatch.chdir(folder)
    for name, value in SURROUNDINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("MPLCONFIGDIR", str(folder / "mpl"))
    monkeypatch.setenv("MATPLOTLIBRC", str(folder / "matplotlibrc"))
    return folder


def digests(app: App, screen_id: str) -> list[dict[str, str]]:
    """Return the digests of the files of a ranking, a volcano and two exports."""
    plotted = [{"id": screen_id}, {"id": app.ledger.children(screen_id)[0].id}]
    drawn = [call(app, "plot_experiment", {**request, "wait_s": 45}) for request in plotted]
    exported = [
        call(app, "export_experiment", {"id": screen_id, "format": form, "wait_s": 45})
        for form in ("h5ad", "csv")
    ]
    return [*(d.digests for d in drawn), *({"digest": e.digest} for e in exported)]


def test_settings_of_the_user_change_no_file(
    app: App, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: Path
):
    spoilt = digests(app, screen_id := make_screen(app))
    monkeypatch.undo()
    # The same home, as ids and times stand in the files; nothing is left of the first ones.
    for folder in ("children", "plots", "exports"):
        shutil.rmtree(app.home / folder)
    clean = open_app(tmp_path / "home", engine)
    assert digests(clean, screen_id) == spoilt


def make_screen(app: App) -> str:
    screen = {"objective": {"lower": ["G01"]}, "candidates": ["T01", "T02"], "n_cells": 16}
    return run(app, **screen).screen_id


def test_a_configuration_that_cannot_be_read_breaks_no_picture(app: App, user: Path):
    for path in user.rglob("matplotlibrc"):
        path.chmod(0o600)
        path.write_bytes(BROKEN)
    drawn = call(app, "plot_experiment", {"id": make_screen(app), "wait_s": 45})
    assert drawn.status == "succeeded"


def test_a_child_is_given_nothing_that_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LINGSHU_ENGINE_TOKEN", "secret")
    monkeypatch.setenv("LINGSHU_LEDGER", "postgresql://user:secret@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    environ = pool.child_environ(tmp_path)
    assert "secret" not in str(environ)
    assert environ["PATH"] == os.environ["PATH"]
    assert environ["MPLCONFIGDIR"] == str(tmp_path / "matplotlib")
