"""A Python script that runs recorded experiments again and compares the cells bit for bit.

What comes from the ledger stands in it as literals of one assignment, written by `repr`; nothing
stored is ever part of its code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pprint import pformat
from typing import Any

from lingshu_tools.experiments.replays import CELL_ROLES
from lingshu_tools.experiments.sampling_options import Sampling, default_sampling
from lingshu_tools.ledger import digest_json
from lingshu_tools.report.experiment_views import Shown

# Of every request; others only where they are not what the call would choose (`_arguments`).
_ARGUMENTS = ("checkpoint", "context", "interventions", "n_cells", "seed", "first_cell")
# An identifier, so that the template is valid Python by itself.
_HERE = "RECORD_STANDS_HERE"
_TEMPLATE = '''\
"""Run recorded experiments on a virtual cell again and compare the cells bit for bit.

Needs lingshu-tools with the checkpoint that RECORD names by digest, and takes a home as argument:
an empty folder has everything computed anew; the default is LINGSHU_HOME. Exits with 1 where
anything differs. All that came out of the ledger stands in RECORD, as data.
"""

import sys
from pathlib import Path

from lingshu_tools import Lab

RECORD = RECORD_STANDS_HERE


def differences(lab, one):
    """Return what is not the same as in the record, by name."""
    result = getattr(lab, one["tool"])(**one["arguments"], wait_s=45)
    while result.status in ("queued", "running"):
        result = lab.get_experiment(id=result.experiment_id, wait_s=45)
    print(result.summary)
    if result.status != "succeeded":
        return [f"status {result.status}"]
    made = lab.get_experiment(id=result.experiment_id, detail="provenance").provenance
    request = [] if made.request_digest == one["request_digest"] else ["request"]
    cells = [role for role, digest in one["cells"].items() if made.artifacts.get(role) != digest]
    return request + cells


def main(lab):
    """Return how many experiments came out differently."""
    different = 0
    for one in RECORD:
        found = differences(lab, one)
        print(one["id"], "differs in " + ", ".join(found) if found else "is the same, bit for bit")
        different += bool(found)
    return different


if __name__ == "__main__":
    with Lab(Path(sys.argv[1]) if len(sys.argv) > 1 else None) as lab:
        sys.exit(1 if main(lab) else 0)
'''


def script(records: Sequence[Shown]) -> str:
    """Return the text of a script that reproduces these succeeded experiments."""
    # pformat writes `repr`, and JSON values are literals of Python in it.
    record = pformat([_recorded(item) for item in records], width=96, sort_dicts=False)
    # Once, at the assignment: the record may hold the same text.
    return _TEMPLATE.replace(f"= {_HERE}", f"= {record}", 1)


def _recorded(record: Shown) -> dict[str, Any]:
    request = record.design.request
    artifacts = record.outcome.artifacts if record.outcome else {}
    return {
        "id": record.experiment.id,
        "made_at": record.experiment.created_at,
        "tool": record.experiment.tool,
        "arguments": _arguments(request, default_sampling(record.design.checkpoint)),
        "checkpoint_digest": request["checkpoint_digest"],
        "request_digest": digest_json(request),
        "cells": {role: artifacts[role] for role in CELL_ROLES if role in artifacts},
    }


def _arguments(request: Mapping[str, Any], default: Sampling) -> dict[str, Any]:
    """Return the arguments of the call that gives the same request."""
    cells = request.get("cells")
    if cells is None:
        same = {name: request[name] for name in _ARGUMENTS}
        usual = {"steps": default.steps, "guidance": default.guidance}
        same |= {n: request[n] for n, value in usual.items() if request[n] != value}
        # Without it the call is refused where the condition failed its fitness check.
        same |= {"allow_unfit": True} if request.get("allow_unfit") else {}
        return same | (_clamp(request["clamp"]) if "clamp" in request else {})
    kept = ("checkpoint", "interventions", "seed") if cells["effect"] else ("checkpoint", "seed")
    same = {name: request[name] for name in kept}
    # The first context that was scored is the one that was named, or the most similar.
    if "against" in cells:
        same["context"] = cells["against"][0]
    elif "clamp" in cells:
        same["context"] = request["context"]
        same |= _clamp(cells["clamp"])
    where = {"cells_where": dict(cells["where"])} if cells["where"] else {}
    return {**same, "cells": cells["file"], **where, "n_cells": cells["most"]}


def _clamp(counts: Mapping[str, int]) -> dict[str, Any]:
    return {"clamp": [f"{gene}={count}" for gene, count in counts.items()]}
