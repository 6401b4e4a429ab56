"""The ledger: every experiment written down before it runs, sealed once, chained by hashes."""

from lingshu_tools.ledger.canonical import canonical_json, digest_bytes, digest_file, digest_json
from lingshu_tools.ledger.home import default_home, open_home
from lingshu_tools.ledger.records import (
    Door,
    Experiment,
    Head,
    Listed,
    Measurement,
    NewExperiment,
    NewOutcome,
    Outcome,
    OutcomeKind,
    Page,
    Problem,
    Screen,
    Status,
    Verdict,
    Verification,
    VerifyReport,
)
from lingshu_tools.ledger.store import Attempt, Ledger

__all__ = [
    "Attempt",
    "Door",
    "Experiment",
    "Head",
    "Ledger",
    "Listed",
    "Measurement",
    "NewExperiment",
    "NewOutcome",
    "Outcome",
    "OutcomeKind",
    "Page",
    "Problem",
    "Screen",
    "Status",
    "Verdict",
    "Verification",
    "VerifyReport",
    "canonical_json",
    "default_home",
    "digest_bytes",
    "digest_file",
    "digest_json",
    "open_home",
]
