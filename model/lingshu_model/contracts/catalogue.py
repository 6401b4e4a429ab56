"""Checkpoint folders read without torch: what a checkpoint knows, and that its files are intact.

A checkpoint is a folder `NAME/` with `config.json`, `panel.json`, `*.safetensors`, `evidence.json`,
`fitness.json` and `card.md`; the digests of its files are pinned beside it, in `NAME.digests.json`.
A checkpoint that was written anew since it was read is read again.

Format 2 stores effects (`lingshu_model.contracts.effects`) and moves cells by them. Format 1 has
effect offsets within the network's weights instead; it is read and sampled as it always was.
Format 3 is format 2 with strengths of single cells (`lingshu_model.contracts.responders`).
"""

import base64
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from lingshu_model.contracts.canonical import digest_file, digest_json
from lingshu_model.contracts.checkpoint_files import (
    CheckpointError,
    parse_config,
    parse_panel,
    read_pins,
)
from lingshu_model.contracts.effects import (
    GENES,
    ROWS,
    Identity,
    StoredEffects,
    entry_identity,
    identity,
)
from lingshu_model.contracts.error_model import gene_variance
from lingshu_model.contracts.messages import Intervention
from lingshu_model.system.durable import write_durably
from lingshu_model.system.lazy import Lazy

OFFSETS_FORMAT = "lingshu-checkpoint-1"
"""Effects as offsets in the network's weights (`tilt.theta`)."""
EFFECTS_FORMATS = ("lingshu-checkpoint-2", "lingshu-checkpoint-3")
"""Stored effects without additional dispersion; 3 has conditions of several strengths."""
FORMAT = "lingshu-checkpoint-4"
"""Stored effects, written by this version."""
FORMATS = (OFFSETS_FORMAT, *EFFECTS_FORMATS, FORMAT)
MODELS = "models"
"""The folder of a home in which its own checkpoints are."""
SHIPPED = Path(__file__).parent.parent / "checkpoints"
MOST_CAVEATS, MOST_CAVEAT = 3, 200
"""Caveats of a checkpoint, and characters of each."""
NO_REPLICATES = "No replicates named: cells count as independent."
"""Caveat of every answer from cells whose replicates are not known."""
Tier = Literal["seen", "seen_elsewhere", "combination_of_seen", "unseen"]
# What the checkpoint digest covers: everything that decides a sampled count. The evidence and the
# card are pinned too, but may be rewritten without making the old experiments another model's.
_IDENTITY = ("config.json", "panel.json")
_IDENTITY_TABLES = ("model", "effects-", "pool-")
_PINS = ".digests.json"
# Seconds for which a mismatch may be a replacement under way, and between two looks at it.
_REPLACING_S, _REPLACING_PAUSE_S = 1.0, 0.05
# Modification time in ns, inode and bytes of the pins file.
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Support:
    """What a checkpoint has seen of one (context, perturbation).

    `n_cells` counts training cells of exactly that condition; 0 where the tier is not `seen`.
    """

    tier: Tier
    n_cells: int
    note: str


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder whose JSON files match their pinned digests."""

    name: str
    path: Path
    digest: str
    config: Mapping[str, Any]
    pinned: Mapping[str, str]

    @Lazy
    def panel(self) -> list[str]:
        """Gene symbols in panel order."""
        return [gene["symbol"] for gene in self.panel_entries]

    @Lazy
    def panel_entries(self) -> list[dict[str, Any]]:
        """Panel rows: `symbol`, `ensembl` (or None), `aliases`, `previous`."""
        return parse_panel(self._json("panel.json"), self.path / "panel.json")

    @Lazy
    def panel_digest(self) -> str:
        """The digest of the ordered gene list alone."""
        return digest_json(self.panel)

    @Lazy
    def evidence(self) -> dict[str, Any]:
        """Held-out figures by support tier; empty where none were measured."""
        return self._json("evidence.json") if "evidence.json" in self.pinned else {}

    @property
    def caveats(self) -> list[str]:
        """Sentences that hold for every answer from it.

        Those of its training specification, and that no replicates were named, if so.
        """
        training = self.config.get("training")
        written = training.get("caveats") if isinstance(training, dict) else None
        sentences = written if isinstance(written, list) else []
        # A file may come from elsewhere: no more is quoted than a specification may hold.
        quoted = [s[:MOST_CAVEAT] for s in sentences if isinstance(s, str) and s][:MOST_CAVEATS]
        return quoted if self._replicated else [*quoted, NO_REPLICATES]

    @property
    def _replicated(self) -> bool:
        """Whether replicates are named, or an effect is of several, or none is of cells."""
        training = self.config.get("training")
        named = isinstance(training, dict) and bool(training.get("replicate"))
        # What one replicate in an arm leaves open, the specification's caveats say.
        if named or self.effects is None:
            return True
        # Null labels are of control cells, which are split without regard to replicates.
        counted = [
            row["replicates"]
            for row in self.effects.rows
            if row["n_cells"][0] and all(i["kind"] != "sham" for i in row["interventions"])
        ]
        return not counted or max(counted) > 1

    @Lazy
    def gene_variance(self) -> NDArray[np.float64]:
        """Each gene's variance between cells, [genes]; 0 where the evidence has none."""
        return gene_variance(self.evidence, len(self.panel))

    @Lazy
    def targets(self) -> dict[str, list[str]]:
        """The trained targets of each intervention kind, sorted, null labels included."""
        by_kind: dict[str, set[str]] = {}
        for entry in self.config["seen"]:
            for record in entry["interventions"]:
                by_kind.setdefault(record["kind"], set()).add(record["target"])
        return {kind: sorted(names) for kind, names in sorted(by_kind.items())}

    @Lazy
    def reference(self) -> dict[str, NDArray[np.float64]]:
        """Summaries of the training cells, one row per entry of `config["seen"]`.

        `mean_count` and `mean_log1p_cp10k` [conditions, genes], `library_quantiles` [conditions, 5]
        (5, 25, 50, 75, 95 %), `zero_rate` [conditions]; NaN where a gene was not measured.
        """
        result = load_file(self.verify_file("reference.safetensors"))
        return {name: array.astype(np.float64) for name, array in result.items()}

    @Lazy
    def effects(self) -> StoredEffects | None:
        """The stored effects; None in a checkpoint of format 1."""
        if "effects" not in self.config:
            return None
        stored = self.config["effects"]
        # The summaries have a row per condition, effects a control row per context: paired by
        # context.
        rows = {_context_key(e["context"]): i for i, e in self._controls()}
        means = self.reference["mean_log1p_cp10k"]
        controls = [means[rows[_context_key(c["context"])]] for c in stored["contexts"]]
        empty = np.zeros((0, len(self.panel)))
        return StoredEffects(
            stored,
            self.panel,
            np.stack(controls) if controls else empty,
            self.tables(ROWS),
            self.tables(GENES),
        )

    @property
    def delivery(self) -> str | None:
        """How cells of a perturbation come about; None = by effect offsets in the network."""
        return self.config.get("delivery")

    @Lazy
    def fitness(self) -> dict[str, Any]:
        """What the check at the end of training found; empty where there was none."""
        return self._json("fitness.json") if "fitness.json" in self.pinned else {}

    def unfit(self, context: Mapping[str, str], interventions: Iterable[Intervention]) -> list[str]:
        """Return why sampled cells of a condition do not deliver its effect; empty = they do.

        A combination is unfit where one of its parts is.
        """
        # It is gone through twice, and may be a generator.
        interventions = tuple(interventions)
        wanted = [identity(interventions), *(identity((item,)) for item in interventions)]
        return [
            reason
            for entry in self.fitness.get("conditions", [])
            if entry["context"] == dict(context) and entry_identity(entry) in wanted
            for reason in entry["reasons"]
        ]

    def tables(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the tensors of the files `PREFIX-NN.safetensors`, put together along axis 0."""
        # Parts are numbered, so sorting by name keeps the rows of the whole table in order.
        names = sorted(n for n in self.pinned if n.startswith(f"{prefix}-"))
        parts = [load_file(self.verify_file(name)) for name in names]
        joined = {
            key: [part[key] for part in parts if key in part] for part in parts for key in part
        }
        return {
            key: arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            for key, arrays in joined.items()
        }

    def _controls(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        return ((i, e) for i, e in enumerate(self.config["seen"]) if not e["interventions"])

    @property
    def contexts(self) -> list[dict[str, str]]:
        """The contexts it was trained on."""
        return [dict(entry["context"]) for entry in self.config["contexts"]]

    def nearest(self, context: Mapping[str, str]) -> Mapping[str, Any]:
        """Return the entry of `config["contexts"]` that shares the most fields with `context`."""
        entries = self.config["contexts"]
        # Of equally near contexts the first in the file: max keeps the first.
        return max(entries, key=lambda e: len(e["context"].items() & context.items()))

    def measured(self, context: Mapping[str, str]) -> NDArray[np.bool_]:
        """Return which genes cells of a context have a count of, bool [genes].

        A context never trained on measures what the nearest one does.
        """
        name = self.nearest(context).get("measured", "all")
        if name == "all":
            return np.ones(len(self.panel), bool)
        return unpack_genes(self.config["measured_sets"][name], len(self.panel))

    def measure_alike(self, contexts: Iterable[Mapping[str, str]]) -> bool:
        """Return whether cells of these contexts have counts of the same genes."""
        trained = {_context_key(entry["context"]): entry for entry in self.config["contexts"]}
        names: dict[str, Mapping[str, str]] = {}
        for context in contexts:
            entry = trained.get(_context_key(context)) or self.nearest(context)
            names.setdefault(entry.get("measured", "all"), context)
        # Sets of two names may be equal. There are few of them, and thousands of contexts.
        return len({self.measured(context).tobytes() for context in names.values()}) <= 1

    def depth_quantiles(
        self, context: Mapping[str, str], interventions: Iterable[Intervention]
    ) -> NDArray[np.float64]:
        """Return evenly spaced quantiles of ln UMI per cell, of training cells of a condition.

        Where there were none, those of the context's control cells, or of the nearest context's,
        moved by as much as the same interventions moved the depth of other contexts.
        """
        wanted = identity(interventions)
        result = self._depths(dict(context), wanted)
        # ln UMI throughout, so a change of depth is added, and depth itself scales.
        if result is None:
            result = self._depths(dict(context), ())
            if result is None:
                result = self._depths(self.nearest(context)["context"], ())
            if result is not None:
                result = result + self._deeper(wanted)
        if result is None:
            message = f"{self.path} says nothing of how deep cells of {dict(context)} are"
            raise CheckpointError(message)
        return result

    def _depths(
        self, context: Mapping[str, str], identity_: Identity
    ) -> NDArray[np.float64] | None:
        entry = self._conditions.get((_context_key(context), identity_))
        return None if entry is None else np.array(entry["depth_quantiles"])

    @Lazy
    def _conditions(self) -> dict[tuple[tuple[tuple[str, str], ...], Identity], Mapping[str, Any]]:
        """The entries of `config["seen"]` by context and perturbation; of equal ones the first."""
        entries = reversed(self.config["seen"])
        return {(_context_key(e["context"]), entry_identity(e)): e for e in entries}

    def _deeper(self, identity_: Identity) -> float:
        """Return the mean change of ln UMI under interventions, over the training cells of them."""
        total, cells = 0.0, 0
        for entry in self.config["seen"]:
            if identity_ and entry_identity(entry) == identity_:
                control = self._depths(entry["context"], ())
                if control is not None:
                    # Quantiles are evenly spaced, so their mean is the mean of ln UMI.
                    moved = float(np.mean(entry["depth_quantiles"]) - control.mean())
                    total, cells = total + moved * entry["n_cells"], cells + entry["n_cells"]
        return total / max(cells, 1)

    def seen(self, context: Mapping[str, str], interventions: Iterable[Intervention]) -> int:
        """Training cells of exactly this condition; 0 when it was never trained on."""
        wanted = identity(interventions)
        return sum(
            entry["n_cells"]
            for entry in self.config["seen"]
            if entry["context"] == dict(context) and entry_identity(entry) == wanted
        )

    def support(self, context: Mapping[str, str], interventions: Iterable[Intervention]) -> Support:
        """Return what was seen of a condition, in the design's four tiers."""
        interventions = tuple(interventions)
        count = self.seen(context, interventions)
        if count:
            return Support("seen", count, f"{count} training cells of this condition")
        wanted = identity(interventions)
        elsewhere = [e["context"] for e in self.config["seen"] if entry_identity(e) == wanted]
        # A context without training cells is `unseen`, wherever else the perturbation was seen.
        if elsewhere and dict(context) in self.contexts:
            return Support("seen_elsewhere", 0, f"seen in {len(elsewhere)} other contexts")
        singles = [self.seen(context, (item,)) for item in interventions]
        if len(singles) > 1 and all(singles):
            return Support(
                "combination_of_seen", 0, "each intervention was seen alone, not together"
            )
        return Support("unseen", 0, "never trained on: an extrapolation")

    def verify_file(self, name: str) -> Path:
        """Return the path of one file of the folder after checking its bytes against the pin."""
        expected = self.pinned.get(name)
        if expected is None:
            message = f"{self.path / name} has no pinned digest in {self.name}.digests.json"
            raise CheckpointError(message)
        return _verify(self.path / name, expected)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads(self.verify_file(name).read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            message = f"{self.path / name} cannot be read ({error}): copy the checkpoint again"
            raise CheckpointError(message) from error


class Catalogue:
    """The checkpoints under a list of folders; of one name, that of the first folder counts."""

    def __init__(self, roots: Iterable[Path] | None = None, *, home: Path | None = None) -> None:
        """Look under `roots`.

        By default: the folders in `LINGSHU_CHECKPOINTS` (a path list), those added to `home`, the
        shipped ones.
        """
        extra = os.environ.get("LINGSHU_CHECKPOINTS", "")
        added = [home / MODELS] if home else []
        # The order is that of preference: of one name the first folder counts.
        default = [*(Path(p) for p in extra.split(os.pathsep) if p), *added, SHIPPED]
        self.roots = tuple(default if roots is None else roots)
        self._read: dict[Path, tuple[_Stamp, Checkpoint]] = {}

    def names(self) -> list[str]:
        """Names of all checkpoints with pinned digests, sorted."""
        return sorted({_name_of(path) for path in self._pins()})

    def load(self, name: str) -> Checkpoint:
        """Return a checkpoint by name; its weights are verified by their reader.

        Raises:
            CheckpointError: no such name (the known ones are listed), or a file that is missing,
                truncated or changed (its name and both digests are given).
        """
        for pins in self._pins():
            if _name_of(pins) == name:
                return self._at(pins)
        message = f"no checkpoint {name!r}; there are {', '.join(self.names()) or 'none'}"
        raise CheckpointError(message)

    def find(self, name: str, digest: str) -> Checkpoint:
        """Return the checkpoint of a digest, under its name or any other.

        Raises:
            CheckpointError: there is none; what is there under the name is said.
        """
        intact = dict(self._intact())
        # sorted is stable: folders under the name first, then all others in the order of the roots.
        ordered = sorted(intact, key=lambda pins: _name_of(pins) != name)
        for pins in ordered:
            if intact[pins].digest == digest:
                return intact[pins]
        there = [f"{c.digest} in {c.path}" for p, c in intact.items() if _name_of(p) == name]
        if there:
            result = f"the checkpoint {name!r} is {' and '.join(there)}"
        elif name in self.names():
            self.load(name)  # says what is damaged
            result = f"the checkpoint {name!r} was changed meanwhile"
        else:
            result = f"no checkpoint {name!r}; there are {', '.join(self.names()) or 'none'}"
        roots = ", ".join(map(str, self.roots))
        message = (
            f"{result}, and the request asks for {digest!r}. Put the folder with that digest and "
            f"its NAME.digests.json under one of {roots}, name its parent in LINGSHU_CHECKPOINTS, "
            "or ask again for one that is there"
        )
        raise CheckpointError(message)

    def digests(self) -> dict[str, str]:
        """Return name to digest of the checkpoints that can be read; damaged ones are left out."""
        result: dict[str, str] = {}
        for pins, checkpoint in self._intact():
            result.setdefault(_name_of(pins), checkpoint.digest)
        return result

    def _intact(self) -> Iterator[tuple[Path, Checkpoint]]:
        for pins in self._pins():
            # A damaged checkpoint must not hide the intact ones beside it.
            with suppress(CheckpointError):
                yield pins, self._at(pins)

    def _at(self, pins: Path) -> Checkpoint:
        try:
            # Before the reading: pins that are replaced meanwhile get another stamp, and are read
            # again.
            status = pins.stat()
            stamp = status.st_mtime_ns, status.st_ino, status.st_size
            known = self._read.get(pins)
            if known and known[0] == stamp:
                return known[1]
        except OSError as error:
            message = f"{pins} cannot be read ({error!r}): train or copy the checkpoint again"
            raise CheckpointError(message) from error
        pinned = read_pins(pins)
        path = pins.parent / _name_of(pins)
        try:
            # Tables are verified by their readers, at first use: many requests need none of them.
            file = _verify(path / "config.json", pinned["config.json"])
        except CheckpointError:
            # One that is replaced just now: its folder and its pins take two steps.
            if not _is_new(path, pins):
                raise
            time.sleep(_REPLACING_PAUSE_S)
            return self._at(pins)
        config = parse_config(file, FORMATS)
        checkpoint = Checkpoint(path.name, path, identity_digest(pinned), config, pinned)
        self._read[pins] = stamp, checkpoint
        return checkpoint

    def _pins(self) -> Iterator[Path]:
        # Lazily, root by root: a name that an earlier folder has never needs a later one to be
        # readable.
        for root in self.roots:
            try:
                yield from sorted(root.glob(f"*{_PINS}"))
            except OSError as error:
                # Such as a home of another user. A folder that is not there has no checkpoints.
                message = (
                    f"the folder of checkpoints {root} cannot be read ({error.strerror}): make it "
                    "readable, take it out of LINGSHU_CHECKPOINTS, or set LINGSHU_HOME to a folder "
                    "of this user"
                )
                raise CheckpointError(message) from error


def identity_digest(pinned: Mapping[str, str]) -> str:
    """Return the checkpoint digest: over the files that decide a count, weights included."""
    return digest_json(
        {n: d for n, d in pinned.items() if n in _IDENTITY or n.startswith(_IDENTITY_TABLES)}
    )


def pin(path: Path) -> Path:
    """Write `NAME.digests.json` beside the folder `path` and return its path."""
    files = {p.name: digest_file(p) for p in sorted(path.iterdir()) if p.is_file()}
    target = path.parent / f"{path.name}.digests.json"
    text = json.dumps({"checkpoint": identity_digest(files), "files": files}, indent=1)
    write_durably(target, f"{text}\n".encode())
    return target


def pack_genes(mask: NDArray[np.bool_]) -> str:
    """Return a set of panel genes as text: one bit a gene, in order, base64."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode()


def unpack_genes(text: str, genes: int) -> NDArray[np.bool_]:
    """Return the set that `pack_genes` wrote, bool [genes]."""
    packed = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(packed, count=genes).astype(bool)


def _is_new(*paths: Path) -> bool:
    """Return whether one of these was put there within the last moment."""
    # ctime, since a copied or moved file may keep its old mtime.
    changed = [path.stat().st_ctime for path in paths if path.exists()]
    # A time in the future, after a clock was set back, would count as new without end.
    return any(0 <= time.time() - moment < _REPLACING_S for moment in changed)


def _name_of(pins: Path) -> str:
    return pins.name.removesuffix(_PINS)


def _verify(path: Path, expected: str) -> Path:
    if not path.is_file():
        message = f"{path} is missing; its pinned digest is {expected}"
        raise CheckpointError(message)
    result = digest_file(path)
    if result != expected:
        message = f"{path} is {result}, but its pinned digest is {expected}: do not use it"
        raise CheckpointError(message)
    return path


def _context_key(context: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(context.items()))
