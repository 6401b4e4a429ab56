"""Names in constraints and aims as agents write them, and refusals that name what they refuse."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lingshu_model.contracts import Intervention
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, NotFoundError
from lingshu_tools.planner.batch import Pool
from lingshu_tools.planner.learning import SCORE_UNITS, Measured, compared
from lingshu_tools.tools.context_argument import context_map


def planned(app: App, objective: object, candidates: object = "all_seen"):
    arguments = {"checkpoint": "thp1-crispr", "objective": objective, "candidates": candidates}
    return call(app, "plan_screen", arguments)


@pytest.mark.parametrize("argument", ["only", "avoid"])
def test_a_perturbation_in_a_constraint_stands_for_its_target(app: App, argument: str):
    names = {"only": ["JAK2", "STAT1"], "avoid": ["JAK2"]}[argument]
    labels = [f"{name} knockout" for name in names]
    by_target = planned(app, {"lower": ["PSMB9"], argument: names})
    by_label = planned(app, {"lower": ["PSMB9"], argument: labels})
    assert by_label.plan_digest == by_target.plan_digest


@pytest.mark.parametrize("argument", ["only", "avoid"])
@pytest.mark.parametrize("name", ["JAK2 + STAT1 knockout", "JAK2 knockout + STAT1", "JAK2+STAT1"])
def test_a_combination_in_a_constraint_is_refused_as_one(app: App, argument: str, name: str):
    with pytest.raises(InputError, match=r"single targets.*candidates"):
        planned(app, {"lower": ["PSMB9"], argument: [name]})


def test_the_kind_of_a_perturbation_is_read_whatever_its_case(app: App):
    plain = planned(app, {"lower": ["PSMB9"], "only": ["JAK2"]}, ["JAK2 knockout"])
    cased = planned(app, {"lower": ["PSMB9"], "only": ["JAK2 Knockout"]}, ["JAK2 KNOCKOUT"])
    assert cased.plan_digest == plain.plan_digest


def test_a_perturbation_of_an_unknown_target_is_refused_by_name(app: App):
    with pytest.raises(NotFoundError, match="JAK22"):
        planned(app, {"lower": ["PSMB9"], "only": ["JAK22 knockout"]})


@pytest.mark.parametrize(
    "objective", [{"avoid": ["STAT1", "JAK2"]}, {"keep": ["UBE2L6"], "keep_within": 0.01}]
)
def test_a_refusal_names_the_candidates_that_constraints_leave_out(app: App, objective: object):
    listed = ["STAT1 knockout", "JAK2 knockout"]
    with pytest.raises(InputError) as refused:
        planned(app, {"lower": ["PSMB9"], **objective}, listed)
    assert all(label in str(refused.value) for label in listed)


WORDS = ["activation", "Activation", "crispra", "CRISPRi", "knockdown", "KO", "gene activation"]


@pytest.mark.parametrize("argument", ["only", "avoid", "candidates", "like"])
@pytest.mark.parametrize("word", WORDS)
def test_a_kind_that_was_not_trained_is_refused_with_what_would_match(
    app: App, argument: str, word: str
):
    name, objective = f"JAK2 {word}", {"lower": ["PSMB9"]}
    named = argument == "candidates"
    wanted = objective if named else objective | {argument: [name]}
    with pytest.raises(InputError) as refused:
        planned(app, wanted, [name, "STAT1"] if named else "all_seen")
    text = str(refused.value)
    assert f"has no {name!r}: JAK2 was trained as JAK2 knockout. Write 'JAK2 knockout'" in text
    # The valid call is the same with the name that would match.
    assert json.dumps("JAK2 knockout") in text.split("A valid call")[1]


@pytest.mark.parametrize("word", ["activation", "crispra"])
def test_a_kind_alone_that_was_not_trained_is_refused_with_those_that_were(app: App, word: str):
    with pytest.raises(InputError, match=r"[Kk]inds.* knockout"):
        planned(app, {"lower": ["PSMB9"], "only": [word]})


def test_a_dose_that_was_not_trained_is_refused_as_a_dose(app: App):
    with pytest.raises(InputError, match="dose"):
        planned(app, {"lower": ["PSMB9"]}, ["JAK2 knockout 5"])


@pytest.mark.parametrize("word", ["context ", "Context: ", "context:  ", ""])
def test_the_word_context_before_a_line_is_no_field(word: str):
    assert context_map(f"{word}cell_type=B cell, dataset=a=b") == {
        "cell_type": "B cell",
        "dataset": "a=b",
    }


def test_a_field_named_context_is_one():
    assert context_map("context=a, line=b") == {"context": "a", "line": "b"}


def test_a_screen_moves_toward_a_context_written_as_its_description_has_it(app: App):
    # The only context of the checkpoint: it is known, and there is no distance to close.
    with pytest.raises(InputError, match="no distance is left"):
        planned(app, {"toward": "context cell_line=THP-1"})


def pool_of(intervals: dict[str, tuple[float, float]]) -> Pool:
    parts = [(Intervention(kind="knockout", target=name),) for name in intervals]
    scores = [SimpleNamespace(mean=sum(i) / 2, interval=i) for i in intervals.values()]
    means = np.array([score.mean for score in scores])
    return Pool(tuple(parts), tuple(scores), means, means[None], tuple(intervals))  # type: ignore[arg-type]


def coverage(intervals: dict[str, tuple[float, float]], values: dict[str, float]) -> float | None:
    measured = {f"{n} knockout": Measured(v, v, None, 1) for n, v in values.items()}
    return compared(pool_of(intervals), measured, units=SCORE_UNITS, hit_at=None).coverage


def test_an_interval_without_width_neither_holds_nor_misses():
    wide = {"A": (0.0, 1.0), "B": (0.0, 1.0)}
    values = {"A": 0.5, "B": 2.0}
    assert coverage(wide, values) == 0.5
    assert coverage(wide | {"C": (0.0, 0.0)}, values | {"C": 0.4}) == 0.5
    assert coverage({"C": (0.0, 0.0)}, {"C": 0.4}) is None
