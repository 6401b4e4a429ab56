"""The schema of a ledger on a PostgreSQL server: created, compared with its revision, restored.

What a catalogue says of a view or a constraint depends on the server's version. So the schema is
created again, as temporary objects of a transaction that is rolled back, and the server describes
both. Only what has a name of the ledger's, or belongs to such a table, is looked at: other tables
of the same PostgreSQL schema are somebody else's.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.exc import DBAPIError

from lingshu_tools.ledger import derived, schema
from lingshu_tools.ledger.differences import FOREIGN, Difference, Entry, compare
from lingshu_tools.ledger.migrations import HEAD
from lingshu_tools.ledger.schema import metadata, revision

_INSERT_ONLY = "BEGIN RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' is insert-only'; END"
_BEGINS = (
    "BEGIN INSERT INTO standing (seq, status) VALUES (NEW.seq, 'open')"
    " ON CONFLICT (seq) DO UPDATE SET status = 'open'; RETURN NULL; END"
)
_ENDS = (
    "BEGIN UPDATE standing SET status = NEW.kind"
    " WHERE seq = (SELECT e.seq FROM experiment e WHERE e.id = NEW.experiment_id);"
    " RETURN NULL; END"
)
FUNCTIONS = {
    "ledger_insert_only": _INSERT_ONLY,
    "ledger_standing_begins": _BEGINS,
    "ledger_standing_ends": _ENDS,
}
_RELATIONS = [
    *(table.name for table in (*metadata.sorted_tables, *schema.derived.sorted_tables, revision)),
    *derived.VIEWS,
]
_OURS = """WITH c AS (SELECT * FROM pg_class
  WHERE relnamespace = CAST(:space AS oid) AND relname = ANY(:relations)) """
# Each gives kind, name and definition of what belongs to `c`, the ledger's tables and views.
_TRIGGERS = """SELECT 'trigger', t.tgname,
    concat_ws(' ', c.relname, t.tgenabled, t.tgtype, p.proname, l.lanname, p.proconfig, p.prosrc,
      pg_get_expr(t.tgqual, t.tgrelid))
  FROM c JOIN pg_trigger t ON t.tgrelid = c.oid JOIN pg_proc p ON p.oid = t.tgfoid
  JOIN pg_language l ON l.oid = p.prolang WHERE NOT t.tgisinternal"""
_OTHERS = (
    # What decides which rows it can hold, and which of them are seen.
    """SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'table' END, relname,
        concat_ws(' ', relkind, relrowsecurity, relforcerowsecurity,
          CASE relpersistence WHEN 'u' THEN 'unlogged' END,
          CASE relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END,
          (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
             a.attnotnull, a.attgenerated, a.attidentity, pg_get_expr(d.adbin, d.adrelid)),
             ', ' ORDER BY a.attnum)
           FROM pg_attribute a
           LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
      FROM c WHERE relkind IN ('r', 'p', 'v', 'm', 'f')""",
    # A foreign key is kept by triggers of its own, which can be off.
    """SELECT 'constraint', c.relname || '.' || k.conname,
        concat_ws(' ', k.convalidated, pg_get_constraintdef(k.oid),
          (SELECT string_agg(DISTINCT CAST(t.tgenabled AS text), ' ')
           FROM pg_trigger t WHERE t.tgconstraint = k.oid))
      FROM c JOIN pg_constraint k ON k.conrelid = c.oid""",
    """SELECT 'index', i.relname, concat_ws(' ', x.indisvalid, pg_get_indexdef(i.oid))
      FROM c JOIN pg_index x ON x.indrelid = c.oid JOIN pg_class i ON i.oid = x.indexrelid""",
    """SELECT 'rule', c.relname || '.' || r.rulename, pg_get_ruledef(r.oid)
      FROM c JOIN pg_rewrite r ON r.ev_class = c.oid WHERE r.rulename <> '_RETURN'""",
    """SELECT 'policy', c.relname || '.' || p.polname, ''
      FROM c JOIN pg_policy p ON p.polrelid = c.oid""",
    # Its rows are read as the table's own.
    """SELECT 'child table', CAST(CAST(h.inhrelid AS regclass) AS text), c.relname
      FROM c JOIN pg_inherits h ON h.inhparent = c.oid""",
)
_TABLE_OF = """SELECT c.relname FROM c JOIN pg_trigger t ON t.tgrelid = c.oid
  WHERE NOT t.tgisinternal AND t.tgname = :trigger"""
_SPACE = "SELECT oid, quote_ident(nspname) FROM pg_namespace WHERE nspname = current_schema()"
_TEMPORARY = "SELECT pg_my_temp_schema(), quote_ident(pg_my_temp_schema()::regnamespace::text)"
_WHEN = {"BEFORE UPDATE OR DELETE OR TRUNCATE": ("STATEMENT", 58), "AFTER INSERT": ("ROW", 5)}
"""When a trigger runs, for each what, and `pg_trigger.tgtype`: the same as bits."""


def create(connection: Connection, space: str = "") -> None:
    """Make every table, index, function, trigger and view; `space` is put before functions."""
    metadata.create_all(connection, checkfirst=False)
    schema.derived.create_all(connection, checkfirst=False)
    revision.create(connection)
    connection.execute(insert(revision), {"version_num": HEAD})
    for name in FUNCTIONS:
        connection.exec_driver_sql(_function(name, space))
    for name in triggers():
        connection.exec_driver_sql(_trigger(name, space))
    for statement in derived.VIEWS.values():
        connection.exec_driver_sql(statement)


def triggers(at: str = HEAD) -> dict[str, tuple[str, str, str]]:
    """Return the triggers of a revision: the table, when, and the function that is called."""
    stop = "BEFORE UPDATE OR DELETE OR TRUNCATE"
    tables = (schema.chain.name, *schema.tables_at(at))
    kept = {f"{table}_insert_only": (table, stop, "ledger_insert_only") for table in tables}
    return kept | {
        "standing_begins": ("experiment", "AFTER INSERT", "ledger_standing_begins"),
        "standing_ends": ("outcome", "AFTER INSERT", "ledger_standing_ends"),
    }


def trigger_differences(connection: Connection, at: str) -> list[Difference]:
    """Return the triggers that are not as in a revision; this writes nothing and is quick."""
    space, _ = connection.exec_driver_sql(_SPACE).one()
    return list(compare(_described(connection, space, "", (_TRIGGERS,)), _expected_triggers(at)))


def differences(connection: Connection, engine: Engine, at: str) -> list[Difference]:
    """Return what of the whole schema is not as in a revision.

    Args:
        connection: a transaction that reads the ledger.
        engine: makes a connection of its own, on which the schema is created and rolled back.
        at: the revision; only the newest was ever made on a server.
    """
    entries = trigger_differences(connection, at)
    space, name = connection.exec_driver_sql(_SPACE).one()
    try:
        right = _expected(engine)
    except DBAPIError as error:
        what = f"could not be compared ({error.orig}); grant TEMPORARY on the database"
        return [*entries, Difference("schema", name, what)]
    return entries + list(compare(_described(connection, space, name, _OTHERS), right))


def restore(connection: Connection, engine: Engine, at: str) -> None:
    """Put functions, triggers and views back, and drop foreign triggers of the ledger's tables."""
    entries = differences(connection, engine, at)
    if any(each.kind == "trigger" for each in entries):
        for name in FUNCTIONS:
            connection.exec_driver_sql(_function(name, "", "OR REPLACE "))
        # Those that were wrong for their function alone are right now.
        for _, name, what in trigger_differences(connection, at):
            for (table,) in _query(connection, _TABLE_OF, trigger=name):
                connection.exec_driver_sql(f'DROP TRIGGER "{name}" ON {table}')
            if what != FOREIGN:
                connection.exec_driver_sql(_trigger(name, ""))
    for kind, name, _ in entries:
        if kind == "view" and name in derived.VIEWS:
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
            connection.exec_driver_sql(derived.VIEWS[name])


def _query(connection: Connection, query: str, **values: Any) -> list[tuple[Any, ...]]:
    space, _ = connection.exec_driver_sql(_SPACE).one()
    values = {"space": space, "relations": _RELATIONS} | values
    return [tuple(row) for row in connection.execute(text(_OURS + query), values)]


def _expected(engine: Engine) -> list[Entry]:
    with engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL search_path TO pg_temp")
        create(connection, "pg_temp.")
        space, name = connection.exec_driver_sql(_TEMPORARY).one()
        right = list(_described(connection, space, name, _OTHERS))
        connection.rollback()
    return right


def _expected_triggers(at: str) -> Iterator[Entry]:
    for name, (table, when, function) in triggers(at).items():
        _, bits = _WHEN[when]
        parts = (table, "O", bits, function, "plpgsql", FUNCTIONS[function])
        yield Entry("trigger", name, " ".join(map(str, parts)))


def _described(
    connection: Connection, space: int, name: str, queries: tuple[str, ...]
) -> Iterator[Entry]:
    for query in queries:
        for kind, part, definition in _query(connection, query, space=space):
            # Some definitions name their table in full; newer servers call any temporary schema so.
            for prefix in (f"{name}.", "pg_temp.") if name else ():
                part, definition = part.removeprefix(prefix), definition.replace(prefix, "")
            yield Entry(kind, part, definition)


def _function(name: str, space: str, replace: str = "") -> str:
    body = FUNCTIONS[name]
    return (
        f"CREATE {replace}FUNCTION {space}{name}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"
    )


def _trigger(name: str, space: str) -> str:
    table, when, function = triggers()[name]
    each, _ = _WHEN[when]
    call = f"EXECUTE FUNCTION {space}{function}()"
    return f"CREATE TRIGGER {name} {when} ON {table} FOR EACH {each} {call}"
