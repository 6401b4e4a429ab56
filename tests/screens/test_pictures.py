"""Heat maps, violins, embeddings and interactions: files that fit a paper, with their numbers."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.children.cell_plots import densities, principal_components
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.findings import unpack_effect
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.report.experiment_views import shown

CHECKPOINT = "thp1-crispr"
MOST_PNG = 60_000


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    """An application with the shipped checkpoint, whose cells a fake engine makes."""
    panel = Catalogue().load(CHECKPOINT).panel
    return App(tmp_path_factory.mktemp("home"), door="python", engine=FakeEngine(panel))


def perturb(app: App, *targets: str) -> str:
    interventions = [{"kind": "knockout", "target": target} for target in targets]
    request = {"checkpoint": CHECKPOINT, "interventions": interventions, "n_cells": 40}
    name = call(app, "perturb_cells", request | {"wait_s": 45}).experiment_id
    assert app.runner.wait([name], 120)
    return name


@pytest.fixture(scope="module")
def knockout(app: App) -> str:
    return perturb(app, "STAT1")


@pytest.fixture(scope="module")
def screen(app: App) -> str:
    objective = {"lower": ["PSMB9"]}
    request = {"objective": objective, "candidates": ["STAT1", "JAK2", "IRF1"], "n_cells": 16}
    name = call(app, "run_screen", {"checkpoint": CHECKPOINT, **request, "wait_s": 45}).screen_id
    assert app.runner.wait([child.id for child in app.ledger.children(name)], 120)
    return name


def draw(app: App, name: str, kind: str, **arguments: Any) -> Any:
    request = {"id": name, "kind": kind, **arguments}
    drawn = call(app, "plot_experiment", request | {"wait_s": 45})
    # A busy machine starts the child slowly; the same call then goes on with it.
    while drawn.status == "running":
        drawn = call(app, "plot_experiment", request | {"wait_s": 45})
    assert Path(drawn.png).stat().st_size <= MOST_PNG
    assert "Predicted, not measured" in Path(drawn.svg).read_text("utf-8")
    return drawn


def rows_of(drawn: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(drawn.csv).read_text("utf-8").splitlines()))


def test_a_violin_shows_the_cells_behind_the_means(app: App, knockout: str):
    drawn = draw(app, knockout, "violin", genes=["psmb9", "UBE2L6"])
    rows = rows_of(drawn)
    assert [row["arm"] for row in rows] == ["control"] * 40 + ["perturbed"] * 40
    record = shown(app, knockout)
    effect = unpack_effect(record.artifact("effects"))
    for gene in ("PSMB9", "UBE2L6"):
        at = record.design.checkpoint.panel.index(gene)
        levels = np.array([float(row[gene]) for row in rows])
        assert levels[:40].mean() == pytest.approx(effect.control_mean[at])
        assert levels[40:].mean() == pytest.approx(effect.perturbed_mean[at])
    svg = Path(drawn.svg).read_text("utf-8")
    assert "ln(1 + counts per 10,000)" in svg
    assert "95 % MC interval" in svg


def test_violins_are_of_the_genes_that_change_most_by_default(app: App, knockout: str):
    (first, *_), columns = rows_of(draw(app, knockout, "violin", top=3)), ("arm", "cell")
    record = shown(app, knockout)
    changes = np.abs(unpack_effect(record.artifact("effects")).change)
    panel = record.design.checkpoint.panel
    assert [name for name in first if name not in columns] == [
        panel[i] for i in np.argsort(-changes, kind="stable")[:3]
    ]


def test_an_embedding_has_every_cell_of_both_arms(app: App, knockout: str):
    drawn = draw(app, knockout, "embedding")
    rows = rows_of(drawn)
    assert [row["arm"] for row in rows] == ["control"] * 40 + ["perturbed"] * 40
    points = np.array([[float(row["pc1"]), float(row["pc2"])] for row in rows])
    assert points.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert float(points[:, 0] @ points[:, 1]) == pytest.approx(0, abs=1e-6)
    svg = Path(drawn.svg).read_text("utf-8")
    assert "own genes left out" in svg
    assert "of variance" in svg


def test_principal_components_agree_with_the_covariance_and_keep_their_sign():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(50, 2)) @ np.array([[3.0, 1, 0, 0], [0, 0, 1, -2]])
    table += 0.01 * rng.normal(size=table.shape)
    points, shares = principal_components(table)
    values = np.linalg.eigvalsh(np.cov(table.T))[::-1]
    assert shares == pytest.approx((values / values.sum())[:2].tolist())
    assert points.var(axis=0, ddof=1) == pytest.approx(values[:2])
    again, _ = principal_components(table[::-1])
    assert again[::-1] == pytest.approx(points)
    same, none = principal_components(np.ones((4, 3)))
    assert not same.any()
    assert none == [0.0, 0.0]


@pytest.mark.parametrize("values", [[0.0] * 9, [2.5] * 9, [0.0] * 8 + [3.0], [1.0]])
def test_a_density_exists_for_cells_that_are_all_alike(values: list[float]):
    grid, density = densities(np.array(values))
    assert np.isfinite(density).all()
    assert density.max() == 1
    assert grid[0] == 0


def test_a_heat_map_has_the_change_of_every_candidate(app: App, screen: str):
    drawn = draw(app, screen, "heatmap", genes=["PSMB9", "UBE2L6", "TNFRSF14"])
    rows = rows_of(drawn)
    ranking = call(app, "run_screen", {"screen_id": screen}).ranking
    assert [row["perturbation"] for row in rows[::3]] == [row.perturbation for row in ranking]
    for row in rows:
        record = shown(app, row["experiment_id"])
        at = record.design.checkpoint.panel.index(row["gene"])
        change = unpack_effect(record.artifact("effects")).change[at]
        assert float(row["change"]) == pytest.approx(change, rel=1e-4)
        assert (float(row["lfsr"]) <= 0.05) == (row["called"] == "True")
    svg = Path(drawn.svg).read_text("utf-8")
    assert "lfsr" in svg
    assert "counts per 10,000" in svg


def test_a_heat_map_of_the_largest_changes_leaves_targets_out(app: App, screen: str):
    genes = {row["gene"] for row in rows_of(draw(app, screen, "heatmap"))}
    assert len(genes) == 30
    assert genes.isdisjoint({"STAT1", "JAK2", "IRF1"})


def test_an_interaction_is_the_combination_less_the_sum_of_its_parts(app: App):
    name = perturb(app, "STAT1", "BRD4")
    drawn = draw(app, name, "interaction")
    rows = rows_of(drawn)
    design = shown(app, name).design
    single = [stored_effect(replace(design, interventions=(i,))) for i in design.interventions]
    pair = stored_effect(design)
    assert pair
    assert all(single)
    alone, both = [each.posterior for each in single if each], pair.posterior
    total = sum(part.mean for part in alone)
    sd = np.sqrt(sum(part.sd**2 for part in (*alone, both)))
    for row in rows:
        at = design.checkpoint.panel.index(row["gene"])
        assert float(row["interaction"]) == pytest.approx(
            both.mean[at] - total[at], rel=1e-4, abs=1e-9
        )
        width = float(row["interval_high"]) - float(row["interval_low"])
        assert width == pytest.approx(2 * 1.959964 * sd[at], rel=1e-3)
    # No cells of the pair were trained on: what a rule gives is not called an interaction.
    assert {row["called"] for row in rows} == {"0"}
    assert "shows no synergy" in drawn.caveats[0]


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("interaction", {}, "two or more perturbations"),
        ("violin", {"genes": ["STAT1", "NOTAGENE"]}, "NOTAGENE"),
        ("volcano", {"genes": ["STAT1"]}, "genes has no meaning for kind='volcano'"),
        ("embedding", {"top": 3}, "top has no meaning for kind='embedding'"),
        ("heatmap", {}, "does not fit"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(
    app: App, knockout: str, kind: str, arguments: dict[str, Any], reason: str
):
    with pytest.raises(InputError, match=reason):
        call(app, "plot_experiment", {"id": knockout, "kind": kind, **arguments})
