"""An audit finds stored cells that answer another request than their experiment's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lingshu_model.contracts import Cells, Origin, encode_cells
from lingshu_tools.engine_client.arms import arms_of
from lingshu_tools.ledger import Experiment, Ledger, NewExperiment, NewOutcome

New = Callable[..., NewExperiment]
pytestmark = pytest.mark.usefixtures("database")
PAIR = {"control", "perturbed"}


def request(seed: int) -> dict[str, Any]:
    return {
        "checkpoint": "tiny",
        "checkpoint_digest": "sha256:" + "1" * 64,
        "context": {"cell_line": "THP-1"},
        "interventions": [{"kind": "knockout", "target": "STAT1", "dose": None}],
        "n_cells": 3,
        "seed": seed,
        "first_cell": 0,
        "steps": 4,
        "guidance": 0.0,
    }


def cells(seed: int, origin: str | None) -> bytes:
    counts = np.random.Generator(np.random.Philox(seed)).poisson(2.0, (3, 4)).astype(np.int32)
    return encode_cells(Cells(counts, np.ones(4, bool), origin and Origin(origin)))


def sealed(ledger: Ledger, experiment: Experiment, artifacts: dict[str, bytes]) -> int:
    with ledger.attempt(experiment.id) as attempt:
        return ledger.seal(attempt, NewOutcome(kind="succeeded", artifacts=artifacts)).seq


def begun(ledger: Ledger, new: New, tool: str, seed: int = 1) -> tuple[Experiment, dict[str, str]]:
    requested = request(seed)
    experiment = ledger.begin(new(tool=tool, request=requested, seed=seed))
    return experiment, {role: arm.digest for role, arm in arms_of(tool, requested).items()}


def problems(ledger: Ledger) -> list[str]:
    return [str(problem) for problem in ledger.verify().problems]


@pytest.mark.parametrize("tool", ["sample_cells", "perturb_cells"])
def test_cells_that_answer_their_experiment_are_as_they_should_be(
    ledger: Ledger, new: New, tool: str
) -> None:
    experiment, arms = begun(ledger, new, tool)
    result = {role: cells(1, digest) for role, digest in arms.items()}
    sealed(ledger, experiment, {**result, "effects": b"no cells", "table": cells(1, None)})
    assert problems(ledger) == []


def test_cells_of_another_seed_are_found(ledger: Ledger, new: New) -> None:
    _, other = begun(ledger, new, "sample_cells", seed=2)
    experiment, mine = begun(ledger, new, "sample_cells")
    seq = sealed(ledger, experiment, {"cells": cells(2, other["cells"])})
    (result,) = problems(ledger)
    assert result.startswith(f"row {seq}: its cells sha256:")
    assert (
        f"holds the cells of {other['cells']}, and its experiment's are {mine['cells']}" in result
    )
    assert result.endswith(f"replay {experiment.id}")


def test_a_pair_that_is_crossed_is_found(ledger: Ledger, new: New) -> None:
    experiment, arms = begun(ledger, new, "perturb_cells")
    assert arms.keys() == PAIR
    crossed = {"control": arms["perturbed"], "perturbed": arms["control"]}
    sealed(ledger, experiment, {role: cells(1, digest) for role, digest in crossed.items()})
    assert len(problems(ledger)) == 2


def test_cells_under_a_role_or_a_request_without_any_are_found(ledger: Ledger, new: New) -> None:
    experiment, arms = begun(ledger, new, "sample_cells")
    sealed(ledger, experiment, {"control": cells(1, arms["cells"])})
    odd = ledger.begin(new(tool="sample_cells", request={"n_cells": 3}))
    sealed(ledger, odd, {"cells": cells(2, arms["cells"])})
    result = problems(ledger)
    assert len(result) == 2
    assert all("its experiment's are no request for cells" in each for each in result)


def test_cells_that_say_nothing_of_a_request_stay_valid(ledger: Ledger, new: New) -> None:
    experiment, arms = begun(ledger, new, "perturb_cells")
    sealed(ledger, experiment, {role: cells(1, None) for role in arms})
    assert problems(ledger) == []


def test_cells_that_are_missing_are_reported_once(ledger: Ledger, new: New) -> None:
    experiment, arms = begun(ledger, new, "sample_cells")
    sealed(ledger, experiment, {"cells": cells(1, arms["cells"])})
    outcome = ledger.outcome(experiment.id)
    assert outcome is not None
    ledger.objects.path(outcome.artifacts["cells"]).unlink()
    (result,) = problems(ledger)
    assert "is not in" in result
