"""A masked discrete diffusion model of the cell, its training, evaluation and engine.

Importing this package loads no torch. The torch-free side may import `lingshu_model.contracts` and
`lingshu_model.system`.
"""

import sys

# `python -m` puts the working folder first on the path: nothing else may be imported from there.
if (
    sys.argv[:1] == ["-m"]
    and sys.orig_argv[-len(sys.argv)].startswith(__name__)
    and not sys.flags.safe_path
    and sys.path[0] != __file__.rsplit("/", 2)[0]
):
    del sys.path[0]

__version__ = "0.1.0"
