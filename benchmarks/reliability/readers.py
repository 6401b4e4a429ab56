"""Exports read by old and new releases of anndata, each in an environment of its own.

Installs from a package index. An export is made once, with whatever is installed here.
"""

import json
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.environments import install, surroundings
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call

READERS = {
    "0.8": ("anndata==0.8.0", "numpy<1.24", "pandas<2", "scipy<1.11"),
    "0.10": ("anndata==0.10.9", "numpy<2", "pandas<2.3"),
    "0.11": ("anndata==0.11.4",),
    "newest": ("anndata",),
}
READ = """\
import json, sys, warnings
warnings.simplefilter("ignore")
import anndata
read = anndata.read_h5ad(sys.argv[1])
print(json.dumps({
    "anndata": anndata.__version__,
    "shape": list(read.shape),
    "counts": int(read.X.sum()),
    "dtype": str(read.X.dtype),
    "arms": {str(k): int(v) for k, v in read.obs["arm"].value_counts().items()},
    "first_cell": read.obs_names[0],
    "first_genes": list(map(str, read.var_names[:5])),
    "measured": int(read.var["measured"].sum()),
    "id": json.loads(read.uns["lingshu"])["id"],
}))
"""


def readers(folder: Path) -> dict[str, Any]:
    """Return what each release read of one export, and whether all read the same."""
    path = _export(folder / "home")
    read = {name: _read(name, folder, path) for name in READERS}
    values = [{k: v for k, v in item.items() if k != "anndata"} for item in read.values()]
    return {"read": read, "equal": all(value == values[0] for value in values)}


def _export(home: Path) -> Path:
    knock_out = {"checkpoint": "thp1-crispr", "n_cells": 16, "wait_s": 45,
                 "interventions": [{"kind": "knockout", "target": "STAT1"}]}  # fmt: skip
    with closing(App(home)) as app:
        created = call(app, "perturb_cells", knock_out)
        while created.status in ("queued", "running"):
            created = call(app, "get_experiment", {"id": created.experiment_id, "wait_s": 45})
        request = {"id": created.experiment_id, "wait_s": 45}
        exported: Any = call(app, "export_experiment", request)
        while exported.status in ("queued", "running"):
            exported = call(app, "export_experiment", request)
        app.engine.shutdown()
    return Path(exported.path)


def _read(name: str, folder: Path, path: Path) -> dict[str, Any]:
    home, required = folder / f"reader-{name}", folder / f"reader-{name}.txt"
    required.write_text("\n".join(READERS[name]) + "\n")
    try:
        install(home, required)
        finished = subprocess.run(
            [home / "bin" / "python", "-P", "-c", READ, path],
            env={**surroundings(), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if finished.returncode:
        return {"error": finished.stderr.strip().splitlines()[-1]}
    return json.loads(finished.stdout)


def rows(summary: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return a row for each release: what it is and what it read."""
    return [
        (item.get("anndata", name), item.get("shape", item.get("error")), item.get("counts"))
        for name, item in summary["read"].items()
    ]
