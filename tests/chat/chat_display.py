"""A display that remembers what a person would have seen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lingshu_tools.chat.costs import Cost

KNOCK_OUT = {
    "interventions": [{"kind": "knockout", "target": "STAT1"}],
    "n_cells": 32,
    "wait_s": 45,
}


@dataclass
class Seen:
    """What a person would have seen."""

    texts: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    answers: list[Mapping[str, Any]] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    agrees: bool = False

    def text(self, part: str) -> None:
        self.texts.append(part)

    def end_of_text(self) -> None:
        self.texts.append("\n")

    def call(self, tool: str, arguments: str) -> None:
        self.calls.append(tool)

    def answer(self, answer: Mapping[str, Any], cost: Cost) -> None:
        self.answers.append(answer)
        self.costs.append(cost)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return self.agrees
