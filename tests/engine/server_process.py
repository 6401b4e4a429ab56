"""A process that runs one tool call and says the id, then works on until it is killed."""

import json
import sys
from pathlib import Path
from threading import Event

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call


def main() -> None:
    home, tool, arguments = sys.argv[1:]
    app = App(Path(home))
    result = call(app, tool, json.loads(arguments))
    sys.stdout.write(f"{result.screen_id or result.experiment_id}\n")
    sys.stdout.flush()
    Event().wait()


main()
