"""Work done in a child process, so that the server loads no matplotlib, scipy, pandas or anndata.

A child is a module with a `main()`: one JSON object in on stdin, one out on stdout.
"""

from lingshu_tools.children.run import TIMEOUT_S, ChildError, run_child

__all__ = ["TIMEOUT_S", "ChildError", "run_child"]
