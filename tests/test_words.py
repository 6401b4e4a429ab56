"""The words of the project: standard terms in names, comments, docstrings, texts and pages."""

import re

from words import Use, uses

MODEL = "model/lingshu_model"
EXCEPTIONS = (
    # path, what is written there, why it stays
    (r"(lingshu_tools|benchmarks)/ledger/.*", r"standings?|STANDING|r0002_standing", "a table"),
    (r"lingshu_tools/.*", r"n_shams|sham_\w+", "public fields of results"),
    (r"lingshu_tools/tools/find_genes\.py", r"asked", "a public field of results"),
    (r"(lingshu_tools|mcp_server|tests|benchmarks)/.*", r"done", "a public field of progress"),
    (rf"{MODEL}/(contracts/messages|engine/(job_queue|work))\.py", r"done", "the same field"),
    (r".*/http/.*\.py", r"connection_made", "a method of asyncio"),
    (rf"{MODEL}/checkpoints/.*/card\.md", r".*", "part of the digest of a checkpoint"),
    (
        rf"{MODEL}/(network|contracts|sampling|train/run)(/.*|\.py)",
        r"tilts?|_tilt|Tilt|theta|ceilings?|reach",
        "tensors and configuration keys of checkpoints of format 1",
    ),
    (rf"{MODEL}/(network/cell_network|contracts/effects|effects/targets)\.py", r"own", "the same"),
    (rf"{MODEL}/(effects/moved|train/initialisation)\.py", r"theta", "a symbol of a formula"),
    (
        rf"({MODEL}/train|benchmarks/speed)/.*",
        r"shams|add_shams",
        "a field of training specifications",
    ),
)


def allowed(use: Use) -> bool:
    return any(
        re.fullmatch(path, use.path) and re.fullmatch(shown, use.shown)
        for path, shown, _reason in EXCEPTIONS
    )


def test_names_and_texts_use_the_standard_terms():
    assert [str(use) for use in uses() if not allowed(use)] == []
