"""Names of contexts: spellings and synonyms of trained values, and a context as one line."""

from collections.abc import Mapping

from lingshu_model.contracts import Checkpoint
from lingshu_tools.experiments.gene_directory import plain

CELLS: dict[str, str] = {
    "nk": "naturalkillercell",
    "nkcell": "naturalkillercell",
    "bcell": "bcell",
    "blymphocyte": "bcell",
    "b": "bcell",
    "cd4t": "cd4tcell",
    "cd4": "cd4tcell",
    "helpertcell": "cd4tcell",
    "cd4positivealphabetatcell": "cd4tcell",
    "cd8t": "cd8tcell",
    "cd8": "cd8tcell",
    "cd8positivealphabetatcell": "cd8tcell",
    "classicalmonocyte": "cd14monocyte",
    "monocytecd14": "cd14monocyte",
    "cd14mono": "cd14monocyte",
    "nonclassicalmonocyte": "fcgr3amonocyte",
    "cd16monocyte": "fcgr3amonocyte",
    "fcgr3amono": "fcgr3amonocyte",
    "dc": "dendriticcell",
    "hematopoieticstemcell": "hematopoieticprecursorcell",
}
"""Synonyms of the shipped contexts' cell types (Cell Ontology), plain, and one name of each."""


def context_label(context: Mapping[str, str]) -> str:
    """Return a context in one line, the same for any order of its fields."""
    return ", ".join(f"{key}={value}" for key, value in sorted(context.items()))


def spelled(checkpoint: Checkpoint, arguments: Mapping[str, str]) -> dict[str, str]:
    """Return a context with values as they were trained, where they differ in spelling alone."""
    result: dict[str, str] = {}
    for field_, value in arguments.items():
        trained = {c[field_] for c in checkpoint.contexts if field_ in c}
        # A value that was trained as written is never replaced by a synonym.
        names = {cell_name(value), value}
        same = [t for t in trained if value not in trained and cell_name(t) in names]
        result[field_] = same[0] if len(same) == 1 else value
    return result


def cell_name(name: str) -> str:
    """Return a name of cells without case, punctuation and plural; synonyms are one name."""
    # CD4+ and CD4 are one name. A short key keeps a final s, which may be no plural.
    key = plain(name.replace("+", ""))
    key = key.removesuffix("s") if len(key) > 3 else key
    return CELLS.get(key, key)
