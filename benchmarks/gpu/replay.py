"""Tiles of a trained network in this process and another: equal to the bit, or another profile."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import load_file

from benchmarks.speed.samplers import arm_of, timed_sampler
from lingshu_model.contracts import digest_json
from lingshu_model.network import numerics
from lingshu_model.network.cell_network import Network
from lingshu_model.network.config import PRESETS
from lingshu_model.network.vocabulary import Vocabulary
from lingshu_model.sampling.sampler import Sampler
from lingshu_tools.system.interpreter import output_of

STEPS, GUIDANCE = 3, 2.0


@dataclass(frozen=True)
class Tiles:
    """Which tiles are sampled of which network.

    Attributes:
        network: a preset.
        genes: of the panel.
        tile: cells of a tile.
        number: of tiles.
        device: of torch.
        compiled: mode of torch.compile; None = not compiled.
        weights: a file of the network's weights.
    """

    network: str
    genes: int
    tile: int
    number: int
    device: str
    compiled: str | None
    weights: str


@dataclass(frozen=True)
class Sampled:
    """Digests and speed of sampled tiles.

    Attributes:
        cells: digest of the counts of every tile, in order of the tiles.
        profile_digest: of the numerics profile.
        cells_per_s: of all tiles after the first.
        mean_umi: of a cell.
    """

    cells: list[str]
    profile_digest: str
    cells_per_s: float
    mean_umi: float


def sampled_here(tiles: Tiles, *, backwards: bool = False) -> Sampled:
    """Return the tiles, sampled in this process; with `backwards` the last one first."""
    sampler = _sampler(tiles)
    arm = arm_of(sampler.checkpoint, STEPS, GUIDANCE)
    # Not timed: the first step that all tiles share, and whatever is compiled.
    sampler.sample_tile(arm, tiles.number)
    order = range(tiles.number)
    began, total = time.perf_counter(), 0
    digests = dict[int, str]()
    for index in reversed(order) if backwards else order:
        counts = sampler.sample_tile(arm, index)
        digests[index] = hashlib.sha256(counts.tobytes()).hexdigest()
        total += int(counts.sum())
    cells = tiles.number * tiles.tile
    rate = cells / (time.perf_counter() - began)
    profile = digest_json(sampler.profile())
    return Sampled([digests[i] for i in order], profile, rate, total / cells)


def sampled_in_a_child(tiles: Tiles) -> Sampled:
    """Return the tiles, sampled in a separate process, the last one first."""
    line = ["-m", "benchmarks.gpu", "child", json.dumps(asdict(tiles))]
    return Sampled(**json.loads(output_of(line).splitlines()[-1]))


def _sampler(tiles: Tiles) -> Sampler:
    numerics.prepare(1)
    checkpoint = timed_sampler(
        tiles.network, genes=tiles.genes, steps=STEPS, guidance=GUIDANCE, tile=tiles.tile
    )
    vocabulary = Vocabulary.from_config(checkpoint.config, checkpoint.panel)
    shape = PRESETS[tiles.network].without_offsets()
    network = Network(shape, tiles.genes, vocabulary.sizes)
    network.load_state_dict(load_file(tiles.weights))
    where = torch.device(tiles.device)
    dtype = numerics.choose_dtype("auto", where)
    return Sampler(checkpoint, network.eval().to(where), vocabulary, dtype, tiles.compiled)
