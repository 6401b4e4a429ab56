"""The figures of two evaluations of synthetic cells stay what they were.

`golden/figures.json` holds them by metric, tier, population, set, predictor and seed. It was written
by `python tests/evaluate/test_characterisation.py`, before the package was rebuilt.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_contexts
import numpy as np
import pytest
from made import GENES, Truth

import lingshu_model
from lingshu_model.evaluate import distribution, effects, response
from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.evaluate.data import load_study
from lingshu_model.evaluate.evidence import evidence
from lingshu_model.evaluate.observed import CONTROL
from lingshu_model.evaluate.peers import Peers
from lingshu_model.evaluate.report import Asked, make_report
from lingshu_model.wire import ArmRequest, Catalogue, Cells

GOLDEN = Path(__file__).parent / "golden" / "figures.json"
Figure = list[float | str | None]
Sample = Callable[[ArmRequest], Cells]


def one_context(request: ArmRequest) -> Cells:
    target = request.interventions[0].target if request.interventions else CONTROL
    name = CONTROL if target.startswith("sham") else target
    seed = request.seed * 1000 + sum(map(ord, target))
    return Cells(Truth().cells(name, request.n_cells, seed), np.ones(len(GENES), bool))


def several_contexts(request: ArmRequest) -> Cells:
    wanted = request.context, request.interventions, request.n_cells, request.seed
    return Cells(*made_contexts.asked(*wanted))


def measured(folder: Path, checkpoint: Path, sample: Sample, peer: bool) -> dict[str, Figure]:
    module = SimpleNamespace(
        Sampler=SimpleNamespace(
            load=lambda *_, **__: SimpleNamespace(profile=lambda: {"device": "synthetic"})
        ),
        sample_arm=lambda _sampler, request, _workers=1: sample(request),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "lingshu_model.sampler", module)
        patch.setattr(lingshu_model, "sampler", module, raising=False)
        patch.setitem(distribution.compare_distributions.__kwdefaults__, "splits", 4)
        patch.setattr(effects, "DRAWS", 60)
        patch.setattr(effects, "MC_DRAWS", 40)
        patch.setattr(response, "SPLITS", 4)
        loaded = Catalogue([checkpoint.parent]).load(checkpoint.name)
        store = ArmStore(loaded, folder / "arms", n_cells=60, steps=3, guidance=0.0)
        study = load_study(loaded, folder, None)
        arms = (
            [
                {
                    name: store.counts(study.conditions[name], 70 + seed, n=n)
                    for name, n in study.sizes(60).items()
                }
                for seed in range(2)
            ]
            if peer
            else []
        )
        asked = Asked(
            Peers({"other": arms} if peer else {}), {"RAISED": ["ISG15", "G1", "G2", "NOWHERE"]}
        )
        report = make_report(store, study, [0, 1], lambda: None, asked)
        head = {"settings": {"n_cells": 60, "steps": 3}}
        return dict(figures(evidence(report, head)))


def key(*words: object) -> str:
    return " | ".join(map(str, words))


def figure(value: Any) -> Figure:
    low, high = value["interval"]
    return [value["value"], low, high]


def figures(found: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    for tier, each in found["tiers"].items():
        if each:
            yield from of_tier(tier, each)
    groups = found["distribution"]["groups"]
    for group, metrics in groups.items():
        for metric, row in metrics.items():
            for source, value in row.items():
                if isinstance(value, dict) and "value" in value:
                    yield key(metric, group, source), figure(value)
            for source, verdict in row["verdicts"].items():
                yield key(metric, group, source, "verdict"), [verdict]
    for pool, metrics in found["distribution"]["per_pool"].items():
        for metric, value in metrics.items():
            yield key(metric, "pool", pool, "model"), [value]
    for found_in, each in found["composition"].items():
        for name in ("recognised", "markers"):
            for source, types in each[name].items():
                for kind, value in types.items():
                    yield key(name, found_in, kind, source), [value]
        for source, value in each["distance"].items():
            yield key("composition_distance", found_in, source), [value]
    for i, (source, check) in enumerate(
        zip(found["copies"]["sources"], found["copies"]["per_seed"], strict=True)
    ):
        yield key("copies", source, i % 2, "n"), [check["n_cells"], check["n_measured"]]
        yield key("copies", source, i % 2, "p"), [*(v for _, v in sorted(check["p"].items()))]
        for kind in ("real", "sampled", "training"):
            for distance, quantiles in check["distance_quantiles"].items():
                yield key("copies", source, i % 2, kind, distance), quantiles[kind]
    yield "null labels", found["sham"]["magnitudes"]


def of_tier(tier: str, found: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    tables = {"": found["table"], **found.get("other_sources", {})}
    for source, rows in tables.items():
        for row in rows:
            yield from of_row((tier, source, row["set"], row["predictor"]), row)
    for name, row in found["per_perturbation"].items():
        yield key("per perturbation", tier, name), [row["pearson"], *row["interval"]]
        for column in ("reference", "bound", "magnitude_ratio"):
            yield key(column, tier, name), [row[column]]
        counts = ("n_test_cells", "n_test_control_cells", "n_train_cells")
        yield key("cells", tier, name), [row[n] for n in counts]
    for name, values in zip(found["residuals"]["names"], found["residuals"]["values"], strict=True):
        yield key("residuals", tier, name), values
    headline = found["headline"]
    yield key("headline", tier), [headline["set"], *headline["verdicts"].values()]
    for name, each in found.get("responses", {}).items():
        yield from of_response(tier, name, each)


def of_row(where: tuple[str, ...], row: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    yield key("pearson_of_change", *where), figure(row["pearson"])
    yield key("noise_ceiling", *where[:3]), [row["bound"]]
    for seed in row["seeds"]:
        yield key("pearson_of_change", *where, seed["seed"]), figure(seed)
    if row["difference"]:
        yield key("difference", *where), [*figure(row["difference"]), row["verdict"]]
    if row["monte_carlo"]:
        yield key("monte_carlo", *where), figure(row["monte_carlo"])
    if row["magnitude_ratio"]:
        yield key("magnitude_ratio", *where), figure(row["magnitude_ratio"])


def of_response(tier: str, name: str, found: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    for metric, row in found["figures"]["held-out control cells"]["figures"].items():
        where = (metric, tier, name)
        if not metric.startswith("overlap"):
            yield key("noise_ceiling", *where), [row["bound"]]
        yield key(*where, "model"), figure(row["model"])
        yield key("monte_carlo", *where), figure(row["monte_carlo"])
        half = row["half"]
        yield key(*where, "half"), [*figure(half), half["verdict"]]
        yield key(*where, "model at half"), figure(half["model_at_half"])
        yield key(*where, "model - half"), figure(half["difference"])
        for baseline, value in row["baselines"].items():
            yield key(*where, baseline), [*figure(value), value["verdict"]]
            yield key(*where, "model - " + baseline), figure(value["difference"])
    for metric, row in found["cells"].items():
        if metric != "n_cells":
            for source, value in row.items():
                yield key("cells", metric, name, source), [*figure(value), value["verdict"]]
    for title, row in found["sets"].items():
        yield key("set", title, name, "real"), [row["real"]["value"]]
        yield key("set", title, name, "model"), [row["model"]["value"]]
        for baseline, value in row["baselines"].items():
            yield key("set", title, name, baseline), [value]


def all_figures(folder: Path) -> dict[str, dict[str, Figure]]:
    from test_command import _checkpoint, _data

    first, second = folder / "first", folder / "second"
    first.mkdir()
    _data(first)
    made_contexts.write_data(second)
    return {
        "one context": measured(first, _checkpoint(first), one_context, peer=False),
        "several contexts": measured(
            second, made_contexts.write_checkpoint(second), several_contexts, peer=True
        ),
    }


def rounded(figures: dict[str, Figure]) -> dict[str, Figure]:
    return {
        name: [
            v if not isinstance(v, float) else float(f"{v:.9g}") if math.isfinite(v) else None
            for v in values
        ]
        for name, values in figures.items()
    }


def test_every_figure_is_what_it_was(tmp_path: Path):
    golden = json.loads(GOLDEN.read_text("utf-8"))
    for name, found in all_figures(tmp_path).items():
        assert_equal(rounded(found), golden[name])


def assert_equal(found: dict[str, Figure], golden: dict[str, Figure]) -> None:
    assert not golden.keys() - found.keys()
    for name, values in golden.items():
        assert len(found[name]) == len(values), name
        for mine, theirs in zip(found[name], values, strict=True):
            if isinstance(theirs, float | int):
                assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-9), name
            else:
                assert mine == theirs, name


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        every = {n: rounded(f) for n, f in all_figures(Path(scratch)).items()}
    GOLDEN.write_text(
        "{\n"
        + ",\n".join(
            f" {json.dumps(n)}: {{\n"
            + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in f.items())
            + "\n }"
            for n, f in every.items()
        )
        + "\n}\n",
        "utf-8",
    )
