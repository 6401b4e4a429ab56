"""Gene sets: ranks against SciPy's own test, coverage, users' files, arguments of two tools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lingshu_model.contracts import Checkpoint
from lingshu_testing import GENES
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.children import enrich
from lingshu_tools.errors import InputError
from lingshu_tools.experiments import gene_sets
from lingshu_tools.experiments.findings import unpack_effect
from lingshu_tools.experiments.gene_sets import SHIPPED, genes_by_name, read_collection
from lingshu_tools.user_cells import Roots

KNOCK_OUT = [{"kind": "knockout", "target": "STAT1"}]


def test_the_ranks_are_tested_as_scipy_tests_them_ties_and_all():
    generator = np.random.default_rng(0)
    values = np.round(generator.normal(size=300), 1)
    values[:120] = 0.0
    values[290:] = np.nan
    members = {f"S{i}": generator.choice(290, size, replace=False).tolist()
               for i, size in enumerate((5, 9, 40, 200, 4, 0))}  # fmt: skip
    rows = {row["gene_set"]: row for row in enrich.tested(values, members)}
    known = np.isfinite(values)
    p: list[float] = []
    for name in ("S0", "S1", "S2", "S3"):
        inside = np.zeros(300, bool)
        inside[members[name]] = True
        test = stats.mannwhitneyu(values[inside], values[known & ~inside], method="asymptotic")
        assert rows[name]["p"] == pytest.approx(test.pvalue)
        pairs = inside.sum() * (290 - inside.sum())
        assert rows[name]["auc"] == pytest.approx(test.statistic / pairs)
        assert rows[name]["mean"] == pytest.approx(values[inside].mean())
        p.append(test.pvalue)
    q = stats.false_discovery_control(p)
    assert [rows[f"S{i}"]["q"] for i in range(4)] == pytest.approx(list(q))
    for name in ("S4", "S5"):  # fewer than five genes
        assert rows[name]["p"] is rows[name]["q"] is None


def test_genes_without_a_change_are_never_a_certain_set_whatever_their_order():
    values = np.concatenate([np.zeros(2000), np.linspace(-1, 1, 100)])
    results = []
    for members in (list(range(60)), list(range(1900, 1960))):
        (row,) = enrich.tested(values, {"UNMOVED": members})
        results.append((row["p"], row["auc"]))
    assert results[0] == results[1]
    assert results[0][0] > 0.05


def test_a_set_moved_as_a_whole_comes_first_with_its_direction_and_leading_genes():
    values = np.random.default_rng(1).normal(0, 0.1, 200)
    values[10:20] -= 1
    rows = enrich.tested(values, {"OTHER": list(range(40, 60)), "DOWN": list(range(10, 20))})
    assert rows[0]["gene_set"] == "DOWN"
    assert rows[0]["auc"] < 0.05
    assert rows[0]["leading"] == sorted(range(10, 20), key=lambda i: values[i])[:5]
    assert rows[0]["q"] < 1e-4 < rows[1]["q"]


def test_random_sets_of_genes_are_called_as_often_as_the_rate_says():
    generator = np.random.default_rng(2)
    values = np.where(generator.random(1000) < 0.5, 0, generator.normal(size=1000))
    members = {str(i): generator.choice(1000, 20, replace=False).tolist() for i in range(2000)}
    p = np.array([row["p"] for row in enrich.tested(values, members)])
    assert 0.035 < (p < 0.05).mean() < 0.065


@pytest.mark.parametrize(("name", "n"), [("hallmark", 50), ("reactome", 2546)])
def test_the_shipped_collections_are_whole_and_their_licences_are_beside_them(name: str, n: int):
    collection = read_collection(name)
    assert len(collection.sets) == n
    assert all(collection.sets.values())
    licences = (Path(gene_sets.__file__).parent / "gene_set_files" / "LICENCES.md").read_text(
        "utf-8"
    )
    assert f"{name}.gmt.xz" in licences
    assert {"hallmark": "CC BY 4.0", "reactome": "CC0"}[name] in licences
    assert {"hallmark": "CC BY 4.0", "reactome": "CC0"}[name] in SHIPPED[name]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no gene set"),
        (b"A\tx\tSTAT1\nNOTABS\n", "line 2.*is no gene set"),
        (b"A\tx\n", "line 1.*is no gene set"),
        (b"\tx\tSTAT1\n", "line 1"),
        (b"A\tx\tSTAT1\nA\tx\tJAK2\n", "line 2: there is a set 'A' before"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
    ],
)
def test_a_file_that_is_no_list_of_gene_sets_is_refused_by_its_line(
    tmp_path: Path, content: bytes, said: str
):
    file = tmp_path / "mine.gmt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_collection(str(file))


def test_a_file_is_read_with_its_marks_blank_lines_and_repeated_genes(tmp_path: Path):
    file = tmp_path / "mine.gmt"
    file.write_bytes("\ufeffA\tx\tSTAT1\t\tSTAT1\tJAK2\r\n\r\nB\t\tIRF1\n".encode())
    assert read_collection(str(file)).sets == {"A": ("STAT1", "JAK2"), "B": ("IRF1",)}


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gene_sets, "LARGEST_FILE", 10)
    file = tmp_path / "mine.gmt"
    file.write_text("A\tx\tSTAT1\tJAK2\n")
    with pytest.raises(InputError, match="at most 10"):
        read_collection(str(file))


def test_genes_are_found_by_older_names_unless_these_are_of_several(checkpoint: Checkpoint):
    places = genes_by_name(checkpoint)
    assert places["pd-l1"] == places["pdcd1lg1"] == places["cd274"] == GENES.index("CD274")
    checkpoint.panel_entries[0]["aliases"] = ["TWICE", "CD274"]
    checkpoint.panel_entries[1]["aliases"] = ["TWICE"]
    places = genes_by_name(checkpoint)
    assert "twice" not in places
    assert places["cd274"] == GENES.index("CD274")


def perturbed(app: App, **more: Any) -> Any:
    given = {"interventions": KNOCK_OUT, "n_cells": 32, "wait_s": 30} | more
    return call(app, "perturb_cells", given)


def job_of(app: App, name: str, collection: str) -> dict[str, Any]:
    outcome = app.ledger.outcome(name)
    digest = outcome.artifacts["effects"]
    request = app.ledger.experiment(name).request
    return {
        "request": request,
        "checkpoint": str(app.catalogue.load(request["checkpoint"]).path),
        "home": str(app.home),
        "file": str(app.ledger.object_path(digest)),
        "digest": digest,
        "collection": collection,
        "collection_digest": read_collection(collection).digest,
    }


@pytest.fixture
def own_sets(app: App, tmp_path: Path) -> Path:
    """A GMT file in an allowed folder: sets with few, enough and no measured genes."""
    folder = tmp_path / "data"
    folder.mkdir()
    Roots(app.home).add(folder)
    file = folder / "mine.gmt"
    rows = {
        "FEW": [*GENES[8:12], *(f"ELSEWHERE{i}" for i in range(196))],
        "ENOUGH": ["STAT1", "PD-L1", *GENES[9:18], *(f"ELSEWHERE{i}" for i in range(189))],
        "NONE": ["ELSEWHERE1"],
    }
    lines = ["\t".join([name, "mine", *genes]) for name, genes in rows.items()]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_coverage_is_counted_and_sets_with_few_measured_genes_are_named_not_tested(
    app: App, own_sets: Path
):
    name = perturbed(app).experiment_id
    result = enrich.run(job_of(app, name, str(own_sets)), own_sets.parent)
    rows = {row["gene_set"]: row for row in result["sets"]}
    # PD-L1 is a name of CD274; STAT1 is knocked out, so its own change is no evidence of a pathway.
    assert (rows["ENOUGH"]["measured"], rows["ENOUGH"]["n_genes"]) == (10, 200)
    assert rows["ENOUGH"]["p"] is not None
    assert (rows["FEW"]["measured"], rows["FEW"]["p"]) == (4, None)
    assert (rows["NONE"]["measured"], rows["NONE"]["q"]) == (0, None)
    assert [row["gene_set"] for row in result["sets"]] == ["ENOUGH", "FEW", "NONE"]
    assert result["n_genes"] == len(GENES) - 1
    effect = unpack_effect(app.ledger.get_object(app.ledger.outcome(name).artifacts["effects"]))
    others = [i for i, gene in enumerate(GENES) if gene != "STAT1"]
    inside = [GENES.index("CD274"), *range(9, 18)]
    outside = [i for i in others if i not in inside]
    test = stats.mannwhitneyu(effect.change[inside], effect.change[outside], method="asymptotic")
    assert rows["ENOUGH"]["p"] == pytest.approx(test.pvalue)


def test_the_same_row_has_the_same_gene_sets_in_another_process_after_the_answer_is_gone(
    open_app, engine, own_sets: Path
):
    app = open_app(engine)
    ran = perturbed(app, enrichment=str(own_sets))
    name = ran.experiment_id
    asked_again = {"id": name, "enrichment": "mine.gmt", "wait_s": 45}
    first = call(app, "get_experiment", asked_again).enrichment
    assert first.n_sets == 3
    assert first.n_tested == 1
    assert [s.gene_set for s in first.sets] == ["ENOUGH", "FEW", "NONE"]
    assert ran.enrichment in (None, first) or ran.enrichment.sets == first.sets
    for file in (app.home / "children").glob("enrich-*.answer"):
        file.unlink()
    assert call(open_app(engine), "get_experiment", asked_again).enrichment == first
    own_sets.write_text(own_sets.read_text() + "MORE\tmine\tGENE1\n")
    changed = call(app, "get_experiment", asked_again).enrichment
    assert changed.n_sets == 4
    assert changed.digest != first.digest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("kegg", "hallmark or reactome"),
        ("/etc/passwd", "hallmark or reactome"),
        ("/elsewhere/sets.gmt", "no allowed folder|no folder is allowed"),
        ("../sets.gmt", "no allowed folder|no folder is allowed"),
    ],
)
def test_other_collections_are_refused_before_cells_are_made(app: App, given: str, said: str):
    before = str(app.ledger.head())
    with pytest.raises(InputError, match=said):
        perturbed(app, enrichment=given)
    assert str(app.ledger.head()) == before


def test_a_link_out_of_an_allowed_folder_is_not_followed(app: App, own_sets: Path, tmp_path: Path):
    outside = tmp_path / "outside.gmt"
    outside.write_text(own_sets.read_text())
    (own_sets.parent / "link.gmt").symlink_to(outside)
    with pytest.raises(InputError, match="no allowed folder"):
        perturbed(app, enrichment=str(own_sets.parent / "link.gmt"))


def test_what_has_no_effect_or_is_not_shown_is_refused(app: App):
    name = perturbed(app).experiment_id
    sample = call(app, "sample_cells", {"n_cells": 8, "wait_s": 30}).experiment_id
    screen = {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1"], "n_cells": 8}
    screen_id = call(app, "run_screen", screen | {"wait_s": 30}).screen_id
    for arguments, said in (
        ({"id": sample}, "needs an effect"),
        ({"id": screen_id}, "is a screen"),
        ({"id": name, "genes": ["STAT1"]}, "in place of genes"),
        ({"id": name, "detail": "provenance"}, "in place of genes"),
    ):
        with pytest.raises(InputError, match=said):
            call(app, "get_experiment", arguments | {"enrichment": "hallmark"})


def test_a_call_that_returns_before_its_cells_says_how_to_get_the_gene_sets(open_app, held):
    app = open_app(held)
    result = perturbed(app, wait_s=0, enrichment="hallmark")
    assert result.enrichment is None
    assert 'enrichment="hallmark"' in result.next_step
    held.gate.set()


def test_gene_sets_cost_nothing_where_they_are_not_asked_for(app: App):
    result = perturbed(app)
    assert result.enrichment is None
    assert "gene set" not in json.dumps(result.caveats)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_separators_within_a_description_end_no_set(tmp_path: Path, end: str):
    file = tmp_path / "mine.gmt"
    lines = ["A\tof\u2028one\x85and\x0btwo\tG1\tG2", "B\ts\tG3"]
    file.write_bytes((end.join(lines) + end).encode())
    assert read_collection(str(file)).sets == {"A": ("G1", "G2"), "B": ("G3",)}
