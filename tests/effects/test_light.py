"""The effect part is quick to import and needs no network library."""

import subprocess
import sys


def test_effects_load_no_torch_and_nothing_that_reads_files():
    code = "import lingshu_model.effects, sys; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()).isdisjoint({"torch", "pandas", "anndata", "matplotlib", "h5py"})
