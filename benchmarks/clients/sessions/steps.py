"""`python -P steps.py DRIVER < server.json`: one session of a client library with a running server.

Runs in the environment of the library, so it imports nothing of the product. Prints a JSON line for
each step: its name, what came instead of what should have come ("" if nothing did), and seconds.
"""

import asyncio
import importlib
import json
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

PATIENT_S, IMPATIENT_S, CANCEL_S = 60.0, 20.0, 2.0
KNOCKOUT = {"kind": "knockout", "target": "STAT1"}
EXPERIMENT, SCREEN = re.compile(r"exp_\w+"), re.compile(r"scr_\w+")


class Differs(Exception):  # noqa: N818 - it is reported, not raised at a user
    """A step gave something else than it should."""


def expect(condition, text):
    """Raise `Differs` with the begin of a text if the condition does not hold."""
    if not condition:
        raise Differs(text[:300])


class Steps:
    """The steps of a session; each may use what those before it left in `ids`."""

    def __init__(self, connect, server, seed, tools):
        self.connect, self.server, self.seed, self.tools = connect, server, seed, tools
        self.ids = {}

    async def list(self, session):
        names = await session.names()
        expect(len(names) == self.tools, f"{len(names)} tools: {names}")

    async def describe(self, session):
        text = await refused(session, "describe_model", {})
        # On a busy machine the first call may be answered as late; it goes on, and is made again.
        for _ in range(3):
            if "got no answer" in text:
                text = await refused(session, "describe_model", {})
        expect("thp1-crispr" in text and "pbmc" in text, text)

    async def perturb(self, session):
        text = await session.call("perturb_cells", self.request(16, wait_s=45))
        self.ids["experiment"] = first(EXPERIMENT, text)
        expect("16 simulated cells" in text, text)

    async def screen(self, session):
        arguments = {
            "checkpoint": "thp1-crispr",
            "objective": {"lower": ["PSMB9"]},
            "candidates": ["STAT1 knockout", "JAK2 knockout"],
            "n_cells": 16,
            "seed": self.seed,
            "wait_s": 45,
        }
        text = await session.call("run_screen", arguments)
        expect("predicted best" in text and "JAK2" in text, text)
        first(SCREEN, text)

    async def plot(self, session):
        arguments = {"id": self.ids["experiment"], "kind": "volcano", "wait_s": 45}
        text = await session.call("plot_experiment", arguments)
        path = first(re.compile(r"/[^\s\"]+\.png"), text)
        expect(Path(path).read_bytes().startswith(b"\x89PNG"), f"no PNG in {path}")

    async def error(self, session):
        wrong = self.request(16) | {"interventions": [{"kind": "knockout", "target": "STAT11"}]}
        text = await refused(session, "perturb_cells", wrong)
        expect("STAT11" in text and re.search(r"STAT1\b", text), text)

    async def timeout(self, _session):
        # A second connection, whose limit is shorter than the call.
        impatient = self.connect(self.server, IMPATIENT_S)
        session = await impatient.__aenter__()
        self.impatient = impatient
        text = await refused(session, "perturb_cells", self.request(60_000, wait_s=45))
        expect("simulated cells" not in text, text)
        text = await session.call("list_experiments", {"limit": 1})
        self.ids["long"] = first(EXPERIMENT, text)
        expect(re.search("running|queued|interrupted", text), text)

    async def leave(self, _session):
        # The call that was given up has no answer yet.
        await self.impatient.__aexit__(None, None, None)

    async def cancel(self, session):
        follow = session.call("get_experiment", {"id": self.ids["long"], "wait_s": 45})
        task = asyncio.ensure_future(follow)
        if session.cancels:
            await asyncio.sleep(CANCEL_S)
            task.cancel()
        text = await session.call("cancel_experiment", {"id": self.ids["long"]})
        expect("cancelled" in text, text)
        (left,) = await asyncio.gather(task, return_exceptions=True)
        expected = isinstance(left, asyncio.CancelledError) if session.cancels else "cancel" in left
        expect(expected, f"the call that waited gave {left!r}")
        text = await session.call("get_experiment", {"id": self.ids["long"]})
        expect("cancelled" in text, text)

    def request(self, n_cells, **other):
        """Return the arguments of a knock-out that no session before this one has requested."""
        request = {"checkpoint": "thp1-crispr", "interventions": [KNOCKOUT], "n_cells": n_cells}
        return {**request, "seed": self.seed, **other}


NAMES = ("list", "describe", "perturb", "screen", "plot", "error", "timeout", "leave", "cancel")


def first(pattern, text):
    """Return the first match of a pattern in a text."""
    match = pattern.search(text)
    expect(match, f"no {pattern.pattern} in {text}")
    return match.group()


def text_of(error):
    """Return what an exception says, of a group what its first part says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def refused(session, name, arguments):
    """Return what a library says of a call that fails: as text, or in an exception."""
    try:
        return await session.call(name, arguments)
    except Exception as error:  # noqa: BLE001 - each library has its own exceptions
        return text_of(error)


async def run(driver, server):
    """Take every step and print what each gave."""
    connect = importlib.import_module(f"drivers.{driver}").connect
    seed, tools = server.pop("seed"), server.pop("tools")
    steps = Steps(connect, server, seed, tools)
    async with connect(server, PATIENT_S) as session:
        for name in NAMES:
            begin, problem = time.monotonic(), ""
            try:
                await getattr(steps, name)(session)
            except Exception as error:  # noqa: BLE001 - what a library raises is the answer
                problem = text_of(error)[:500]
            seconds = round(time.monotonic() - begin, 2)
            print(json.dumps({"step": name, "problem": problem, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], json.load(sys.stdin)))
