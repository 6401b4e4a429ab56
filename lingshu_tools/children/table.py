"""The child that writes CSV: one row for each gene of each experiment."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lingshu_model.contracts import Catalogue
from lingshu_tools.children.objects import checked
from lingshu_tools.experiments.designs import written_design
from lingshu_tools.report.csv_tables import write_csv
from lingshu_tools.report.gene_tables import effect_rows, sample_rows, score_rows

ROWS = {"sample_cells": sample_rows, "complete_cells": sample_rows, "score_cells": score_rows}
"""Rows of an experiment's numbers, by tool; those of effects for others."""


def run(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the number of rows of the file written to `folder`.

    Args:
        job: `name`, the name of the file, and `parts`: of each experiment its `id`, `tool` and
            `request`, the folder of its `checkpoint`, the
            `home` and the `file` of its effect or its cells with its `digest`.
        folder: where the file is put.
    """
    return {"rows": write_csv(folder / job["name"], _rows(job["parts"]))}


def _rows(parts: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    catalogues: dict[Path, Catalogue] = {}
    for part in parts:
        path = Path(part["checkpoint"])
        catalogue = catalogues.setdefault(path.parent, Catalogue([path.parent]))
        checkpoint = catalogue.load(path.name)
        design = written_design(part["tool"], part["request"], checkpoint, Path(part["home"]))
        rows = ROWS.get(part["tool"], effect_rows)
        yield from rows(part["id"], design, checked(Path(part["file"]), part["digest"]))
