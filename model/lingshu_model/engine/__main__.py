"""`python -m lingshu_model.engine`: run an engine in the foreground.

On N GPUs: accelerate launch --multi_gpu --num_processes N -m lingshu_model.engine --ranks N --home
DIR On CPU the same with `ACCELERATE_USE_CPU=true` in the environment; `accelerate launch --cpu
--num_processes 2` silently starts one process, which `--ranks 2` refuses.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from lingshu_model.engine.errors import OccupiedError, StartError
from lingshu_model.engine.results import DEFAULT_LIMIT
from lingshu_model.engine.samplers import DEFAULT
from lingshu_model.system.launcher import LauncherError, settle
from lingshu_model.system.private import UnsafePathError
from lingshu_model.system.redaction import protect_streams

# Exit statuses. Starters read them, so they keep their numbers; 130 is the shell's for Ctrl-C.
REFUSED = 2
ALREADY_RUNNING = 3
INTERRUPTED = 130


def main() -> int:
    """Return the exit status.

    0 after leaving in order, 2 if the options cannot be met, 3 if the home has an engine already.
    """
    options = _parser().parse_args()
    try:
        # Variables of a batch job would make an engine that was started inside it wait for other
        # ranks.
        options.several = settle(os.environ, options.ranks)
    except LauncherError as error:
        sys.stderr.write(f"lingshu engine: {error}\n")
        return REFUSED
    os.umask(0o077)  # whatever it writes is this user's alone
    # Threads of one tile. The order of sums depends on it, so it is in the numerics profile.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.workers = options.workers or _cores()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # `lingshu engine run` keeps Ctrl-C back until here; `run` sets a handler of its own.
    signal.signal(signal.SIGINT, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from lingshu_model.engine.run import run  # after OMP_NUM_THREADS, which torch reads at import

    try:
        return run(options)
    except (StartError, UnsafePathError) as error:
        sys.stderr.write(f"lingshu engine: {error}\n")
        return ALREADY_RUNNING if isinstance(error, OccupiedError) else REFUSED


def _end(_number: int, _frame: FrameType | None) -> None:
    # Not sys.exit: nothing is held yet, and an exception in the middle of an import may be caught
    # there.
    os._exit(INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lingshu engine", description="Run the engine.")
    add = parser.add_argument
    add("--home", type=Path, required=True, help="the folder that holds engines/")
    add("--socket", type=Path, help="Unix socket (default: HOME/engines/engine.sock)")
    add("--idle-exit", type=float, default=900.0, metavar="S", help="0: never (default: 900)")
    add("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    add("--threads", type=_positive, default=1, help="per tile; changes bits (default: 1)")
    add("--workers", type=_positive, help="tiles at a time (default: the cores); changes no bit")
    add("--ranks", type=_positive, help="refuse to run with another number of processes")
    add("--results-limit", type=_positive, default=DEFAULT_LIMIT, metavar="BYTES")
    add("--listen", metavar="HOST:PORT", help="TCP too, with the token LINGSHU_ENGINE_TOKEN")
    add("--tls-cert", type=Path, help="needed to listen beyond loopback")
    add("--tls-key", type=Path)
    add("--sampler", default=DEFAULT, help=argparse.SUPPRESS)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        message = f"{text!r} is not a positive number"
        raise argparse.ArgumentTypeError(message)
    return value


def _cores() -> int:
    """Return this rank's share of the cores: whole tiles side by side, one thread each.

    Threads within a tile wait for one another at every operation: on two shared cores two threads
    took forty times as long as one.
    """
    # A container or a batch system may allow fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


if __name__ == "__main__":
    with protect_streams():
        sys.exit(main())
