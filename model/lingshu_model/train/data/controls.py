"""Labels that usually mean control cells, collected from published data sets.

`_STRONG` labels have no other meaning. `_WEAK` labels name a safe-harbour target or a reporter,
which is the control of a data set without a strong label.
"""

import re

_STRONG = (
    r"control", r"controls", r"ctrl", r"ctl", r"ctr", r"con", r"cntrl", r"cont",
    r"nt", r"ntc", r"nc", r"nontarget(ing|ed)?", r"nontargettingcontrol", r"notarget(ing)?",
    r"safetarget(ing)?", r"safe", r"safeharbou?r", r"scr", r"scrambled?", r"intergenic",
    r"neg", r"negctrl", r"negativecontrol", r"negcontrol", r"negctl",
    r"vehicle", r"dmso", r"pbs", r"mock", r"saline", r"solvent", r"water",
    r"untreated", r"notreatment", r"nodrug", r"unstimulated", r"unstim", r"notstimulated",
    r"nostim(ulation)?", r"resting", r"baseline", r"unperturbed", r"uninfected", r"untransduced",
    r"unedited", r"nonedited", r"wt", r"wildtype", r"none", r"empty(vector)?", r"ev", r"sham",
    r"uninjected", r"noninjected", r"untransfected", r"nontransfected", r"uninduced",
    r"noninfected", r"nontreated", r"nottreated", r"nonstimulated", r"unexposed", r"parental",
    r"unt", r"untx", r"veh", r"nosite", r"onenongenesite", r"oneintergenicsite",
)  # fmt: skip
_WEAK = (
    r"aavs1", r"rosa26", r"hrosa26", r"ccr5safe", r"e?gfp", r"lacz", r"luc(iferase)?", r"bfp",
    r"rfp", r"mcherry", r"or\d+[a-z]+\d+", r"medium", r"media", r"placebo", r"healthy", r"normal",
    r"0(nm|um|ng|h|hr|hours?|min|d|days?)?", r"false", r"negative", r"noguide", r"nosgrna",
    r"basal", r"ethanol", r"etoh", r"h2o", r"cas9", r"naive",
)  # fmt: skip
# Guides are numbered: `NTC_12`, `sgNT-3`, `Non-Targeting Control Guide For Human_0001`.
_TAIL = r"(sg|g|grna|sgrna|guide|control|ctrl|only|cells?|for|human|mouse)*\d{0,8}"
_STRONG_FORM = re.compile(rf"(sg|sh|si|grna|sgrna|gene)?({'|'.join(_STRONG)}){_TAIL}")
_WEAK_FORM = re.compile(rf"(sg|sh|si|grna|sgrna)?({'|'.join(_WEAK)}){_TAIL}")
# Before the label is made plain, which takes these characters out.
_BETWEEN = re.compile(r"[_+|;,&/]")
# The guide's sequence at the end of a label, such as `NT_ACGTACGTACGTACGTACGT`.
_SEQUENCE = re.compile(r"[_\-.][ACGTacgt]{12,}$")


def means_control(label: str) -> bool:
    """Return whether a label is a usual name for control cells, whatever its spelling."""
    # `NegCtrl0__NegCtrl0`: nothing lies between the two separators.
    parts = [part for part in _BETWEEN.split(label) if part]
    # Two guides in a cell may both be controls: `NegCtrl0_NegCtrl0`.
    both = len(parts) > 1 and all(_STRONG_FORM.fullmatch(_plain(part)) for part in parts)
    return both or bool(_STRONG_FORM.fullmatch(_plain(label)))


def may_mean_control(label: str) -> bool:
    """Return whether a label is the control of some data sets: a harmless target, a reporter."""
    return bool(_WEAK_FORM.fullmatch(_plain(label)))


def _plain(label: str) -> str:
    """Return a label's letters and digits in lower case: `nontargeting01` of `Non-Targeting_01`."""
    bare = _SEQUENCE.sub("", label)
    bare = re.sub(r"\(.*?\)", "", bare)  # `vehicle (DMSO)`
    return re.sub(r"[^a-z0-9]", "", bare.casefold())
