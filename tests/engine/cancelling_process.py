"""A process that cancels experiments when it is told to, and says how each call ended."""

import json
import sys
import time
from pathlib import Path

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call


def main() -> None:
    home, *names = sys.argv[1:]
    app = App(Path(home))
    app.ledger.head()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for name in names:
        begin = time.monotonic()
        result = call(app, "cancel_experiment", {"id": name})
        took = time.monotonic() - begin
        sys.stdout.write(json.dumps([name, result.status, result.caveats, took]) + "\n")
        sys.stdout.flush()
    app.close()


main()
