"""The paper's recipe: tokens and guidance, no additions, control cells at most a tenth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_model import SPEC, arm
from made_training import training_cells

from lingshu_model.contracts import Catalogue
from lingshu_model.network.config import PAPER_PRESETS, PRESETS
from lingshu_model.network.tokens import VOCABULARY
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.sampler import Sampler
from lingshu_model.train.command import train
from lingshu_model.train.initialisation import InitialState
from lingshu_model.train.recipes.choice import in_paper_recipe
from lingshu_model.train.recipes.paper import capped
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.train.spec_file import SpecError

FILES = sorted(Path("model/presets").rglob("*.json"))
PAPER = TrainingSpec.of(
    {**in_paper_recipe(SPEC.model_dump()), "network": "lingshu-paper-tiny"}, "made"
)


def test_control_cells_are_at_most_a_tenth_in_the_proportions_of_their_contexts() -> None:
    cells = training_cells(contexts=("a", "b"), controls=400, cells=90, absent=(("b", "G3"),))
    kept = capped(cells, seed=1)
    control = np.array([not c.interventions for c in kept.conditions])[kept.condition]
    assert 0.09 < control.mean() <= 0.1
    # All perturbed cells stay.
    assert (~control).sum() == 3 * 90
    each = [len(kept.rows(i)) for i, c in enumerate(kept.conditions) if not c.interventions]
    assert each == [15, 15]
    assert np.array_equal(capped(cells, seed=1).index, kept.index)
    assert not np.array_equal(capped(cells, seed=2).index, kept.index)


def test_few_control_cells_and_control_cells_alone_all_stay() -> None:
    few = training_cells(controls=10, cells=150)
    assert capped(few, seed=1) is few
    alone = few.take(few.rows(0))
    assert capped(alone, seed=1) is alone


def test_a_network_starts_from_random_weights_with_all_tokens_of_every_gene() -> None:
    network = InitialState(PAPER, training_cells()).network()
    (bucket,) = network.readout
    assert bucket.width == VOCABULARY
    assert not bucket.any_above
    assert bucket.bias is None
    assert (network.state, network.tilt, network.position) == (None, None, None)
    assert not network.prefix.gene_features.any()
    # The same whatever the cells: only the number of genes and of conditions counts.
    other = InitialState(PAPER, training_cells(seed=3)).network()
    assert all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))


def test_another_specification_becomes_one_of_the_recipe_under_another_name() -> None:
    spec = TrainingSpec.read(Path("model/presets/thp1-crispr.json"))
    paper = TrainingSpec.of(in_paper_recipe(spec.model_dump()), "it")
    assert (paper.name, paper.network) == ("thp1-crispr-paper", "lingshu-paper-1m-s13")
    assert (paper.sampler.steps, paper.sampler.guidance) == (3, 2.0)
    assert (paper.shams, paper.priors, paper.sigma_rel) == (0, None, 0.05)
    pbmc = in_paper_recipe(TrainingSpec.read(Path("model/presets/pbmc.json")).model_dump())
    assert (pbmc["network"], pbmc["sampler"]["guidance"]) == ("lingshu-paper-7m-s32", 3.0)
    assert in_paper_recipe(paper.model_dump()) == paper.model_dump()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "lingshu-1m-s13"}, "without additions.*not 'lingshu-1m-s13'"),
        ({"shams": 4}, "no null labels"),
        ({"delivery": "moved"}, "no delivery"),
        ({"priors": "priors.csv"}, "no priors"),
    ],
)
def test_what_the_recipe_does_not_have_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        TrainingSpec.of({**PAPER.model_dump(), **change}, "made")


@pytest.mark.parametrize("file", FILES, ids=[str(f.name) for f in FILES])
def test_every_shipped_specification_is_one(file: Path) -> None:
    spec = TrainingSpec.read(file)
    assert spec.network in PRESETS if spec.recipe != "effects" else spec.network is None


def test_presets_of_the_papers_form_have_no_addition() -> None:
    assert {"lingshu-85m-s8", "lingshu-85m-s32"} < set(PAPER_PRESETS)
    for name in PAPER_PRESETS:
        shape = PRESETS[name]
        assert shape.d_gene == shape.d_model
        assert (shape.gene_bias, shape.group_embedding, shape.state_rank) == (False, False, 0)


def test_a_trained_checkpoint_samples_with_guidance_and_stores_no_effect(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(SPEC.model_copy(update={"network": None, "recipe": "effects"}), folder, folder / "runs",
          1, 1, None, "paper")  # fmt: skip
    name = f"{SPEC.name}-paper"
    checkpoint = Catalogue([folder / "runs" / name / "checkpoint"]).load(name)
    assert "guidance 2" in capsys.readouterr().out
    assert (checkpoint.delivery, checkpoint.effects) == (None, None)
    assert checkpoint.config["sampler"]["guidance"] == 2.0
    n = {str(e["interventions"]): e["n_cells"] for e in checkpoint.config["seen"]}
    assert n["[]"] <= 0.1 * sum(n.values())
    sampler = load_sampler(checkpoint, threads=1)
    assert isinstance(sampler, Sampler)
    plain, guided = (
        sampler.sample_tile(arm(checkpoint, "G1", steps=3, guidance=w), 0) for w in (0.0, 2.0)
    )
    assert not np.array_equal(plain, guided)
