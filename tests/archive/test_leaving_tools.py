"""CSV, scripts and lab-book pages: made to be opened elsewhere, with nothing in them that runs."""

import ast
import csv
import json
import runpy
from pathlib import Path

import pytest
from made_ledgers import KNOCKOUT, finished

from lingshu_tools import Lab
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.cli.lab_book import page
from lingshu_tools.errors import InputError
from lingshu_tools.ledger import digest_file
from lingshu_tools.report.csv_tables import write_csv
from lingshu_tools.system.plain_text import plain

NASTY = 'x"""\nimport os; os.abort()\n#\\\'{RECORD_STANDS_HERE}'


def export(app: App, name: str, form: str):
    return call(app, "export_experiment", {"id": name, "format": form, "wait_s": 45})


@pytest.fixture
def app(open_app) -> App:
    return open_app("home")


@pytest.fixture
def done(app: App) -> str:
    return finished(app, "perturb_cells", KNOCKOUT).experiment_id


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_text_that_a_spreadsheet_would_run_is_escaped(tmp_path: Path, text: str):
    assert write_csv(tmp_path / "a.csv", [{text: text, "n": -0.5, "none": None, "ok": "a=b"}]) == 1
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        head, row = csv.reader(file)
    assert head[0] == row[0] == f"'{text}"
    assert row[1:] == ["-0.5", "", "a=b"]


def test_a_perturbation_as_csv_has_every_gene_and_the_tool_s_numbers(app: App, done: str):
    result = export(app, done, "csv")
    assert result.digest == digest_file(Path(result.path))
    rows = list(csv.DictReader(Path(result.path).read_text("utf-8").splitlines()))
    panel = app.catalogue.load("made").panel
    assert [row["gene"] for row in rows] == panel
    assert result.rows == len(panel)
    shown = call(app, "get_experiment", {"id": done, "detail": "genes", "genes": ["TAP1"]}).genes[0]
    row = rows[panel.index("TAP1")]
    assert float(row["change"]) == shown.change
    assert [float(row["change_mc_low"]), float(row["change_mc_high"])] == shown.change_mc_interval
    assert float(row["prediction_error"]) == shown.prediction_error
    assert row["perturbation"] == "STAT1 knockout"


def test_a_sample_as_csv_has_the_mean_of_every_gene(app: App):
    name = finished(app, "sample_cells", {"n_cells": 8, "wait_s": 45}).experiment_id
    rows = list(csv.DictReader(Path(export(app, name, "csv").path).read_text("utf-8").splitlines()))
    top = call(app, "get_experiment", {"id": name}).genes[0]
    mean = {row["gene"]: row["mean"] for row in rows}[top.gene]
    assert float(mean) == pytest.approx(top.mean)


def test_a_script_holds_what_is_stored_as_literals_alone(app: App, done: str):
    text = Path(export(app, done, "script").path).read_text("utf-8")
    tree = ast.parse(text)
    record = next(n.value for n in tree.body if isinstance(n, ast.Assign))
    (item,) = ast.literal_eval(record)
    row, outcome = app.ledger.experiment(done), app.ledger.outcome(done)
    assert outcome
    assert item["id"] == done
    assert {k: row.request[k] for k in item["arguments"]} == item["arguments"]
    assert item["request_digest"] == row.request_digest
    assert item["cells"] == {r: outcome.artifacts[r] for r in ("control", "perturbed")}


def test_nothing_stored_becomes_code_however_it_is_written(
    app: App, done: str, monkeypatch: pytest.MonkeyPatch
):
    clean = ast.parse(Path(export(app, done, "script").path).read_text("utf-8"))
    recorded = "lingshu_tools.report.replay_scripts._recorded"
    monkeypatch.setattr(recorded, lambda item: {"id": NASTY, NASTY: [NASTY, None, -1.5, True]})
    tree = ast.parse(Path(export(app, done, "script").path).read_text("utf-8"))
    record = next(n for n in tree.body if isinstance(n, ast.Assign))
    assert ast.literal_eval(record.value) == [{"id": NASTY, NASTY: [NASTY, None, -1.5, True]}]
    rest = [[ast.dump(n) for n in t.body if not isinstance(n, ast.Assign)] for t in (tree, clean)]
    assert rest[0] == rest[1]


def test_the_script_reproduces_the_experiment_in_another_home(app: App, done: str, open_app):
    result = runpy.run_path(export(app, done, "script").path)
    again = open_app("another")
    assert result["main"](Lab(app=again)) == 0
    assert [item.status for item in again.ledger.find().items] == ["succeeded"]


def test_the_script_says_what_is_not_the_same(
    app: App, done: str, open_app, capsys: pytest.CaptureFixture[str]
):
    result = runpy.run_path(export(app, done, "script").path)
    result["RECORD"][0]["cells"]["perturbed"] = "sha256:" + "0" * 64
    result["RECORD"][0]["request_digest"] = "sha256:" + "1" * 64
    assert result["main"](Lab(app=open_app("another"))) == 1
    assert f"{done} differs in request, perturbed" in capsys.readouterr().out


def test_an_h5ad_says_when_it_was_sealed_and_how_it_replayed(app: App, done: str):
    import anndata

    again = finished(app, "replay_experiment", {"id": done, "wait_s": 45}).experiment_id
    read = anndata.read_h5ad(export(app, done, "h5ad").path)
    messages = json.loads(read.uns["lingshu"])["experiments"][0]
    outcome = app.ledger.outcome(done)
    assert outcome
    assert messages["sealed_at"] == outcome.created_at
    assert messages["ledger_row"] == app.ledger.experiment(done).seq
    assert [(r["replay"], r["verdict"]) for r in messages["replays"]] == [(again, "exact")]


def test_a_page_tells_what_was_asked_what_came_out_and_what_it_is_worth(app: App, done: str):
    again = finished(app, "replay_experiment", {"id": done, "wait_s": 45}).experiment_id
    text = page(app, done)
    row, outcome = app.ledger.experiment(done), app.ledger.outcome(done)
    assert outcome
    wanted = (
        "STAT1 knockout", "seed 0", "CAME OUT", "held out: pearson of change", "mean shift",
        "profile.device", "fake", again, "exact", row.request_digest, row.checkpoint_digest,
        outcome.artifacts["perturbed"], str(app.ledger.head()),
    )  # fmt: skip
    assert [item for item in wanted if item not in text] == []
    assert f"exact, this one, of {done}" in page(app, again)


def test_a_screen_s_page_ranks_and_names_its_experiments(app: App):
    request = {"objective": {"lower": ["CD274"]}, "candidates": ["STAT1", "JAK2"], "n_cells": 16}
    screen = call(app, "run_screen", {**request, "wait_s": 45}).screen_id
    while call(app, "get_experiment", {"id": screen, "wait_s": 45}).status == "running":
        pass
    text = page(app, screen)
    assert all(child.id in text for child in app.ledger.children(screen))
    assert "lower CD274" in text
    assert text.index("CAME OUT") < text.index("EVIDENCE") < text.index("EXPERIMENTS")


def test_a_page_begins_nothing(app: App, done: str):
    head = app.ledger.head()
    waiting = app.ledger.experiment(done)
    page(app, waiting.id)
    assert app.ledger.head() == head


def test_without_the_checkpoint_a_page_shows_the_row_alone(app: App, done: str, open_app):
    bare = open_app("home")
    bare.catalogue = type(bare.catalogue)([])
    text = page(bare, done)
    assert "no checkpoint 'made'" in " ".join(text.split())
    assert "EVIDENCE" not in text
    assert app.ledger.experiment(done).request_digest in text


def test_text_that_would_steer_a_terminal_is_shown_without_its_power():
    assert plain("a\x1b[31mb\u202ec\u200bd\re\tf\n") == "a[31mbcdef\n"


def test_what_is_not_stored_here_cannot_be_exported(app: App, done: str):
    outcome = app.ledger.outcome(done)
    assert outcome
    app.ledger.objects.path(outcome.artifacts["effects"]).unlink()
    with pytest.raises(InputError, match=r"effects of .* are not stored here"):
        export(app, done, "csv")
