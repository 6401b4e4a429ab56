"""A process of its own that locks a ledger: `locker.py HOW DATABASE`, until its input ends.

It says "ready", and locks when a line arrives.
"""

import fcntl
import sqlite3
import sys


def main() -> None:
    how, database = sys.argv[1:]
    say("ready")
    sys.stdin.readline()
    if how == "guard":
        file = open(f"{database}.open", "ab")  # noqa: PTH123, SIM115 - held until the end
        fcntl.flock(file, fcntl.LOCK_EX)
    else:
        connection = sqlite3.connect(database, isolation_level=None)
        begin = {"exclusive": "EXCLUSIVE", "writer": "IMMEDIATE", "reader": "DEFERRED"}[how]
        connection.execute(f"BEGIN {begin}")
        connection.execute("SELECT count(*) FROM chain").fetchone()
    say("locked")
    sys.stdin.read()


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


main()
