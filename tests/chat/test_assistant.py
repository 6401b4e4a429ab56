"""The assistant against an endpoint that streams, cuts, refuses, and calls tools wrongly."""

import json
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chat_display import KNOCK_OUT, Seen

from lingshu_testing.chat_endpoint import FakeChat, Raw, Refuse, Reply, Say, chat_endpoint
from lingshu_tools.chat import AgentApp, Assistant, Endpoint, Toolbox, Transcript
from lingshu_tools.chat.assistant import MOST_ROUNDS
from lingshu_tools.errors import EndpointError

KEY = "key-of-the-lab-0123456789"


class Chat:
    """An assistant on a fake endpoint, and what came of it."""

    def __init__(self, app: AgentApp, fake: FakeChat, seen: Seen) -> None:
        self.app, self.fake, self.seen = app, fake, seen
        self.pauses: list[float] = []
        self.start = app.ledger.head()
        endpoint = Endpoint.parse(
            fake.url, "made", KEY, timeout_s=20, pause=lambda s, _: self.pauses.append(s)
        )
        self.transcript = Transcript.in_home(app.home)
        self.assistant = Assistant(Toolbox(app), endpoint, seen, self.transcript)

    def ask(self, question: str = "What does losing STAT1 do?") -> str:
        return self.assistant.ask(question)

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert self.transcript.path
        return [json.loads(line) for line in self.transcript.path.read_text("utf-8").splitlines()]

    @property
    def tool_messages(self) -> list[dict[str, Any]]:
        messages = self.fake.requests[-1]["messages"]
        return [json.loads(m["content"]) for m in messages if m["role"] == "tool"]


@pytest.fixture
def chat(app: AgentApp, seen: Seen) -> Callable[..., Any]:
    @contextmanager
    def talk(*replies: Reply, display: Seen = seen) -> Iterator[Chat]:
        with chat_endpoint(*replies) as fake:
            opened = Chat(app, fake, display)
            try:
                yield opened
            finally:
                opened.assistant.close()

    return talk


def assert_complete(messages: list[dict[str, Any]]) -> None:
    """Every tool call of a history is answered, by its id, right behind it."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0)
            continue
        assert not waiting
        waiting = [call["id"] for call in message.get("tool_calls", [])]
        assert len(set(waiting)) == len(waiting)
        for call in message.get("tool_calls", []):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert not waiting


def test_a_question_is_answered_with_a_tool_and_its_row_and_cost(chat: Any, seen: Seen):
    with chat(Say("Let me see.", [("perturb_cells", KNOCK_OUT)]), Say("It falls.")) as talk:
        assert talk.ask() == "It falls."
        assert "".join(seen.texts) == "Let me see.\nIt falls.\n"
        assert len([t for t in seen.texts if t != "\n"]) > 3  # as it came, not at once
        [answer] = seen.answers
        assert answer["status"] == "succeeded"
        row = talk.app.ledger.experiment(answer["experiment_id"])
        assert (row.tool, row.door) == ("perturb_cells", "cli")
        # 32 cells in each of two arms.
        assert seen.costs[0].cells == 64
        assert talk.assistant.cost.cells == 64
        assert talk.assistant.tokens == 200
        assert talk.tool_messages == [answer]
        assert_complete(talk.fake.requests[-1]["messages"])


def test_cells_are_counted_once_however_often_a_result_is_read(chat: Any, seen: Seen):
    again = [("perturb_cells", KNOCK_OUT), ("perturb_cells", KNOCK_OUT)]
    with chat(Say("", again), Say("Done.")) as talk:
        talk.ask()
        first, second = (a["experiment_id"] for a in seen.answers)
        rows = {first, second}
        assert talk.assistant.cost.cells == 64 * len(rows)
        read = ("get_experiment", {"id": first})
        before = talk.assistant.cost.cells
        talk.fake.replies = [Say("", [read]), Say("Read.")]
        talk.fake.requests.clear()
        talk.ask("And?")
        assert seen.costs[-1].cells == 0
        assert talk.assistant.cost.cells == before


MALFORMED = [
    ("perturb_cells", '{"interventions": [', "no JSON"),
    ("perturb_cells", "[1, 2]", "JSON object"),
    ("perturb_cells", '"text"', "no JSON"),
    ("perturb_cells", {"interventions": "STAT1", "n_cells": "many"}, "n_cells"),
    ("perturb_cells", {"interventions": [], "wait": 3}, "wait"),
    ("perturb_cell", {}, "perturb_cells"),
    ("", {}, "no tool"),
    ("find_genes", '{"names": ["\\ud800"]}', ""),
    ("find_genes", "[" * 5000, "no JSON"),
    ("sample_cells", '{"n_cells": NaN}', ""),
]


@pytest.mark.parametrize(("tool", "arguments", "said"), MALFORMED)
def test_a_malformed_call_is_answered_with_what_to_do_and_the_chat_goes_on(
    chat: Any, seen: Seen, tool: str, arguments: Any, said: str
):
    with chat(Say("", [(tool, arguments)]), Say("Sorry.")) as talk:
        assert talk.ask() == "Sorry."
        [answer] = talk.tool_messages
        assert answer["status"] == "error"
        assert said in answer["summary"]
        assert talk.app.ledger.head() == talk.start
        assert_complete(talk.fake.requests[-1]["messages"])


def test_one_malformed_call_among_others_stops_none_of_them(chat: Any, seen: Seen):
    calls = [("nope", "{"), ("perturb_cells", KNOCK_OUT), ("find_genes", "3")]
    with chat(Say("", calls), Say("Done.")) as talk:
        talk.ask()
        assert [a["status"] for a in seen.answers] == ["error", "succeeded", "error"]
        assert_complete(talk.fake.requests[-1]["messages"])


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_call_that_was_cut_is_never_made(chat: Any, seen: Seen, after: int):
    whole = Say("", [("perturb_cells", KNOCK_OUT)])
    cut = Say("", whole.calls, cut_after=after)
    with chat(cut, cut, Say("Better so.")) as talk:
        assert talk.ask() == "Better so."
        assert seen.calls == []
        assert talk.app.ledger.head() == talk.start
        assert len(talk.fake.requests) == 3
        assert any("cut" in note for note in seen.notes)


def test_a_call_behind_text_that_was_cut_is_not_made_either(chat: Any, seen: Seen):
    with chat(Say("I look.", [("perturb_cells", KNOCK_OUT)], cut_after=5)) as talk:
        assert talk.ask() == "I look."
        assert seen.calls == []
        assert talk.app.ledger.head() == talk.start


def test_the_text_of_a_cut_reply_is_kept_and_marked(chat: Any, seen: Seen):
    with chat(Say("One two three four five", cut_after=2), Say("All of it.")) as talk:
        assert talk.ask() == "One two th"
        assert any("cut" in note for note in seen.notes)
        assert talk.lines[-1]["cut"] is True
        assert talk.ask("Go on") == "All of it."
        assert_complete(talk.fake.requests[-1]["messages"])


def test_a_connection_that_is_always_cut_is_an_error_and_the_chat_can_go_on(chat: Any):
    with chat(Say("x", cut_after=0)) as talk:
        with pytest.raises(EndpointError, match="ended the connection"):
            talk.ask()
        talk.fake.replies = [Say("Here.")]
        assert talk.ask() == "Here."
        assert [m["role"] for m in talk.fake.requests[-1]["messages"]] == ["system", "user"]


def test_what_an_endpoint_asks_to_wait_is_waited(chat: Any):
    limits = [
        Refuse(429, {"Retry-After": "7"}),
        Refuse(503),
        Refuse(429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Refuse(429, {"Retry-After": "soon"}),
    ]
    with chat(*limits, Say("At last.")) as talk:
        assert talk.ask() == "At last."
        assert talk.pauses == [7.0, 2.0, 0.0, 8.0]
        assert len({json.dumps(r, sort_keys=True) for r in talk.fake.requests}) == 1


@pytest.mark.parametrize("said", ["3600", "inf", "1e999"])
def test_a_wait_that_is_too_long_is_an_error_that_says_it(chat: Any, said: str):
    with chat(Refuse(429, {"Retry-After": said})) as talk:
        with pytest.raises(EndpointError, match="asks to wait"):
            talk.ask()
        assert talk.pauses == []


def test_an_endpoint_that_is_always_busy_is_given_up(chat: Any):
    with chat(Refuse(429, {"Retry-After": "nan"})) as talk:
        with pytest.raises(EndpointError, match="answered 429"):
            talk.ask()
        assert len(talk.fake.requests) == 5
        assert talk.pauses == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Refuse(401), "check the key"),
        (Refuse(404, body=b"<html>no</html>"), "--endpoint"),
        (Refuse(400, body=b"\xff\x00{"), "answered 400"),
        (Refuse(307, {"Location": "http://127.0.0.1:1/v1"}), "redirects"),
        (Raw(b"data: {nonsense\n\n"), "no JSON"),
        (Raw(b"data: [1, 2]\n\n"), "a completion is expected"),
        (Raw(b'data: {"error": {"message": "out of memory"}}\n\n'), "out of memory"),
        (Raw(b"<html></html>", "text/html"), "no JSON"),
        (Raw(b""), "ended the connection"),
        (Raw(b"data: " + b"x" * (17 * 2**20)), "bytes for one reply"),
    ],
)
def test_a_refusal_says_what_to_do_and_leaves_the_chat_usable(chat: Any, reply: Reply, said: str):
    with chat(reply) as talk:
        with pytest.raises(EndpointError, match=said):
            talk.ask()
        talk.fake.replies = [Say("Here.")]
        assert talk.ask() == "Here."
        assert_complete(talk.fake.requests[-1]["messages"])


WHOLE = {
    "choices": [
        {
            "message": {
                "content": None,
                "tool_calls": [{"function": {"name": "find_genes", "arguments": {"genes": ["A"]}}}],
            },
            "finish_reason": "tool_calls",
        }
    ]
}


def test_a_reply_that_is_not_streamed_is_taken_too(chat: Any, seen: Seen):
    with chat(Raw(json.dumps(WHOLE).encode(), "application/json"), Say("So.")) as talk:
        assert talk.ask() == "So."
        assert seen.calls == ["find_genes"]
        assert_complete(talk.fake.requests[-1]["messages"])


@pytest.mark.parametrize(
    "calls",
    [
        [{"index": 0, "id": "a", "function": {"name": "find_genes", "arguments": "{}"}}] * 2,
        [{"id": "", "function": {"name": "find_genes"}}, {"id": None, "function": None}],
        [{"index": i, "id": "same", "function": {"name": "x"}} for i in range(3)],
        [{"index": "0", "id": 7, "function": "find_genes"}, 3, None],
        [{"index": i, "function": {"name": "x", "arguments": "{}"}} for i in range(500)],
    ],
)
def test_odd_lists_of_calls_are_answered_each_by_its_id(chat: Any, calls: list[Any]):
    chunk = {"choices": [{"delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    with chat(Raw(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()), Say("So.")) as talk:
        assert talk.ask() == "So."
        assert_complete(talk.fake.requests[-1]["messages"])


def test_a_model_that_calls_tools_for_ever_is_stopped(chat: Any, seen: Seen):
    with chat(Say("", [("find_genes", {"names": ["STAT1"]})])) as talk:
        assert talk.ask() == ""
        assert len(talk.fake.requests) == MOST_ROUNDS
        assert any("rounds" in note for note in seen.notes)


def test_a_stop_during_a_call_leaves_every_call_answered(chat: Any, seen: Seen):
    class Stopping(Seen):
        def call(self, tool: str, arguments: str) -> None:
            super().call(tool, arguments)
            if len(self.calls) == 2:
                raise KeyboardInterrupt

    replies = (Say("", [("find_genes", "{}")] * 3), Say("Fine."))
    with chat(*replies, display=Stopping()) as talk:
        with pytest.raises(KeyboardInterrupt):
            talk.ask()
        assert talk.ask("Go on") == "Fine."
        assert_complete(talk.fake.requests[-1]["messages"])


@pytest.mark.parametrize("agrees", [True, False])
def test_a_person_is_asked_before_a_call_that_takes_long(
    chat: Any, seen: Seen, monkeypatch: pytest.MonkeyPatch, agrees: bool
):
    monkeypatch.setattr("lingshu_tools.chat.toolbox.ASK_ABOVE_S", 0.05)
    seen.agrees = agrees
    with chat(Say("", [("perturb_cells", KNOCK_OUT)]), Say("Done.")) as talk:
        talk.ask()
        [question] = seen.questions
        assert "s of computing" in question
        [answer] = seen.answers
        assert answer["status"] == ("succeeded" if agrees else "error")
        assert (talk.app.ledger.head() != talk.start) == agrees


def test_the_transcript_has_every_step_and_the_heads_of_the_ledger(chat: Any, seen: Seen):
    with chat(Say("Look.", [("perturb_cells", KNOCK_OUT)]), Say("It falls.")) as talk:
        talk.ask()
        talk.assistant.close()
        lines = talk.lines
        kinds = [line["kind"] for line in lines]
        assert kinds == ["begin", "user", "assistant", "call", "assistant", "end"]
        call = lines[3]
        assert call["answer"] == seen.answers[0]
        assert call["ledger_head"] == str(talk.app.ledger.head())
        assert lines[0]["ledger_head"] != lines[-1]["ledger_head"] == call["ledger_head"]
        path = talk.transcript.path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.parent == talk.app.home / "chats"


def test_the_key_goes_to_the_endpoint_and_into_nothing_else(chat: Any, seen: Seen, tmp_path: Path):
    echo = Say(f"Your key is {KEY}.", [("find_genes", {"names": [KEY]})], size=3)
    refused = Refuse(400, body=json.dumps({"error": {"message": f"bad key {KEY}"}}).encode())
    with chat(echo, refused) as talk:
        with pytest.raises(EndpointError) as raised:
            talk.ask(f"Is {KEY} right?")
        talk.assistant.close()
        assert talk.fake.headers[0]["authorization"] == f"Bearer {KEY}"
        everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
        assert KEY.encode() not in everything
        assert KEY not in repr(raised.value.__cause__)
