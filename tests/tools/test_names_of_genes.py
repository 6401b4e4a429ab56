"""A gene that exists is told from a name that no gene has; nothing that is asked is ignored."""

import pytest

from lingshu_testing import make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, NotFoundError
from lingshu_tools.experiments.designs import resolve_context
from lingshu_tools.experiments.gene_directory import real_genes
from lingshu_tools.experiments.gene_names import UnmeasuredGeneError, gene_names

KNOCKOUT = {"kind": "knockout", "target": "STAT1"}
ALONE = {"candidates": ["STAT1"]}


@pytest.mark.parametrize(
    ("name", "genes"),
    [("PD-L1", "CD274"), ("p53", "TP53"), ("Trp53", "TP53"), ("HLA-A", "HLA-A"), ("hla a", "HLA-A"),
     ("IFN-γ", "IFNG"), ("TNF-\u03b1", "TNF"), ("NF-κB", "NFKB1 RELA"), ("CD16", "FCGR3A FCGR3B"),
     ("MHC-II", "HLA-DRA HLA-DRB1 HLA-DQA1 HLA-DQB1 HLA-DPA1 HLA-DPB1"), ("B2m", "B2M"),
     ("HER2", "ERBB2"), ("c-Myc", "MYC"), ("NOTAGENE", ""), ("XYZ123", "")],
)  # fmt: skip
def test_names_of_proteins_families_and_other_species_are_those_of_genes(name: str, genes: str):
    assert real_genes(name) == tuple(genes.split())


@pytest.mark.parametrize(
    ("name", "symbol"),
    [("PD-L1", "CD274"), ("pdl1", "CD274"), ("Stat-1", "STAT1"), ("Jak2", "JAK2")],
)
def test_another_spelling_finds_the_gene_of_the_panel(checkpoint, name: str, symbol: str):
    assert gene_names(checkpoint).find(name).symbol == symbol


@pytest.mark.parametrize("name", ["GATA1", "p53", "HLA-A", "Trp53"])
def test_no_other_gene_is_offered_for_one_that_is_not_measured(checkpoint, app: App, name: str):
    with pytest.raises(UnmeasuredGeneError, match="does not measure") as refused:
        gene_names(checkpoint).find(name)
    assert "Did you mean" not in str(refused.value)
    (view,) = call(app, "find_genes", {"names": [name]}).genes
    assert view.nearest == []
    assert view.matched_by == f"not measured: {real_genes(name)[0]}"
    with pytest.raises(NotFoundError) as refused:
        call(app, "perturb_cells", {"interventions": [{"kind": "knockout", "target": name}]})
    assert "Did you mean" not in str(refused.value)


def test_a_misspelled_name_has_the_nearest_beside_it(checkpoint, app: App):
    with pytest.raises(NotFoundError, match=r"no human gene of that name .*Did you mean 'STAT1'"):
        gene_names(checkpoint).find("STATT1")
    matches = call(app, "find_genes", {"names": ["STATT1", "GATA1"]})
    assert "STATT1 (no known gene), GATA1 (a gene, not measured)" in matches.summary


def test_a_target_that_is_not_measured_is_known_by_its_other_names(tmp_path):
    """IFNGR1 (CD119) was knocked out, and is not on the panel of `thp1-crispr`."""
    request = {"names": ["CD119"], "checkpoint": "thp1-crispr"}
    result = call(App(tmp_path), "find_genes", request)
    assert result.genes[0].perturbed_by == ["knockout"]
    assert "CD119 (IFNGR1, a gene, not measured; its knockout was trained)" in result.summary
    assert '"target": "IFNGR1"' in result.next_step


@pytest.mark.parametrize(
    ("name", "label"),
    [("C19orf26", "C19orf26"), ("CBARP", "C19orf26"), ("cbarp", "C19orf26"),
     ("C3orf72", "C3orf72"), ("FOXL2NB", "C3orf72")],
)  # fmt: skip
def test_a_target_with_an_older_label_is_known_by_its_symbol_too(tmp_path, name: str, label: str):
    """The screen's labels are C19orf26 and C3orf72; CBARP is on the panel, FOXL2NB is not."""
    request = {"names": [name], "checkpoint": "k562-crispra-semisynthetic"}
    result = call(App(tmp_path), "find_genes", request)
    assert result.genes[0].perturbed_by == ["crispra"]
    assert f'"target": "{label}"' in result.next_step


def test_a_name_of_several_measured_genes_is_not_called_unmeasured(tmp_path):
    """CD16 is FCGR3A and FCGR3B, which `pbmc` measures."""
    result = call(App(tmp_path), "find_genes", {"names": ["CD16"], "checkpoint": "pbmc"})
    assert result.genes[0].nearest == ["FCGR3A", "FCGR3B"]
    assert "CD16 (a name of several measured genes: FCGR3A, FCGR3B; name one)" in result.summary


def test_one_cytokine_is_not_taken_for_another(tmp_path):
    from dataclasses import replace

    from lingshu_model.contracts import Intervention
    from lingshu_tools.experiments.designs import resolve_interventions

    checkpoint_ = make_checkpoint(tmp_path / "cytokines")
    seen = [
        {"context": {}, "n_cells": 9, "interventions": [{"kind": "cytokine", "target": "IFN-beta"}]}
    ]
    checkpoint = replace(checkpoint_, config={**checkpoint_.config, "seen": seen})
    for name in ("IFN-beta", "IFN-β", "ifn beta"):
        (resolved,) = resolve_interventions(
            checkpoint, [Intervention(kind="cytokine", target=name)]
        )
        assert resolved.target == "IFN-beta"
    with pytest.raises(NotFoundError, match="no cytokine target 'IFN-gamma'") as refused:
        resolve_interventions(checkpoint, [Intervention(kind="cytokine", target="IFN-gamma")])
    assert "Did you mean" not in str(refused.value)


@pytest.mark.parametrize("name", ["NK cells", "natural killer cell", "NK", "Natural Killer Cells"])
def test_synonyms_of_cell_types_are_understood(tmp_path, name: str):
    contexts = [{"cell_type": "natural killer cell"}, {"cell_type": "CD4 T cell"}]
    checkpoint = make_checkpoint(tmp_path / "several", contexts=contexts)
    assert resolve_context(checkpoint, {"cell_type": name}) == contexts[0]
    assert resolve_context(checkpoint, {"cell_type": "CD4+ T cells"}) == contexts[1]
    with pytest.raises(InputError):
        resolve_context(checkpoint, {"cell_type": "CD8+ T cells"})


@pytest.mark.parametrize(
    ("tool", "arguments", "reason"),
    [
        ("perturb_cells", {"interventions": [KNOCKOUT], "genes": ["STAT1"], "top": 3}, "top=3"),
        ("perturb_cells", {"interventions": [KNOCKOUT, {**KNOCKOUT, "target": "stat1"}]}, "twice"),
        ("perturb_cells", {"interventions": [{**KNOCKOUT, "dose": 0.1}]}, "without doses"),
        ("plan_screen", {"objective": {"lower": ["PD-L1"], "raise": ["CD274"]}, **ALONE},
         "raises and lowers 'CD274'"),
        ("get_experiment", {"id": "exp_x", "detail": "provenance", "limit": 4}, "not use limit"),
        ("get_experiment", {"id": "exp_x", "detail": "effects", "genes": ["STAT1"]}, "use genes"),
        ("get_experiment", {"id": "exp_x", "detail": "genes"}, "needs genes"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused(app: App, tool: str, arguments: dict, reason: str):
    with pytest.raises(InputError, match=reason):
        call(app, tool, arguments)


def test_all_genes_that_are_named_are_shown(app: App):
    names = [f"GENE{i}" for i in range(1, 13)]
    arguments = {"interventions": [KNOCKOUT], "genes": names, "n_cells": 8, "wait_s": 30}
    result = call(app, "perturb_cells", arguments)
    assert [gene.gene for gene in result.genes] == names
    assert result.truncated is None


def test_a_page_of_the_ledger_says_how_many_rows_there_are(app: App):
    for seed in range(7):
        call(app, "sample_cells", {"n_cells": 1, "seed": seed, "wait_s": 30})
    page = call(app, "list_experiments", {"limit": 3})
    assert (page.truncated.shown, page.truncated.total) == (3, 7)
    older = call(app, "list_experiments", {"limit": 3, "before": page.next_before})
    assert (older.truncated.shown, older.truncated.total) == (3, 4)
    assert call(app, "list_experiments", {"limit": 7}).truncated is None


def test_a_plan_says_how_many_candidates_it_does_not_name(app: App, monkeypatch):
    from lingshu_tools.tools import plan_screen

    monkeypatch.setattr(plan_screen, "SHOWN_CANDIDATES", 4)
    arguments = {"objective": {"lower": ["PSMB9"]}, "candidates": "all_seen"}
    planned = call(app, "plan_screen", arguments)
    assert (planned.truncated.shown, planned.truncated.total) == (4, planned.n_candidates)
    assert f"top={planned.n_candidates}" in planned.truncated.how_to_get_more
