"""Headings of the troubleshooting page are texts that the code has, and some are produced here."""

import json

import pytest

from docs.builder.troubles import PAGE, headings, is_produced, templates
from lingshu_tools import Lab
from lingshu_tools.errors import LingshuError

TEXT = PAGE.read_text("utf-8")
HEADINGS = headings(TEXT)


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_is_a_text_of_the_code(heading: str):
    assert is_produced(heading, templates())


def test_most_sections_are_headed_by_an_error_text():
    assert len(HEADINGS) >= 20
    assert TEXT.count("\n### ") - len(HEADINGS) <= 1


@pytest.mark.parametrize(
    "heading",
    [
        "this needs …: pip install 'lingshu-tool[…]'",
        "no folder is allowed yet so … is not read.",
        "… has no … targets …",
        "the engine ended with … before it answered with status",
    ],
)
def test_a_heading_that_is_a_little_wrong_is_refused(heading: str):
    assert not is_produced(heading, templates())


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("perturb_cells", {"interventions": [{"kind": "knockout", "target": "STAT1"}]}),
        ("perturb_cells", {"interventions": [{"kind": "knockout", "target": "GAPDH"}]}),
        ("perturb_cells", {"interventions": [{"kind": "drug", "target": "STAT1"}]}),
        (
            "perturb_cells",
            {"interventions": [{"kind": "knockout", "target": "STAT1", "dose": 2.0}]},
        ),
        (
            "perturb_cells",
            {"interventions": [{"kind": "knockout", "target": "STAT1"}], "cells": "x.h5ad"},
        ),
    ],
    ids=["checkpoint", "target", "kind", "dose", "roots"],
)
def test_a_refused_call_is_headed_on_the_page(tool: str, arguments: dict[str, object], tmp_path):
    # The first call names no checkpoint, of which two are shipped.
    named = {} if json.dumps(arguments) == FIRST else {"checkpoint": "thp1-crispr"}
    with Lab(tmp_path) as lab, pytest.raises(LingshuError) as raised:
        getattr(lab, tool)(**named, **arguments)
    message = frozenset([str(raised.value)])
    assert [heading for heading in HEADINGS if is_produced(heading, message)]


FIRST = json.dumps({"interventions": [{"kind": "knockout", "target": "STAT1"}]})
