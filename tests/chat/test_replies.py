"""Calls of tools put together from the chunks of servers that number them, or do not."""

import pytest

from lingshu_tools.chat.replies import Assembly


def part(name: str = "", arguments: str | None = None, **more):
    function = {"name": name} if name else {}
    function |= {} if arguments is None else {"arguments": arguments}
    return {"function": function, **more}


WHOLE = [("find_genes", '{"names":["A"]}'), ("find_genes", '{"names":["B"]}')]
FIRST, SECOND = WHOLE
CHUNKS = {
    "unnumbered, each whole, with ids": [[part(*FIRST, id="a")], [part(*SECOND, id="b")]],
    "unnumbered, each whole, without ids": [[part(*FIRST)], [part(*SECOND)]],
    "unnumbered, in one chunk": [[part(*FIRST), part(*SECOND)]],
    "all with number 0": [[part(*FIRST, id="a", index=0)], [part(*SECOND, id="b", index=0)]],
    "all with number 0, in parts": [
        [part("find_genes", '{"names"', id="a", index=0)],
        [part("", ':["A"]}', index=0)],
        [part("find_genes", '{"names"', id="b", index=0)],
        [part("", ':["B"]}', index=0)],
    ],
    "unnumbered, in parts": [
        [part("find_genes", "", id="a")],
        [part("", '{"names":')],
        [part("", '["A"]}')],
        [part("find_genes", '{"names":', id="b")],
        [part("", '["B"]}')],
    ],
    "numbered, name and id repeated, an empty end": [
        [part("find_genes", '{"names":', id="a", index=0)],
        [part("find_genes", '["A"]}', id="a", index=0)],
        [part("find_genes", "", id="a", index=0)],
        [part("find_genes", '{"names":', id="b", index=1)],
        [part("find_genes", '["B"]}', id="b", index=1)],
    ],
    "numbered, one in turn with the other": [
        [part("find_genes", '{"names":', id="a", index=0)],
        [part("find_genes", '{"names":', id="b", index=1)],
        [part("", '["A"]}', index=0)],
        [part("", '["B"]}', index=1)],
    ],
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_two_calls_stay_two_however_they_are_numbered(chunks):
    assembly = Assembly()
    for calls in chunks:
        list(assembly.take({"choices": [{"delta": {"tool_calls": calls}}]}))
    list(assembly.take({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}))
    reply = assembly.reply()
    assert [(each.name, each.arguments) for each in reply.calls] == WHOLE
    assert len({each.id for each in reply.calls}) == 2
