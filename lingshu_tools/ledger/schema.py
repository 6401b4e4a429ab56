"""The ledger's tables: insert-only, each row a link of one hash chain.

Every table of `metadata` shares the chain's `seq`, so one counter orders all that ever happened,
and a table needs no link columns of its own. A column added later is NULL in old rows, and the hash
leaves NULL out, so widening a table never changes an old hash. Written for SQLite and PostgreSQL
alike.
"""

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from lingshu_tools.ledger.migrations import BASELINE, TAGS

FORMAT = "lingshu-ledger-1"

_names = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
metadata = MetaData(naming_convention=_names)
derived = MetaData(naming_convention=_names)
"""Outside the chain and the hash contract: `derived.py` makes its rows from the others."""
# STRICT tables take SQLite's own type names only; PostgreSQL's INTEGER and REAL are too narrow.
_integer = BigInteger().with_variant(Integer(), "sqlite")
_real = Double().with_variant(REAL(), "sqlite")


def _text(name: str, comment: str, *rules: ForeignKey, null: bool = False, unique: bool = False):
    return Column(name, Text, *rules, comment=comment, nullable=null, unique=unique or None)


def _integers(name: str, comment: str, *, null: bool = False) -> Column[int]:
    return Column(name, _integer, comment=comment, nullable=null)


def _created() -> Column[Any]:
    return _text("created_at", "When the row was made, UTC, ISO 8601 with microseconds.")


chain = Table(
    "chain",
    metadata,
    Column("seq", _integer, primary_key=True, autoincrement=False, comment="1, 2, 3 … no gaps."),
    _text("kind", "The table that holds the row with this seq."),
    _text("row_hash", "Digest of that row: see docs/file-format.md."),
    _text("hash", "Digest of the previous hash, seq and row_hash: the head, while it is newest."),
    sqlite_strict=True,
)


def _table(name: str, *columns: Any) -> Table:
    seq = Column(
        "seq",
        _integer,
        ForeignKey(chain.c.seq),
        primary_key=True,
        autoincrement=False,
        comment="Its link in the chain.",
    )
    return Table(name, metadata, seq, *columns, sqlite_strict=True)


ledger = _table(
    "ledger",
    _text("id", "Random; names this ledger among others.", unique=True),
    _text("format", "What the rest of the file follows."),
    _created(),
)
server = _table(
    "server",
    _text("id", "`srv_…`: one process that attempts experiments.", unique=True),
    _integers("pid", "Its process id, on its host."),
    _text("host", "Its host's name."),
    _text("boot", "The host's boot id; empty where the platform has none."),
    _text("versions", "Versions of Python, SQLite and this library, as JSON."),
    _created(),
)
environment = _table(
    "environment",
    _text("digest", "Digest of the document.", unique=True),
    _text("document", "What outcomes were computed on, as canonical JSON."),
    _created(),
)
screen = _table(
    "screen",
    _text("id", "`scr_…`", unique=True),
    _text("plan", "The plan, as canonical JSON."),
    _text("digest", "Digest of the plan."),
    _text("principal", "Who recorded it."),
    _created(),
    Index(None, "digest", "seq"),
)
experiment = _table(
    "experiment",
    _text("id", "`exp_…`", unique=True),
    _text("tool", "The tool that was called."),
    _text("request", "The resolved request, as canonical JSON."),
    _text("request_digest", "Digest of the request."),
    _text("checkpoint", "Name of the checkpoint."),
    _text("checkpoint_digest", "Digest of what decides its counts."),
    _text("panel_digest", "Digest of its ordered gene list."),
    _integers("seed", "Key of its random streams."),
    _text("context", "The context as text, to filter by; NULL where there is none.", null=True),
    _text("perturbation", "The perturbation as text; NULL for control or many.", null=True),
    _text("principal", "Who asked."),
    _text("door", "Through what: mcp, cli or python."),
    _text("client_key", "The client's idempotency key; NULL where it gave none.", null=True),
    _text("parent", "Its screen, or what it replays; NULL where neither.", null=True),
    _integers("position", "Its place in its screen, from 0; NULL outside one.", null=True),
    _created(),
    UniqueConstraint("principal", "client_key"),
    CheckConstraint("door IN ('mcp', 'cli', 'python')", name="door"),
    *(
        Index(None, column, "seq")
        for column in ("tool", "checkpoint", "context", "perturbation", "parent", "request_digest")
    ),
)
attempt = _table(
    "attempt",
    _text("id", "`att_…`", unique=True),
    _text("experiment_id", "What it works on.", ForeignKey(experiment.c.id)),
    _text("server_id", "Who works on it.", ForeignKey(server.c.id)),
    _created(),
    Index(None, "experiment_id"),
)
cancellation = _table(
    "cancellation",
    _text("experiment_id", "What is to stop.", ForeignKey(experiment.c.id), unique=True),
    _text("principal", "Who asked for it."),
    _created(),
)
artifact = _table(
    "artifact",
    _text("digest", "Digest of its bytes, and its name in the object store.", unique=True),
    _integers("size", "Bytes."),
    _created(),
)
outcome = _table(
    "outcome",
    _text("experiment_id", "What it seals, once.", ForeignKey(experiment.c.id), unique=True),
    _text(
        "attempt_id",
        "The attempt that ended so; NULL for an experiment cancelled while nobody was at it.",
        ForeignKey(attempt.c.id),
        null=True,
    ),
    _text("kind", "succeeded, failed or cancelled."),
    _text("result", "The result as canonical JSON; NULL where there is none.", null=True),
    _text("error", "Why it failed, in a sentence; NULL unless it did.", null=True),
    _text(
        "environment_digest",
        "What it was computed on; NULL where nothing was.",
        ForeignKey(environment.c.digest),
        null=True,
    ),
    _text("artifacts", "Role to digest, as canonical JSON; `{}` for none."),
    Column("seconds", _real, comment="Time it took; NULL where nobody measured.", nullable=True),
    _created(),
    CheckConstraint("kind IN ('succeeded', 'failed', 'cancelled')", name="kind"),
    Index(None, "kind", "seq"),
)
measurement = _table(
    "measurement",
    _text("id", "`mea_…`", unique=True),
    _text("screen_id", "The screen measured.", ForeignKey(screen.c.id)),
    _text("payload", "The wet-lab values, as canonical JSON."),
    _text("digest", "Digest of the payload."),
    _text("principal", "Who recorded them."),
    _created(),
    Index(None, "screen_id"),
)
verification = _table(
    "verification",
    _text("id", "`ver_…`", unique=True),
    _text("experiment_id", "What was replayed.", ForeignKey(experiment.c.id)),
    _text(
        "replay_id",
        "The experiment that replayed it; NULL where none was recorded.",
        ForeignKey(experiment.c.id),
        null=True,
    ),
    _text("verdict", "exact, same_kind, equivalent or different."),
    _text("differs", "What is not the same, as canonical JSON; `{}` for nothing."),
    _text(
        "environment_digest",
        "What the replay ran on; NULL where unknown.",
        ForeignKey(environment.c.digest),
        null=True,
    ),
    _created(),
    Index(None, "experiment_id"),
)
tag = _table(
    "tag",
    _text("name", "What somebody calls a group of experiments."),
    Column(
        "experiment_seq",
        _integer,
        ForeignKey(experiment.c.seq),
        comment="The experiment so called: its row, so that a tag's index has the listing's order.",
        nullable=False,
    ),
    _text("principal", "Who said so."),
    _created(),
    UniqueConstraint("name", "experiment_seq"),
)

TABLES = {table.name: table for table in metadata.sorted_tables if table is not chain}
"""The chained tables by name."""
_SINCE = {tag.name: TAGS}


def tables_at(at: str) -> dict[str, Table]:
    """Return the chained tables that a ledger of a revision has."""
    return {name: t for name, t in TABLES.items() if at >= _SINCE.get(name, BASELINE)}


standing = Table(
    "standing",
    derived,
    Column("seq", _integer, primary_key=True, autoincrement=False, comment="The experiment's."),
    _text("status", "`open`, or the kind of the experiment's outcome."),
    Index(None, "status", "seq"),
    sqlite_strict=True,
)
revision = Table(
    # Alembic's own table, to the letter.
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
