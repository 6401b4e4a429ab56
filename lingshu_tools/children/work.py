"""What runs in a child: `python -P -m lingshu_tools.children.work TASK-FILE`.

It holds the lock of its task while it lives, imports the module that does the work, and puts files
and answer in place by renaming, each complete.
"""

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lingshu_model.contracts import digest_file
from lingshu_model.system.durable import UNFINISHED, sync_folder
from lingshu_model.system.file_locks import is_held, try_lock
from lingshu_model.system.private import check_own, private_folder
from lingshu_model.system.redaction import protect_streams
from lingshu_tools.children.task import BUSY, Answer, TaskFiles


def main() -> None:
    """Do the task whose file is named, and leave the answer beside it."""
    path = Path(sys.argv[1])
    files = TaskFiles(path.parent, path.name.removesuffix(".task"))
    # Nobody else may read what is exported.
    os.umask(0o077)
    lock = try_lock(files.lock, remove=True)
    if lock is None:
        raise SystemExit(BUSY)
    with lock:
        try:
            task: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            # Another child did it between the start of this one and its lock.
            raise SystemExit(BUSY) from None
        # Ends this process should its parent be gone when it is stuck.
        signal.setitimer(signal.ITIMER_REAL, task["limit_s"])
        out = private_folder(Path(task["folder"]))
        remove_unfinished(out, files)
        files.write_answer(_work(task, out, files))
        # Under the lock: afterwards another process may put the next task in this place.
        for used in (files.log, files.task):
            used.unlink(missing_ok=True)


def _work(task: dict[str, Any], out: Path, files: TaskFiles) -> Answer:
    module = importlib.import_module(f"lingshu_tools.children.{task['kind']}")
    unfinished = Path(tempfile.mkdtemp(prefix=files.prefix, dir=out))
    try:
        answer = module.run(task["job"], unfinished)
        digests: dict[str, str] = {}
        placed: dict[str, tuple[str, int, int]] = {}
        for file in sorted(unfinished.iterdir()):
            name = file.suffix.removeprefix(".")
            digests[name] = digest_file(file)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            check_own(out / file.name)
            final = file.replace(out / file.name)
            status = final.lstat()
            placed[name] = (str(final), status.st_size, status.st_mtime_ns)
        sync_folder(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Answer(task["digest"], answer, placed, digests, task["facts"], time.time())


def remove_unfinished(out: Path, files: TaskFiles) -> None:
    """Remove the folders of unfinished files that killed children left in `out`."""
    for folder in out.glob(f"{UNFINISHED}*-*"):
        key = folder.name.removeprefix(UNFINISHED).rpartition("-")[0]
        other = TaskFiles(files.folder, key)
        with suppress(OSError):
            if key == files.key or not is_held(other.lock):
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    with protect_streams():
        main()
