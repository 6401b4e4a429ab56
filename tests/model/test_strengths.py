"""A training with escaped cells: strengths in the checkpoint, and in the cells that it samples."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_model import CONTEXT, SPEC, made_cells

from lingshu_model.contracts import Catalogue, Checkpoint, CheckpointError, Intervention
from lingshu_model.contracts.catalogue import EFFECTS_FORMATS, FORMAT, pin
from lingshu_model.contracts.levels import log1p_cp10k
from lingshu_model.contracts.responders import RESPONDERS
from lingshu_model.finishing import evidence
from lingshu_model.finishing.finish import request
from lingshu_model.sampling.delivery import MOVED, PINNED, DeliveringSampler, Movers
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.parts import part_samplers
from lingshu_model.sampling.sampler import sample_arm
from lingshu_model.train import command
from lingshu_model.train.spec import TrainingSpec

LOST = [12, 14, 16, 18, 20, 22, 24, 26]
KNOCKOUT, OTHER = ((Intervention(kind="knockout", target=target),) for target in ("G1", "G5"))
ESCAPED = 0.4


def trained(folder: Path, escaped: float = ESCAPED, **changes: object) -> Checkpoint:
    """The checkpoint of made cells of which a share escaped the knock-out of G1."""
    cells = made_cells(480)
    edited = np.flatnonzero(cells.obs["guide"] == "G1")
    kept, edited = np.split(edited, [round(escaped * len(edited))])
    generator = np.random.default_rng(0)
    # Escaped cells are control cells, of these two genes as well.
    cells.X[np.ix_(kept, [1, 2])] = generator.poisson([0.4, 0.6], (len(kept), 2))
    for gene in LOST:
        cells.X[edited, gene] = generator.binomial(cells.X[edited, gene].astype(np.int64), 0.2)
    cells.write_h5ad(folder / "made.h5ad")
    allowed = {"allow_unfit": True, "epochs": 1, "shams": 2, **changes}
    fields = TrainingSpec.model_validate(SPEC.model_dump() | allowed)
    (folder / "spec.json").write_text(fields.model_dump_json())
    command.train(folder / "spec.json", folder, folder / "runs", 1, None, None)
    return Catalogue([folder / "runs" / "made" / "checkpoint"]).load("made")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bootstrap draws: what is written counts here, not how exact it is."""
    monkeypatch.setattr(evidence, "DRAWS", evidence.Draws(bootstrap=5, monte_carlo=2, halves=3))


def loaded(checkpoint: Checkpoint) -> DeliveringSampler:
    sampler = load_sampler(checkpoint)
    assert isinstance(sampler, DeliveringSampler)
    return sampler


def cells_of(sampler: object, checkpoint: Checkpoint, done: tuple[Intervention, ...]) -> np.ndarray:
    assert isinstance(sampler, DeliveringSampler)
    return sample_arm(sampler, request(checkpoint, CONTEXT, done, 128, 3)).counts


def test_escaped_cells_are_stored_and_sampled(tmp_path: Path):
    checkpoint = trained(tmp_path, recipe="effects")
    assert checkpoint.config["format"] == FORMAT
    assert checkpoint.effects
    rows = {row["interventions"][0]["target"]: row for row in checkpoint.config["effects"]["rows"]}
    # Neither the knock-out without an effect nor null labels have strengths.
    assert [name for name, row in rows.items() if "responders" in row] == ["G1"]
    stored = checkpoint.effects.effect(CONTEXT, KNOCKOUT)
    assert stored.responders is not None
    assert stored.responders.share == pytest.approx(1 - ESCAPED, abs=0.12)
    assert checkpoint.effects.effect(CONTEXT, OTHER).responders is None
    states = checkpoint.tables(RESPONDERS)["log_fold"]
    assert len(states) == len(stored.responders.strengths)
    sampler = loaded(checkpoint)
    control, moved = (cells_of(sampler, checkpoint, done) for done in ((), KNOCKOUT))
    same = (control == moved).all(axis=1)
    assert same.mean() == pytest.approx(1 - stored.responders.share, abs=1 / 64)
    # The cells that did not escape lose more than the mean over cells.
    before, after = (c[:, LOST].sum(axis=1) for c in (control, moved))
    assert after[~same].sum() < 0.35 * before[~same].sum()
    fit = {c["interventions"][0]["target"]: c for c in checkpoint.fitness["conditions"]}["G1"]
    assert fit["slope"] == pytest.approx(1, abs=0.1)
    # A tile alone, by another sampler.
    alone = loaded(checkpoint).sample_tile(request(checkpoint, CONTEXT, KNOCKOUT, 128, 3), 2)
    assert np.array_equal(alone, moved[32:48])


def test_cells_that_all_respond_store_no_strengths(tmp_path: Path):
    checkpoint = trained(tmp_path, escaped=0.0, recipe="effects")
    assert not [name for name in checkpoint.pinned if name.startswith(RESPONDERS)]
    assert all("responders" not in row for row in checkpoint.config["effects"]["rows"])


def test_a_checkpoint_without_strengths_samples_as_before(tmp_path: Path):
    """The entry taken out, all cells are moved alike by the stored row."""
    checkpoint = trained(tmp_path, recipe="effects")
    mixed = cells_of(loaded(checkpoint), checkpoint, KNOCKOUT)
    config = json.loads((checkpoint.path / "config.json").read_text())
    for row in config["effects"]["rows"]:
        row.pop("responders", None)
    (checkpoint.path / "config.json").write_text(json.dumps(config))
    pin(checkpoint.path)
    alike = Catalogue([checkpoint.path.parent]).load("made")
    sampler = loaded(alike)
    control, moved = (cells_of(sampler, alike, done) for done in ((), KNOCKOUT))
    assert (control == moved).all(axis=1).mean() < 0.1
    level = [log1p_cp10k(c, c.sum(axis=1, keepdims=True)) for c in (control, moved, mixed)]
    mean = [each.mean(axis=0)[LOST].mean() for each in level]
    assert mean[1] - mean[0] == pytest.approx(mean[2] - mean[0], rel=0.1)


def test_rows_of_earlier_formats_are_moved_as_they_were_solved(tmp_path: Path):
    """Formats 2 and 3 know no additional dispersion; additional counts have the common size."""
    checkpoint = trained(tmp_path, recipe="effects")
    config = json.loads((checkpoint.path / "config.json").read_text())
    config["format"] = EFFECTS_FORMATS[-1]
    for row in config["effects"]["rows"]:
        del row["dispersion"]
        row.get("responders", {}).pop("dispersions", None)
    (checkpoint.path / "config.json").write_text(json.dumps(config))
    pin(checkpoint.path)
    earlier = Catalogue([checkpoint.path.parent]).load("made")
    assert earlier.effects
    movers = Movers.of(earlier).stored(earlier.effects.effect(CONTEXT, KNOCKOUT), 0)
    assert movers
    assert all(mover.dispersion == 0.0 for mover in movers)
    common = config["effects"]["contexts"][0]["common"]
    assert all((mover.added == common).all() for mover in movers)
    now = Movers.of(checkpoint).stored(checkpoint.effects.effect(CONTEXT, KNOCKOUT), 0)  # type: ignore[union-attr]
    assert now
    assert (now[0].added >= now[0].size).all()


def test_the_network_s_cells_have_strengths_too(tmp_path: Path):
    checkpoint = trained(tmp_path, delivery=PINNED, shams=0)
    assert checkpoint.effects
    stored = checkpoint.effects.effect(CONTEXT, KNOCKOUT)
    assert stored.responders is not None
    sampler = loaded(checkpoint)
    control, pinned = (cells_of(sampler, checkpoint, done) for done in ((), KNOCKOUT))
    # Genes without a certain change are drawn again in edited cells alone.
    same = (control == pinned).all(axis=1)
    assert same.mean() == pytest.approx(1 - stored.responders.share, abs=1 / 64)
    sampler.delivery = MOVED
    moved = cells_of(sampler, checkpoint, KNOCKOUT)
    assert np.array_equal((control == moved).all(axis=1), same)
    # Movers that are solved on other control cells have the same strengths.
    effects_only = part_samplers(
        checkpoint, lambda _: loaded(checkpoint).control_cells(
            request(checkpoint, CONTEXT, (), 64, 5), 64, 5)
    )["effects only"]  # fmt: skip
    control, moved = (cells_of(effects_only, checkpoint, done) for done in ((), KNOCKOUT))
    assert np.array_equal((control == moved).all(axis=1), same)


def test_what_no_cell_can_be_multiplied_by_is_refused_by_its_place(tmp_path: Path):
    checkpoint = trained(tmp_path, recipe="effects")
    written = (checkpoint.path / "config.json").read_text()
    rows = json.loads(written)["effects"]["rows"]
    number = next(i for i, row in enumerate(rows) if row.get("responders"))
    for name in ("library", "dispersion", "libraries", "dispersions"):
        for value in (-1.0, float("nan"), float("inf"), "x"):
            config = json.loads(written)
            row = config["effects"]["rows"][number]
            if name in row:
                row[name] = value
            else:
                row["responders"][name][1] = value
            (checkpoint.path / "config.json").write_text(json.dumps(config))
            pin(checkpoint.path)
            place = rf"effects\.rows\.{number}\.(responders\.)?{name}"
            with pytest.raises(CheckpointError, match=place):
                _ = Catalogue([checkpoint.path.parent]).load("made").config
