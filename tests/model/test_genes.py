"""Gene names of a file find the panel's genes, whatever they were called when it was written."""

import gzip
from pathlib import Path

import pytest

from lingshu_model.train.data.gene_names import Hgnc, match

ROWS = [
    ("HGNC:1", "ISG15", "G1P2|UCRP", "", "ENSG00000187608"),
    ("HGNC:2", "MARCHF8", "c-MIR", "MARCH8", "ENSG00000165406"),
    ("HGNC:3", "CD274", "B7-H1|PD-L1", "PDCD1LG1", "ENSG00000120217"),
    ("HGNC:4", "TWIN1", "TWIN", "OLD", "ENSG00000000004"),
    ("HGNC:5", "TWIN2", "TWIN", "OLD", "ENSG00000000005"),
]


@pytest.fixture
def hgnc(tmp_path: Path) -> Hgnc:
    header = "hgnc_id\tsymbol\talias_symbol\tprev_symbol\tensembl_gene_id"
    text = "\n".join([header, *("\t".join(row) for row in ROWS)])
    path = tmp_path / "hgnc.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return Hgnc.read(path)


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("ISG15", "ISG15"),
        ("MARCH8", "MARCHF8"),
        ("PD-L1", "CD274"),
        ("ENSG00000187608.5", "ISG15"),
        ("TWIN", None),
        ("OLD", None),
        ("nothing", None),
    ],
)
def test_a_name_is_the_one_gene_that_ever_had_it(hgnc: Hgnc, name: str, symbol: str | None) -> None:
    result = hgnc.find(name)
    assert (result.symbol if result else None) == symbol


def test_a_panel_and_a_file_of_different_years_agree_on_a_gene(hgnc: Hgnc) -> None:
    panel = ["MARCH8", "ISG15", "CD274", "ABSENT"]
    assert match(panel, ["PDCD1LG1", "MARCHF8", "ENSG00000187608"], hgnc) == {0: 1, 1: 2, 2: 0}
    assert match(panel, ["PDCD1LG1", "MARCHF8", "ISG15"], None) == {1: 2}


def test_the_panels_own_spelling_comes_before_another_name_of_the_gene(hgnc: Hgnc) -> None:
    assert match(["ISG15"], ["UCRP", "ISG15"], hgnc) == {0: 1}
