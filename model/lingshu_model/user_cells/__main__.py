"""`python -m lingshu_model.user_cells JOB FOLDER`: a user's file read in a child process.

JOB is a JSON file. Cells, and where a perturbation is named the effect carried to them, are written
to FOLDER under their digests, and a report is printed as JSON. What the caller can mend is printed
as `{"status": "error", …}`.
"""

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lingshu_model.contracts import (
    Catalogue,
    CheckpointError,
    Intervention,
    digest_bytes,
    encode_cells,
)
from lingshu_model.contracts.canonical import HASH_PREFIX
from lingshu_model.contracts.effects import NoEffectError
from lingshu_model.contracts.user_cells import (
    CELLS_FILE,
    EFFECT_FILE,
    CarriedEffect,
    pack_carried,
)
from lingshu_model.system.redaction import protect_streams
from lingshu_model.train.data.compressed import DataError
from lingshu_model.user_cells.carrying import carried, target_of
from lingshu_model.user_cells.reading import (
    Selection,
    check_unchanged,
    open_inside,
    read_cells,
)

MOST_MEMORY = 24 << 30
"""Address space of the process, bytes: a file that claims more ends it, not the server."""
NEAREST = 8


def main() -> None:
    """Do the job that is named on the command line."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_bytes())
    # Of the real clock: a disk that does not answer counts too. The default action ends the
    # process.
    signal.setitimer(signal.ITIMER_REAL, job["limit_s"])
    with suppress(ValueError, OSError):  # macOS may refuse it
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    try:
        result = run(job, Path(sys.argv[2]))
    except (DataError, NoEffectError, CheckpointError, OSError) as error:
        result = {"status": "error", "summary": str(error)}
    except MemoryError:
        most = f"{MOST_MEMORY >> 30} GiB"
        text = f"{job['path']} needs more than {most} of memory: write fewer cells to a file"
        result = {"status": "error", "summary": text}
    sys.stdout.write(json.dumps(result, allow_nan=False))


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the report of a job, after writing its files to `folder`.

    Raises:
        DataError, NoEffectError, CheckpointError: the file, the perturbation or the checkpoint
            cannot be used.
    """
    path = Path(job["path"])
    place = Path(job["checkpoint"])
    checkpoint = Catalogue([place.parent]).load(place.name)
    # Digest, reading, digest again: a file that changes meanwhile is refused.
    descriptor, digest = open_inside(path, [Path(each) for each in job["folders"]])
    try:
        # A replay names the digest that the first experiment read.
        if job.get("file_digest") not in (None, digest):
            message = (
                f"{path} is {digest} now, and was {job['file_digest']} when the experiment was "
                "made: put the file back as it was, or make a new experiment on the new file"
            )
            raise DataError(message)
        user = read_cells(path, checkpoint, Selection(**job["selection"]), descriptor)
        check_unchanged(path, descriptor, digest)
    finally:
        os.close(descriptor)
    cells_digest = _write(folder, CELLS_FILE, encode_cells(user.cells))
    target = target_of(user.cells, checkpoint)
    effect_digest = None
    if job.get("interventions"):
        interventions = [Intervention(**item) for item in job["interventions"]]
        effect = CarriedEffect(carried(checkpoint, interventions, target), target.share)
        effect_digest = _write(folder, EFFECT_FILE, pack_carried(effect))
    # Mean UMI of a cell over the panel's genes.
    totals = user.cells.values[:].sum() / len(user.cells)
    return {
        "status": "succeeded",
        "file_digest": digest,
        "cells": cells_digest,
        "effect": effect_digest,
        "n_cells": len(user.cells),
        "n_matching": user.n_matching,
        "n_file": user.n_file,
        "counts": user.counts,
        "mean_umi": float(totals),
        "share": round(target.share, 4),
        "genes": user.genes.to_json(),
        "labels": dict(user.labels),
        "nearest": [
            {"context": context, "pearson": round(r, 4)} for context, r in target.nearest[:NEAREST]
        ],
    }


def _write(folder: Path, suffix: str, data: bytes) -> str:
    digest = digest_bytes(data)
    (folder / f"{digest.removeprefix(HASH_PREFIX)}.{suffix}").write_bytes(data)
    return digest


if __name__ == "__main__":
    with protect_streams():
        main()
