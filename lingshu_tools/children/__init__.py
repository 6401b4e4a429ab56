"""Work done in a child process, so that the server loads no matplotlib and no h5py.

`Children` starts children and finds out how they stand; `work` is what runs in one, and calls the
module of its task: `plot`, `export`, `table`, `cells`
or `enrich`.
"""

from lingshu_tools.children.pool import ChildError, Children, State, Work
from lingshu_tools.children.task import Answer, Task

__all__ = ["Answer", "ChildError", "Children", "State", "Task", "Work"]
