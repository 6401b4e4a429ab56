"""Training reads what it should, refuses the rest, and goes on to the same weights after a kill."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from made_model import CONTEXT, SPEC, made_cells

from lingshu_model.contracts import Catalogue, Checkpoint, CheckpointError
from lingshu_model.network import diffusion
from lingshu_model.network.tokens import MASK
from lingshu_model.network.vocabulary import stack
from lingshu_model.network.weights import load_network
from lingshu_model.train import loop
from lingshu_model.train.data import sources as data
from lingshu_model.train.data.cells import add_shams
from lingshu_model.train.initialisation import InitialState, run_digest
from lingshu_model.train.spec import TrainingSpec, Unseen


def test_each_stratum_has_one_time() -> None:
    times = diffusion.stratified_times(8, torch.Generator().manual_seed(0))
    assert sorted((times * 8).floor().int().tolist()) == list(range(8))


def test_unmeasured_genes_are_hidden_and_out_of_the_loss() -> None:
    tokens = torch.tensor([[5, 6, MASK]])
    measured = tokens != MASK
    nothing = torch.zeros(1)
    shown, hidden = diffusion.hide(tokens, measured, nothing, torch.full((1, 3), 0.5))
    assert shown.tolist() == [[5, 6, MASK]]
    assert hidden.tolist() == [[False, False, False]]
    shown, hidden = diffusion.hide(tokens, measured, nothing + 1, torch.full((1, 3), 0.5))
    assert shown.tolist() == [[MASK] * 3]
    assert hidden.tolist() == [[True, True, False]]


def test_a_panel_gene_that_the_file_lacks_is_unmeasured(folder: Path) -> None:
    (folder / "panel.csv").write_text("G1\nABSENT\nG0\n")
    cells = data.read_cells(SPEC.model_copy(update={"panel": "panel.csv"}), folder)
    assert cells.panel == ("G1", "ABSENT", "G0")
    tokens = cells.dense(np.arange(len(cells)))
    assert set(tokens[:, 1].tolist()) == {MASK}
    assert np.array_equal(tokens[:, 2], made_cells().X[:, 0])


def test_shams_are_control_cells_and_leave_as_many_to_compare_them_with(folder: Path) -> None:
    cells = data.read_cells(SPEC, folder)
    shammed = add_shams(cells, 3, seed=1)
    assert [c.interventions[0].target for c in shammed.conditions[-3:]] == [
        "sham-00",
        "sham-01",
        "sham-02",
    ]
    control = {row.tobytes() for row in cells.dense(cells.rows(0))}
    for null_label in range(3):
        rows = shammed.rows(len(cells.conditions) + null_label)
        assert len(rows) == 20
        assert {row.tobytes() for row in shammed.dense(rows)} <= control


def test_the_split_is_stratified_and_disjoint(folder: Path) -> None:
    cells = data.read_cells(SPEC, folder)
    spec = SPEC.model_copy(update={"validation": 0.1, "test": 0.2})
    parts = data.split(cells, spec)
    assert len(np.unique(np.concatenate([parts.train, parts.validation, parts.test]))) == 120
    assert np.bincount(cells.condition[parts.validation]).tolist() == [4, 4, 4]
    assert np.bincount(cells.condition[parts.test]).tolist() == [8, 8, 8]


def test_an_unseen_condition_is_in_no_other_part(folder: Path) -> None:
    cells = data.read_cells(SPEC, folder)
    spec = SPEC.model_copy(update={"unseen": [Unseen(context=CONTEXT, target="G5")]})
    parts = data.split(cells, spec)
    assert np.array_equal(parts.unseen, cells.rows(2))
    assert not set(parts.unseen) & {*parts.train, *parts.validation, *parts.test}
    initial_state = InitialState(spec, cells.take(parts.train))
    assert [e["interventions"] for e in initial_state.config["seen"]] == [
        [],
        [{"kind": "knockout", "target": "G1"}],
    ]


def run(
    folder: Path, out: Path, epochs: int, stop_after: int | None = None
) -> dict[str, torch.Tensor]:
    spec = SPEC.model_copy(update={"epochs": epochs})
    initial_state = InitialState(spec, data.read_cells(spec, folder))
    vocabulary, network = initial_state.vocabulary, initial_state.network()
    conditions = stack(
        [
            vocabulary.conditions(dict(c.context), c.interventions)
            for c in initial_state.cells.conditions
        ]
    )
    batches = loop.CellBatches.of(initial_state.cells, conditions, torch.device("cpu"))
    accelerator = Accelerator(cpu=True)
    out.mkdir(exist_ok=True)
    digest = run_digest(spec, initial_state.cells)
    if stop_after is None:
        return loop.train(network, batches, batches, spec, out, digest, accelerator)

    class Killed(BaseException):
        pass

    class Halting(loop.CellBatches):
        def rows(self, step: int, batch: int, seed: int) -> torch.Tensor:
            if step == stop_after:
                raise Killed
            return super().rows(step, batch, seed)

    halting = Halting(batches.cells, batches.depth, batches.conditions, batches.device)
    with pytest.raises(Killed):
        loop.train(network, halting, batches, spec, out, digest, accelerator)
    return {}


def test_a_killed_run_goes_on_to_the_very_same_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    straight = run(folder, folder / "straight", epochs=2)
    run(folder, folder / "broken", epochs=2, stop_after=9)
    resumed = run(folder, folder / "broken", epochs=2)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_state_of_another_run_is_refused(folder: Path) -> None:
    run(folder, folder / "out", epochs=1)
    with pytest.raises(ValueError, match="belongs to another run"):
        run(folder, folder / "out", epochs=2)


def test_training_lowers_the_bound(folder: Path) -> None:
    run(folder, folder / "out", epochs=6)
    log = (folder / "out" / "log.csv").read_text().splitlines()
    first, last = (float(line.split(",")[2]) for line in (log[1], log[-1]))
    # The network starts at each gene's frequencies, and these genes hardly depend on others.
    assert last < 0.995 * first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file": "absent.h5ad"}, "does not exist"),
        ({"where": {"batch": ["a"]}}, "no obs column 'batch'; it has guide, kept"),
        ({"where": {"kept": ["no"]}}, "no cell has"),
        ({"context": {"cell_line": "obs:line"}}, "no obs column 'line'"),
        (
            {"perturbation": {"column": "guide", "control": "NT", "kind": "knockout"}},
            "no control cells called 'NT'",
        ),
    ],
)
def test_a_wrong_source_is_refused(folder: Path, change: dict[str, object], words: str) -> None:
    source = SPEC.sources[0].model_dump() | change
    spec = TrainingSpec.model_validate(SPEC.model_dump() | {"sources": [source]})
    with pytest.raises(data.DataError, match=words):
        data.read_cells(spec, folder)


def test_two_columns_of_one_name_that_no_spec_names_do_no_harm(folder: Path) -> None:
    with h5py.File(folder / SPEC.sources[0].file, "r+") as file:
        anndata.io.write_elem(file["obs"], "note", np.full(120, "x", object))
        order = [*file["obs"].attrs["column-order"]]
        file["obs"].attrs["column-order"] = np.array([*order, "note", "note"], dtype=object)
    assert len(data.read_cells(SPEC, folder).source)


def copy_of(checkpoint: Checkpoint, root: Path) -> Path:
    (root / "made").mkdir()
    for file in checkpoint.path.iterdir():
        (root / "made" / file.name).write_bytes(file.read_bytes())
    pins = checkpoint.path.parent / "made.digests.json"
    (root / "made.digests.json").write_bytes(pins.read_bytes())
    return root / "made"


@pytest.mark.parametrize("name", ["config.json", "panel.json", "model-00.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_refused_by_file_and_digest(
    checkpoint: Checkpoint, tmp_path: Path, name: str, damage: str
) -> None:
    file = copy_of(checkpoint, tmp_path) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    if damage != "remove":
        file.write_bytes(data if damage == "flip" else data[:-9])
    with pytest.raises(CheckpointError, match=f"{name} is .*{checkpoint.pinned[name]}"):
        load_network(Catalogue([tmp_path]).load("made"))
