"""What a test has another process do to a ledger: `worker.py JOB HOME [ARGUMENT]`."""

import os
import signal
import sys
from pathlib import Path

from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome


def request(seed: int) -> NewExperiment:
    return NewExperiment(
        tool="perturb_cells",
        request={"seed": seed},
        checkpoint="tiny",
        checkpoint_digest="sha256:" + "1" * 64,
        panel_digest="sha256:" + "2" * 64,
        seed=seed,
    )


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def open_at_once(home: Path, _: str) -> None:
    say("ready")
    sys.stdin.readline()
    say(Ledger.open(home).begin(request(0)).id)


def write(home: Path, count: str) -> None:
    ledger = Ledger.open(home)
    for seed in range(int(count)):
        experiment = ledger.begin(request(seed))
        with ledger.attempt(experiment.id) as attempt:
            ledger.seal(attempt, NewOutcome(kind="succeeded", result={"seed": seed}))
        say(experiment.id)


def hold(home: Path, experiment_id: str) -> None:
    ledger = Ledger.open(home)
    with ledger.attempt(experiment_id) as attempt:
        say("holding")
        sys.stdin.readline()
        say("told to stop" if attempt.cancel_requested() else "not told")
        ledger.seal(attempt, NewOutcome(kind="cancelled"))


def write_until_killed(home: Path, start: str) -> None:
    ledger = Ledger.open(home)
    for seed in range(int(start), sys.maxsize):
        experiment = ledger.begin(request(seed))
        say("begun", experiment.id)
        with ledger.attempt(experiment.id) as attempt:
            blob = f"cells of {seed % 5}".encode()
            ledger.seal(attempt, NewOutcome(kind="succeeded", artifacts={"cells": blob}))
        say("sealed", experiment.id)


def hold_and_fork(home: Path, experiment_id: str) -> None:
    ledger = Ledger.open(home)
    with ledger.attempt(experiment_id) as attempt:
        child = os.fork()
        if child == 0:
            say("child", os.getpid(), attempt.alive)
            attempt.close()
            signal.pause()
        sys.stdin.readline()


JOBS = {job.__name__: job for job in (open_at_once, write, hold, write_until_killed, hold_and_fork)}

if __name__ == "__main__":
    JOBS[sys.argv[1]](Path(sys.argv[2]), (sys.argv[3:] or [""])[0])
