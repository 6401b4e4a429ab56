"""`lingshu demo`: a real MCP client asks the real server a real question, over stdio.

It only calls tools, as any agent would: what the knock-outs do is for the model to say, and no
answer stands here.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import click
from mcp import Client, StdioServerParameters

from lingshu_mcp.demo_output import Teller, effect_table, ranking_table, wrapped
from lingshu_model.system.redaction import protect_streams
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.ledger import Ledger, default_home, open_home
from lingshu_tools.system import interrupts
from lingshu_tools.system.interpreter import command, environ_of

# A file in the folder of a demo, without which the folder is not removed.
MARK = ".lingshu-demo"
CHECKPOINT = {"checkpoint": "thp1-crispr"}
KNOCK_OUT = "STAT1"
WHOLE = {"detail": "detailed"}
ALL_ROWS = {"top": 25, **WHOLE}
OBJECTIVE = {"lower": ["PSMB9", "STAT1", "UBE2L6"]}
WAIT_S = 45
UNFINISHED = ("queued", "running", "interrupted")
Answer = dict[str, Any]


class DemoError(Exception):
    """A tool refused or failed; the text is the tool's own."""


@dataclass(frozen=True)
class Agent:
    """Something that calls tools, waits for what takes long, and says aloud what it does."""

    client: Client
    teller: Teller

    async def ask(self, why: str, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """Return the finished result of a tool.

        Raises:
            DemoError: the call was refused, or the experiment failed.
        """
        with self.teller.step(why, tool, arguments):
            answer = await self._call(tool, arguments)
            # Tools answer within `wait_s`; the demo asks again until the experiment has ended.
            while answer["status"] in UNFINISHED:
                answer = await self._call(*_follow(tool, arguments, answer))
        if answer["status"] in ("failed", "cancelled"):
            raise DemoError(answer["summary"])
        self.teller.say(wrapped(answer["summary"]))
        return answer

    async def _call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        async def heard(progress: float, total: float | None, message: str | None) -> None:
            self.teller.progress(message or f"{progress:g}/{total or 0:g}")

        result = await self.client.call_tool(tool, dict(arguments), progress_callback=heard)
        if result.is_error or not isinstance(result.structured_content, dict):
            raise DemoError(" ".join(getattr(block, "text", "") for block in result.content))
        return result.structured_content


def _follow(tool: str, arguments: Mapping[str, Any], answer: Answer) -> tuple[str, Answer]:
    # A plot has no experiment of its own to follow.
    if tool == "plot_experiment":
        return tool, dict(arguments)
    if answer.get("screen_id"):
        return "run_screen", {"screen_id": answer["screen_id"], "wait_s": WAIT_S, **ALL_ROWS}
    whole = {"detail": "effects"} if tool == "perturb_cells" else {}
    return "get_experiment", {"id": answer["experiment_id"], "wait_s": WAIT_S, **whole}


async def tell_the_story(agent: Agent) -> str:
    """Return the replay's verdict, after the whole way from a question to a replayed answer."""
    ask, say = agent.ask, agent.teller.say
    await ask("What can this virtual cell be asked?", "describe_model", CHECKPOINT)
    sample = {**CHECKPOINT, "wait_s": WAIT_S}
    await ask("What do its untreated cells look like?", "sample_cells", sample)
    interventions = [{"kind": "knockout", "target": KNOCK_OUT}]
    knock_out = {**CHECKPOINT, "interventions": interventions, "wait_s": WAIT_S, **WHOLE}
    effect = await ask(f"What does losing {KNOCK_OUT} do?", "perturb_cells", knock_out)
    say(effect_table(effect))

    question = {**CHECKPOINT, "objective": OBJECTIVE, "candidates": "all_seen"}
    genes = ", ".join(OBJECTIVE["lower"])
    plan = await ask(f"Which knock-outs lower {genes}? First a plan.", "plan_screen", question)
    run = {"screen_id": plan["screen_id"], "wait_s": WAIT_S, **ALL_ROWS}
    screen = await ask("Run it: every candidate, cells paired.", "run_screen", run)
    say(ranking_table(screen))
    picture = {"id": screen["screen_id"], "kind": "ranking", "wait_s": WAIT_S}
    plot = await ask("Draw it.", "plot_experiment", picture)
    say(f"picture: {plot['png']}")

    best = screen["ranking"][0]
    why = f"Is the first of them, {best['perturbation']}, reproducible?"
    again = {"id": best["experiment_id"], "wait_s": WAIT_S}
    replay = await ask(why, "replay_experiment", again)
    return str((replay.get("replay") or replay)["verdict"])


def audit(home: Path, teller: Teller) -> bool:
    """Return whether every row and object of the home's ledger is what its hash says."""
    with teller.step("Has anybody changed the record?", "lingshu ledger verify", {}):
        report = Ledger.open(home).verify()
    say = teller.say
    say(f"{report.rows} rows and {report.objects} objects re-hashed; head {report.head}")
    say("\n".join(str(problem) for problem in report.problems) or "Nothing was changed.")
    return report.ok


async def run(home: Path, teller: Teller) -> bool:
    """Return whether the replay was exact and the ledger verified."""
    # The server of this demo works in the demo's home, whatever the caller's is.
    environ = {**os.environ, "LINGSHU_HOME": str(home)}
    program, *arguments = command("-m", "lingshu_mcp")
    server = StdioServerParameters(command=program, args=arguments, env=environ_of(environ))
    verdict = ""
    async with Client(server) as client:
        try:
            verdict = await tell_the_story(Agent(client, teller))
        except DemoError as error:
            teller.fail(str(error))
    verified = await anyio.to_thread.run_sync(audit, home, teller)
    if verdict and verdict != "exact":
        teller.fail(f"the replay's verdict is {verdict!r}, not 'exact'")
    return verdict == "exact" and verified


def fresh(home: Path) -> Path:
    """Return `home` made empty: only a folder this demo made is ever removed.

    Raises:
        click.ClickException: it holds something else.
    """
    if home.exists() and any(home.iterdir()):
        if not (home / MARK).is_file():
            message = f"{home} holds something that is no earlier demo; give another --home"
            raise click.ClickException(message)
        # Before the folder goes: its engine holds files in it.
        Engine(home).shutdown()
        shutil.rmtree(home)
    open_home(home)
    (home / MARK).touch()
    return home


def record_ledger(home: Path, target: Path) -> None:
    """Write the home's ledger to `target` as one closed file; the objects stay behind."""
    target.unlink(missing_ok=True)
    with closing(sqlite3.connect(home / "experiments.db")) as database:
        # One file without a write-ahead log, whatever is open beside it.
        database.execute("VACUUM INTO ?", (str(target),))
    with closing(sqlite3.connect(target)) as database:
        database.execute("PRAGMA journal_mode = DELETE")


@click.command(name="lingshu demo")
@click.option("--record", type=click.Path(path_type=Path), help="Write the ledger to this file.")
def main(record: Path | None) -> None:
    """Ask a real question through the real server, and replay the answer."""
    interrupts.accept()
    started = time.monotonic()
    home = fresh(default_home())
    teller = Teller()
    teller.title("An agent asks a virtual cell, over MCP", f"home {home}")
    try:
        good = anyio.run(run, home, teller)
    except KeyboardInterrupt:
        raise SystemExit(interrupts.INTERRUPTED) from None
    finally:
        Engine(home).shutdown()
    if good and record is not None:
        record_ledger(home, record)
        teller.say(f"recorded: {record}")
    outcome = "Replayed exactly, and the ledger verifies." if good else "The demo did not end well."
    teller.title(outcome, f"total {teller.duration(time.monotonic() - started)}")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    with protect_streams():
        main()
