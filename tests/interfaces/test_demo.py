"""The demo: it tells the truth about what it did, and touches nothing that is not its own."""

from pathlib import Path

import anyio
import click
import pytest
from mcp import Client

from lingshu_mcp import build_server, demo
from lingshu_mcp.demo import MARK, OBJECTIVE, Agent, DemoError, fresh, record_ledger, tell_the_story
from lingshu_mcp.demo_output import Teller, bar, effect_table, interval, number, ranking_table
from lingshu_testing import TARGETS
from lingshu_tools.app import App
from lingshu_tools.ledger import Ledger

ROW = {
    "perturbation": "STAT1 knockout",
    "score": 0.5,
    "mc_interval": [0.4, 0.6],
    "prediction_error": None,
    "support": "seen",
    "fdr": 0.01,
    "left_out": ["STAT1"],
}


def test_the_story_asks_ranks_replays_and_can_be_recorded(
    app: App,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(demo, "CHECKPOINT", {"checkpoint": "made"})

    async def main() -> str:
        async with Client(build_server(app)) as client:
            return await tell_the_story(Agent(client, Teller()))

    assert anyio.run(main) == "exact"
    messages = capsys.readouterr().out
    assert all(name in messages for name in (*TARGETS, *OBJECTIVE["lower"], "exact", ".png"))

    recorded = tmp_path / "experiments.db"
    record_ledger(app.home, recorded)
    copy = Ledger.open_read_only(recorded)
    assert copy.head() == app.ledger.head()
    assert copy.verify().ok


def test_a_refused_call_ends_the_story_with_the_tools_own_text(app: App):
    async def main() -> None:
        async with Client(build_server(app)) as client:
            unknown = {"id": "exp_none"}
            with pytest.raises(DemoError, match="exp_none"):
                await Agent(client, Teller()).ask("Why?", "get_experiment", unknown)

    anyio.run(main)


def test_only_a_folder_the_demo_made_is_emptied(tmp_path: Path):
    home = fresh(tmp_path / "home")
    (home / "old").touch()
    assert [path.name for path in fresh(home).iterdir()] == [MARK]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    with pytest.raises(click.ClickException, match="foreign"):
        fresh(foreign)
    assert (foreign / "thesis.tex").is_file()


def test_a_ranking_is_a_table_with_units_intervals_and_what_was_left_out():
    unscored = {**ROW, "score": None, "mc_interval": None, "fdr": None}
    lines = ranking_table({"ranking": [ROW, unscored], "units": {"score": "log1p_cp10k: ln"}})
    head, first, second, units = click.unstyle(lines).splitlines()
    assert "held-out error" in head
    assert "log1p_cp10k" in units
    assert first.split()[:2] == ["1", "STAT1"]
    assert "+0.50" in first
    assert "+0.40 .. +0.60" in first
    assert first.endswith("STAT1")
    assert "█" not in second
    assert "nan" not in lines.lower()


def test_a_ranking_that_is_cut_says_how_much_of_it_is_shown():
    whole = {"ranking": [ROW], "units": {}, "truncated": None}
    assert "shown" not in ranking_table(whole)
    cut = {**whole, "truncated": {"shown": 1, "total": 25, "how_to_get_more": "…"}}
    assert ranking_table(cut).endswith("; 1 of 25 are shown")


def test_an_effect_without_genes_is_an_empty_table():
    assert click.unstyle(effect_table({"genes": [], "units": {}})).split()[0] == "gene"


def test_bars_numbers_and_times_read_as_people_write_them():
    assert bar(1.0, 1.0).count("█") == 16
    assert bar(-0.5, 1.0).count("░") == 8
    assert (number(None), interval(None)) == ("-", "-")
    assert Teller.duration(4.25) == "4.2 s"
    assert Teller.duration(151) == "2 min 31 s"
