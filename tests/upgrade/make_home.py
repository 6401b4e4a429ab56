"""Make the fixture of the upgrade tests: a home and a checkpoint as an earlier version leaves them.

`made-by-3ffc7fb.zip` was made by this script with the code of the product at git commit 3ffc7fb,
the last one before the changes that the tests guard against:

    git worktree add ../before 3ffc7fb
    cd ../before && pip install -e '.[all]'
    python -P ../main/tests/upgrade/make_home.py OUT.zip

The script is run with the code of whatever version is installed; it takes nothing from this
repository but itself. Never make the fixture anew with a later version: it would prove nothing. For
a later version add another zip beside it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HOST = "a-machine"
CONTEXT = {"cell_line": "made"}
GENES = [f"G{i}" for i in range(30)]
SPECIFICATION = {
    "name": "made",
    "sources": [
        {
            "file": "made.h5ad",
            "context": CONTEXT,
            "perturbation": {"column": "guide", "control": "none", "kind": "knockout"},
        }
    ],
    "network": "lingshu-tiny",
    "epochs": 2,
    "batch": 16,
    "micro_batch": 8,
    "warmup_steps": 2,
    "lr": 1e-3,
    "shams": 4,
    "gene_features": 4,
    "sampler": {"steps": 4, "tile": 16},
}


def train(folder: Path) -> None:
    """Train a small checkpoint into `folder`: knocking out G1 takes G1 and G2 away."""
    import json

    import anndata
    import numpy as np
    import pandas as pd

    generator = np.random.Generator(np.random.Philox(7))
    guide = np.array(["none", "G1", "G5"])[np.arange(240) % 3]
    counts = generator.poisson(np.linspace(0.2, 6, len(GENES)), (len(guide), len(GENES)))
    counts[np.ix_(guide == "G1", [1, 2])] = 0
    obs = pd.DataFrame({"guide": guide}, index=[f"c{i}" for i in range(len(guide))])
    data = folder / "data"
    data.mkdir(parents=True)
    cells = anndata.AnnData(counts.astype(np.float32), obs, pd.DataFrame(index=GENES))
    cells.write_h5ad(data / "made.h5ad")
    (data / "made.json").write_text(json.dumps(SPECIFICATION), "utf-8")
    program = "lingshu_model.train"
    line = [data / "made.json", "--data", data, "--out", data / "runs", "--threads", "1"]
    subprocess.run([sys.executable, "-P", "-m", program, *map(str, line)], check=True)
    shutil.copytree(data / "runs" / "made" / "checkpoint", folder / "checkpoints")


def fill(home: Path, checkpoints: Path) -> None:
    """Record an experiment of every kind and state in `home`, with the real engine."""
    from lingshu_model.wire import Catalogue
    from lingshu_tools.app import App
    from lingshu_tools.dispatcher import call
    from lingshu_tools.experiments import design_of, new_experiment
    from lingshu_tools.ledger import NewOutcome, sealing

    os.environ["LINGSHU_CHECKPOINTS"] = str(checkpoints)
    # The fixture says nothing of the machine that made it but its numerics profile.
    socket.gethostname = lambda: HOST
    sealing.boot_id = lambda: ""
    app = App(home, door="python", catalogue=Catalogue([checkpoints]))
    knockout = {"interventions": [{"kind": "knockout", "target": "G1"}], "n_cells": 16}

    def done(tool: str, **arguments: Any) -> Any:
        result = call(app, tool, {"wait_s": 45} | arguments)
        assert result.status == "succeeded", (tool, result.summary)
        return result

    done("sample_cells", n_cells=16, seed=1, checkpoint="made", tags=["pilot"])
    perturbed = done("perturb_cells", **knockout, seed=2, tags=["pilot", "plate 3"])
    plan = {"objective": {"lower": ["G2"]}, "candidates": ["G1", "G5"], "n_cells": 8}
    screen = done("run_screen", **plan)
    done("replay_experiment", id=perturbed.experiment_id)

    ledger = app.ledger
    ledger.record_measurements(screen.screen_id, {"G1": -1.25, "G5": 0.5})
    model = ledger.experiment(perturbed.experiment_id)

    def begun(seed: int) -> str:
        row = new_experiment(app, design_of(app, model))
        changed = {**row.request, "seed": seed}
        values = {name: getattr(row, name) for name in type(row).__dataclass_fields__}
        return ledger.begin(type(row)(**values | {"request": changed, "seed": seed})).id

    with ledger.attempt(begun(11)) as attempt:
        ledger.seal(attempt, NewOutcome(kind="failed", error="no cells: the disk was full"))
    ledger.cancel(begun(12))
    ledger.attempt(begun(13)).close()
    begun(14)
    waiting = ledger.attempt(begun(15))
    outcome = NewOutcome(kind="failed", error="sealed while the database was away")
    ledger._spool.put(waiting.experiment_id, ledger._ending(waiting, outcome))
    waiting.close()
    call(app, "list_experiments", {"text": "plate"})
    app.close()


def pack(folder: Path, out: Path) -> None:
    """Write homes and checkpoints, less what belongs to running processes, as a zip."""
    for gone in ("engines", "locks", "experiments.db.open"):
        path = folder / "home" / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.relative_to(folder).parts[0] != "data":
                # A fixed time: equal homes give equal archives.
                name = zipfile.ZipInfo(str(path.relative_to(folder)))
                name.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(name, path.read_bytes())


def main() -> None:
    """Make the zip that is named on the command line."""
    out = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory(prefix="up") as name:
        folder = Path(name)
        train(folder)
        home = folder / "home"
        try:
            fill(home, folder / "checkpoints")
        finally:
            stop = ["--home", str(home), "engine", "stop"]
            subprocess.run([sys.executable, "-P", "-m", "lingshu_tools.cli", *stop], check=False)
        pack(folder, out)


if __name__ == "__main__":
    main()
