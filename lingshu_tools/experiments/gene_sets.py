"""Collections of gene sets: Hallmark and Reactome as shipped, or a GMT file of the user.

Licences and sources: `gene_set_files/LICENCES.md`.
"""

import io
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lingshu_model.contracts import Checkpoint
from lingshu_tools.errors import InputError, quoted
from lingshu_tools.ledger import digest_bytes

SHIPPED: Mapping[str, str] = {
    "hallmark": "MSigDB Hallmark (Liberzon 2015, CC BY 4.0)",
    "reactome": "Reactome (CC0)",
}
"""Names of the collections that are shipped, and what is quoted with them."""
LARGEST_FILE = 50_000_000
_FOLDER = Path(__file__).parent / "gene_set_files"


@dataclass(frozen=True)
class GeneSets:
    """A collection.

    Attributes:
        name: of the collection, or of the file.
        digest: sha256 of its text.
        sets: gene names by the name of the set, in the order of the file.
    """

    name: str
    digest: str
    sets: Mapping[str, tuple[str, ...]]


def read_collection(source: str) -> GeneSets:
    """Return a shipped collection by its name, or the sets of a GMT file.

    Raises:
        InputError: the file cannot be read, is too large, or a line is no gene set.
    """
    if source in SHIPPED:
        return _parsed(SHIPPED[source], lzma.decompress(_shipped(source).read_bytes()))
    path = Path(source)
    try:
        # Looked at first, so that a file too large is not read.
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST_FILE else b""
    except OSError as error:
        message = f"{quoted(source)} cannot be read: {error.strerror}"
        raise InputError(message) from error
    if size > LARGEST_FILE:
        message = f"{quoted(source)} has {size:,} bytes; at most {LARGEST_FILE:,} are read"
        raise InputError(message)
    return _parsed(path.name, content)


def genes_by_name(checkpoint: Checkpoint) -> dict[str, int]:
    """Return panel positions by symbol, Ensembl id, previous symbol and alias, case folded.

    A symbol wins over older names; an older name of several genes is left out.
    """
    places: dict[str, int] = {}
    # Kind by kind, so that `setdefault` lets the earlier win.
    for kind in ("symbol", "ensembl", "previous", "aliases"):
        new: dict[str, set[int]] = {}
        for place, entry in enumerate(checkpoint.panel_entries):
            value = entry.get(kind) or []
            for name in [value] if isinstance(value, str) else value:
                new.setdefault(name.casefold(), set()).add(place)
        for name, several in new.items():
            if len(several) == 1:
                places.setdefault(name, *several)
    return places


def _shipped(name: str) -> Path:
    return _FOLDER / f"{name}.gmt.xz"


def _parsed(name: str, content: bytes) -> GeneSets:
    try:
        # Without a byte order mark, which would become part of the first name.
        # Lines end with \n, \r\n or \r; other separators may stand in a description.
        text = io.StringIO(content.decode("utf-8-sig"), newline=None)
    except UnicodeDecodeError as error:
        message = f"{quoted(name)} is no text in UTF-8 ({error.reason}); give a GMT file"
        raise InputError(message) from error
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        title, *rest = (part.strip() for part in line.split("\t"))
        # Each gene once; the second field is a description.
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not title or not genes:
            message = (
                f"{quoted(name)}, line {number}: {quoted(line[:80])} is no gene set. A GMT line is "
                "name, description and genes, separated by tabs"
            )
            raise InputError(message)
        if title in sets:
            message = f"{quoted(name)}, line {number}: there is a set {quoted(title)} before"
            raise InputError(message)
        sets[title] = genes
    if not sets:
        message = f"{quoted(name)} has no gene set"
        raise InputError(message)
    return GeneSets(name, digest_bytes(content), sets)
