"""What the labels of a perturbation say: guides, combinations, and the kind of intervention."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lingshu_model.contracts.messages import TrainedKind
from lingshu_model.train.data.controls import means_control

_SURE, _UNSURE = ("+", "|", ";", ",", "&", "__"), ("_", "/", "-")
"""Separators that occur in combinations alone, and those that names hold too."""
# STAT1_2, STAT1-g1, sgSTAT1_1, STAT1 guide 3: a base and one number of up to two digits.
_GUIDE = re.compile(
    r"^(?:sg|grna[_-])?(?P<base>[A-Za-z0-9][\w.\-]*?)"
    r"(?:[_.\- ]?(?:sgrna|grna|guide|sg|g)[_.\- ]?(?P<a>\d{1,2})"
    r"|[_.\-](?:i|cr)?(?P<b>\d{1,2}))$",
    re.IGNORECASE,
)
# STAT1_ACGTACGTACGTACGTACGT: the guide's sequence in place of a number.
_SEQUENCE = re.compile(r"^(?:sg)?(?P<base>[A-Za-z0-9][\w.\-]*?)[_.\-]+[ACGTacgt]{15,25}$")
_SYMBOL = re.compile(
    r"^(?:ENS[A-Z]{0,4}G\d{8,}|[A-Z][A-Z0-9]{1,9}(?:[-.][A-Z0-9]{1,6})*|[A-Z][a-z0-9]{1,9}|C\d+orf\d+)$"
)
_WORD = re.compile(r"^[A-Z]?[a-z]+$")
_CYTOKINE = re.compile(
    r"^(ifn[-_ ]?(a|b|g|alpha|beta|gamma|l|lambda)\d*[a-z]?|il[-_ ]?\d+[a-z]?|tnf[-_ ]?(a|alpha)?|"
    r"tgf[-_ ]?(a|b|alpha|beta)?\d?|g?m?-?csf\d?|lif|egf|fgf\d*|bmp\d*|stim|stimulated|lps|"
    r"interferon.*|cytokine.*|osm|tslp|activin.*)$",
    re.IGNORECASE,
)
# Alpha, beta, gamma and lambda of Greek, as in names of interferons.
_GREEK = {0x3B1: "a", 0x3B2: "b", 0x3B3: "g", 0x3BB: "l"}
# Largest number of a guide; larger ones are doses, plates or clusters.
_LARGEST_GUIDE = 12
_GUIDE_WORDS = {"guide", "guides", "sgrna", "grna", "sg"}
# `nt` as a word: `control` has these letters too.
_GENETIC_CONTROL = re.compile(
    r"(?<![a-z])(sg|sh|si)?ntc?(?![a-z])|non.?target|scr|safe|intergenic|aavs|(?<![a-z])neg|gfp|"
    r"lacz|luc",
    re.I,
)
_TREATMENT_CONTROL = re.compile(r"dmso|vehicle|pbs|untreat|mock|solvent|saline|no.?drug", re.I)
# The longer word first: `crispri` holds `crispr`.
_HINTS: tuple[tuple[str, TrainedKind], ...] = (
    ("crispri", "crispri"),
    ("krab", "crispri"),
    ("interference", "crispri"),
    ("crispra", "crispra"),
    ("activation", "crispra"),
    ("vp64", "crispra"),
    ("sunt", "crispra"),
    ("crispr", "knockout"),
    ("cas9", "knockout"),
    ("knockout", "knockout"),
    ("drug", "drug"),
    ("compound", "drug"),
    ("cytokine", "cytokine"),
)


@dataclass(frozen=True)
class Kind:
    """What was done to perturbed cells, and why that is thought.

    Attributes:
        name: a kind of intervention.
        because: the reason.
        assumed: whether the file does not say it.
    """

    name: TrainedKind
    because: str
    assumed: bool


def separator_of(
    labels: Sequence[str], controls: Iterable[str], genes: frozenset[str]
) -> str | None:
    """Return what stands between the targets of combinations; None where no label is one.

    Most parts must be known from elsewhere: a label of its own, a control, a gene of the file. A
    separator that names hold too must explain every label that has it.
    """
    control = {*controls} | {p for x in labels for p in _parts(x) if means_control(p)}
    # Sure ones first: a name may hold `-` or `_` beside the separator.
    for separator in (*_SURE, *_UNSURE):
        joined = [x for x in labels if separator in x and x not in control and x not in genes]
        parts = {x: [p.strip() for p in x.split(separator)] for x in joined}
        if not joined or not all(all(p) for p in parts.values()):
            continue
        singles = {x for x in labels if separator not in x} | control | genes
        # Parts that occur with control: A in `A+ctrl`, which is A alone.
        alone = {p for each in parts.values() for p in each if {*each} - {p} <= control}
        known = singles | (alone if separator in _SURE else set[str]())
        good = [all(p in known for p in each) for each in parts.values()]
        share = sum(good) / len(good)
        # A target that occurs in pairs only is known from nowhere.
        if share == 1 or (separator in _SURE and share >= 0.5):
            return separator
    return None


def _parts(label: str) -> list[str]:
    """Return the parts of a label by every separator that there may be."""
    return [label.strip(), *(p.strip() for s in (*_SURE, *_UNSURE) for p in label.split(s))]


def without_controls(
    labels: Iterable[str], separator: str | None, controls: Sequence[str]
) -> dict[str, str]:
    """Return labels of combinations to themselves without parts that mean control.

    Only where control cells are called otherwise: `STAT1_NegCtrl0` beside `NegCtrl0_NegCtrl0`.
    """
    if not separator:
        return {}
    shorter: dict[str, str] = {}
    for label in labels:
        parts = [part.strip() for part in label.split(separator)]
        kept = [part for part in parts if not means_control(part)]
        # Fewer than all: some part means control without being a control label here.
        named = [part for part in parts if part in kept or part in controls]
        if label not in controls and kept and len(named) < len(parts):
            shorter[label] = separator.join(kept)
    return shorter


def guide_targets(labels: Iterable[str], column: str, genes: frozenset[str]) -> dict[str, str]:
    """Return label to target where labels name guides; empty where they name targets.

    A number at the end of a label is a guide's where the rest is a gene, or where most targets
    have several, counted from 0 or 1. `DrugA_10` is no guide.
    """
    names = [label for label in labels if not means_control(label)]
    parsed = {label: m for label in names if label not in genes and (m := _parsed(label))}
    # Half or more of the labels end in a number, or none is taken for a guide.
    if not names or len(parsed) < 0.5 * len(names):
        return {}
    numbers: dict[str, set[int]] = defaultdict(set)
    for base, number in parsed.values():
        numbers[base].add(number)
    several = [b for b, n in numbers.items() if len(n) > 1]
    # Guides of a target are numbered from 0 or 1; some may have been filtered out.
    counted = all(max(n) <= _LARGEST_GUIDE for n in numbers.values()) and all(
        max(numbers[b]) - min(numbers[b]) < 2 * len(numbers[b]) for b in several
    )
    symbols = sum(bool(_SYMBOL.match(b)) for b in numbers) >= 0.8 * len(numbers)
    folded = {gene.casefold() for gene in genes}
    in_file = sum(b.casefold() in folded for b in numbers) >= 0.5 * len(numbers)
    said = bool(_GUIDE_WORDS & {*re.findall(r"[a-z]+", column.casefold())})
    many = len(several) >= 0.5 * len(numbers)
    if not counted or not (in_file or said or (many and symbols)):
        return {}
    # Labels without a number, such as genes of the file, stay as they are.
    return {label: base for label, (base, _) in parsed.items()}


def _parsed(label: str) -> tuple[str, int] | None:
    if match := _SEQUENCE.match(label):
        return match["base"], 1
    if match := _GUIDE.match(label):
        return match["base"], int(match["a"] or match["b"])
    return None


def kind_of(
    targets: Sequence[str],
    controls: Sequence[str],
    genes: frozenset[str],
    hints: Mapping[str, Sequence[str]],
) -> Kind | None:
    """Return what was done: as a column says, else as names of targets and controls suggest.

    None where no column says it and there are no targets, as in a file of controls alone.

    Args:
        targets: what was perturbed.
        controls: labels of control cells.
        genes: of the file.
        hints: column name to its labels, of columns with few.
    """
    for column, labels in hints.items():
        hinted: set[TrainedKind] = {k for k in map(_hinted, labels) if k}
        if len(hinted) == 1:
            return Kind(hinted.pop(), f"obs[{column!r}] says so", assumed=False)
    # Of no targets every rule below would be true.
    if not targets:
        return None
    by_guide = any(_GENETIC_CONTROL.search(c) for c in controls) and not any(
        _TREATMENT_CONTROL.search(c) for c in controls
    )
    # `Tumor` and `Dexamethasone` have the form of a gene of mice; some target is one then.
    words = not by_guide and not any(t in genes for t in targets)
    # Some targets are missing from the file, or are called by older names.
    likely = [t in genes or bool(_SYMBOL.match(t) and not (words and _WORD.match(t)))
              for t in targets]  # fmt: skip
    genetic = sum(likely) >= 0.7 * len(targets)
    # Guides against cytokine genes have non-targeting controls.
    if all(_CYTOKINE.match(t.translate(_GREEK)) for t in targets) and not by_guide:
        return Kind("cytokine", "the labels name cytokines or a stimulation", assumed=True)
    if genetic and not any(_TREATMENT_CONTROL.search(c) for c in controls):
        return Kind("knockout", "the labels look like genes", assumed=True)
    return Kind("drug", "the labels are no genes", assumed=True)


def _hinted(label: str) -> TrainedKind | None:
    text = re.sub(r"[^a-z0-9]", "", label.casefold())
    return next((kind for word, kind in _HINTS if word in text), None)
