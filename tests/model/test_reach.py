"""Targets never perturbed: gene features from gene sets, and the tilts they start from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_model import CONTEXT, SPEC
from scipy import sparse

from lingshu_model.contracts import Intervention
from lingshu_model.network.config import PRESETS
from lingshu_model.train import priors as prior_tables
from lingshu_model.train.data import sources as data
from lingshu_model.train.data.cells import Condition, TrainingCells
from lingshu_model.train.effect_offsets.unseen_targets import fit_reach
from lingshu_model.train.initialisation import Birth, run_digest
from lingshu_model.train.priors import PriorsError, features_of_sets, read_features, read_gmt

SETS = {
    "complex one": ["A", "B", "C", "M"],
    "complex two": ["D", "E", "F", "M"],
    "everything": list("ABCDEFM"),
    "other": ["M", "X", "Y"],
}


def similarity(table: dict[str, np.ndarray], a: str, b: str) -> float:
    return float(table[a] @ table[b])


def test_genes_of_one_set_are_alike_and_of_different_sets_are_not() -> None:
    table = features_of_sets(SETS, 3)
    assert similarity(table, "A", "B") == pytest.approx(1, abs=1e-6)
    assert similarity(table, "A", "D") < similarity(table, "A", "M") < 0.99
    assert all(np.linalg.norm(v) == pytest.approx(1) for v in table.values())


def test_more_numbers_than_sets_are_refused() -> None:
    with pytest.raises(PriorsError, match="9 genes in 4 sets do not give 4 numbers"):
        features_of_sets(SETS, 4)


def test_the_command_writes_a_table_that_reads_back(tmp_path: Path) -> None:
    gmt, out = tmp_path / "sets.gmt", tmp_path / "priors.csv"
    gmt.write_text("".join(f"{n}\tfor tests\t" + "\t".join(m) + "\n" for n, m in SETS.items()))
    run = CliRunner().invoke(prior_tables.main, [str(gmt), "--out", str(out), "--width", "3"])
    assert run.exit_code == 0, run.output
    assert "9 genes of 4 sets, 3 numbers each" in run.output
    read, created = read_features(out), features_of_sets(SETS, 3)
    assert list(read) == list(created)
    assert np.allclose(np.stack([*read.values()]), np.stack([*created.values()]), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gene,x0\nA,1.0,2.0\n", r"row 2 \(A\): wanted 1 finite numbers"),
        ("gene,x0\nA,1.0\nB,nan\n", r"row 3 \(B\): wanted 1 finite numbers"),
        ("gene,x0\nA,much\n", r"row 2 \(A\): could not convert"),
        ("gene,x0\n", "has no genes"),
        ("", "has no genes"),
    ],
)
def test_a_bad_table_is_refused_with_its_row(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(PriorsError, match=says):
        read_features(path)


def test_a_line_without_genes_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "bad.gmt"
    path.write_text("one\tabout\tA\nno tabs here\n")
    with pytest.raises(PriorsError, match="line 2: 'no tabs here' is no name"):
        read_gmt(path)


def made(features: np.ndarray, *, told: float, seed: int = 3) -> np.ndarray:
    """Tilts of which a mean, and `told` of the rest, are what the features say."""
    rng = np.random.Generator(np.random.Philox(seed))
    common, slope = rng.normal(size=50), rng.normal(size=(features.shape[1], 50))
    return common + told * features @ slope + 0.3 * rng.normal(size=(len(features), 50))


FEATURES = np.random.Generator(np.random.Philox(1)).normal(size=(24, 3))
FEATURES /= np.linalg.norm(FEATURES, axis=1, keepdims=True)
OUTSIDE = np.full(24, -1)


def test_features_tell_of_a_target_that_was_left_out() -> None:
    theta = made(FEATURES, told=2.0)
    reach = fit_reach(theta[1:], FEATURES[1:], OUTSIDE[1:])
    assert reach is not None
    mean = theta[1:].mean(axis=0)
    assert np.mean((reach.of(FEATURES)[0] - theta[0]) ** 2) < 0.3 * np.mean((mean - theta[0]) ** 2)


def test_features_that_tell_nothing_leave_the_mean() -> None:
    theta = made(FEATURES, told=0.0)
    reach = fit_reach(theta, FEATURES, OUTSIDE)
    assert reach is not None
    assert np.abs(reach.effects[1:]).max() < 0.2
    assert np.corrcoef(reach.effects[0], theta.mean(axis=0))[0, 1] > 0.99


def test_targets_that_share_nothing_leave_an_unseen_one_without_a_tilt() -> None:
    noise = np.random.Generator(np.random.Philox(9)).normal(size=(24, 400))
    reach = fit_reach(noise, FEATURES, OUTSIDE)
    assert reach is not None
    assert not reach.effects.any()
    assert reach.left == 1


def test_own_genes_are_kept_apart() -> None:
    theta = made(FEATURES, told=0.0)
    mine = np.where(np.arange(24) < 10, np.arange(24), -1)
    theta[np.arange(10), np.arange(10)] = -2.5
    reach = fit_reach(theta, FEATURES, mine)
    assert reach is not None
    assert reach.own == pytest.approx(-2.5)


def test_too_few_targets_tell_of_no_other() -> None:
    assert fit_reach(np.ones((3, 5)), np.ones((3, 2)), np.full(3, -1)) is None


@pytest.fixture(scope="module")
def many() -> TrainingCells:
    """Six knock-outs that all take G7 away, and their own gene."""
    rng = np.random.Generator(np.random.Philox(4))
    genes = tuple(f"G{i}" for i in range(30))
    targets = [None, *range(6)]
    counts = [rng.poisson(4.0, (120, 30)) for _ in targets]
    for target, each in zip(targets, counts, strict=True):
        if target is not None:
            each[:, [7, target]] = 0
    finished = [
        () if t is None else (Intervention(kind="knockout", target=f"G{t}"),) for t in targets
    ]
    whole = np.concatenate(counts)
    return TrainingCells(
        genes,
        sparse.csr_matrix(whole.astype(np.uint16)),
        np.arange(len(whole)),
        np.zeros(len(whole), np.int64),
        np.ones((1, 30), bool),
        np.repeat(np.arange(7), 120),
        tuple(Condition(tuple(CONTEXT.items()), item) for item in finished),
    )


def test_a_network_is_born_with_what_an_unseen_target_shares_with_the_seen(
    many: TrainingCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "lingshu-tiny", replace(PRESETS["lingshu-tiny"], reach=True))
    priors = {f"G{i}": np.array([1.0, float(i)]) for i in range(20)}
    birth = Birth(SPEC, many, priors)
    network = birth.network()
    assert network.tilt is not None
    assert birth.config["gene_features"] == SPEC.gene_features + 2

    def theta(target: str) -> np.ndarray:
        finished = (Intervention(kind="knockout", target=target),)
        named = birth.vocabulary.conditions(CONTEXT, finished)
        with torch.inference_mode():
            return network.tilt.of(named, network.prefix.gene_features)[0].numpy()

    seen, unseen = theta("G3"), theta("G12")
    assert unseen[7] < 0.5 * seen[7] < 0
    assert unseen[12] == pytest.approx(birth.tilts.theta[1:][range(6), range(6)].mean(), rel=1e-4)
    others = np.delete(np.arange(30), [7, 12, *range(6)])
    assert np.abs(unseen[others]).max() < 0.3 * abs(unseen[7])
    control = birth.vocabulary.conditions(CONTEXT, ())
    assert not network.tilt.of(control, network.prefix.gene_features).any()


def test_priors_are_part_of_what_a_run_must_match(folder: Path) -> None:
    cells = data.read_cells(SPEC, folder)
    item, other = {"G1": np.ones(2)}, {"G1": np.zeros(2)}
    digests = [run_digest(SPEC, cells, priors) for priors in (None, item, other)]
    assert len(set(digests)) == 3
    assert digests[0] == run_digest(SPEC, cells, {})
