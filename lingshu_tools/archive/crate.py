"""A ledger described as an RO-Crate 1.1 that follows Process Run Crate 0.5.

One `CreateAction` for each experiment that succeeded or failed: the checkpoint as its instrument,
the resolved request as its object, the artifacts as its results. The description follows from the
rows alone; the rows remain what counts.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, RowMapping, select

from lingshu_tools.archive import form
from lingshu_tools.ledger import schema

Entity = dict[str, Any]
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CRATE = "https://w3id.org/ro/crate/1.1"
TERMS = "https://w3id.org/ro/terms/workflow-run"
# The two terms of the profile that are used, so that a reader need not fetch its context.
CONTEXT = [f"{CRATE}/context", {name: f"{TERMS}#{name}" for name in ("environment", "sha256")}]
UNLICENSED = "No licence was stated: ask the person who gave you this archive."
STATUS = {
    "succeeded": "http://schema.org/CompletedActionStatus",
    "failed": "http://schema.org/FailedActionStatus",
}
_SAFETENSORS = "application/vnd.safetensors"


def describe(connection: Connection, terms: str | None = None) -> Entity:
    """Return the crate of the ledger that `connection` reads; equal rows give equal crates.

    Args:
        connection: sees one state of a ledger.
        terms: the licence of the whole, as text or a URL.
    """
    ledger = connection.execute(select(schema.ledger)).mappings().one()
    runs = list(_runs(connection))
    # Read whole: actions refer to the entities of their environment.
    environments = list(_environments(connection))
    variables = {
        digest: [record["@id"] for record in properties] for digest, properties in environments
    }
    files = [*_crate_files(), *_objects(connection)]
    actions = [_action(run, variables) for run in runs]
    principals = sorted({run["principal"] for run in runs})
    licence = _licence(terms)
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Virtual-cell experiments: ledger {ledger['id']}",
        "description": (
            f"{len(actions)} simulated experiments with what was asked, what came out and the "
            "hash chain that joins them. The cells are sampled from a model, not measured."
        ),
        "datePublished": _newest(connection, str(ledger["created_at"])),
        "license": _ref(licence["@id"]),
        "author": _refs(map(_agent_id, principals)),
        "conformsTo": _ref(PROFILE),
        "hasPart": _refs(file["@id"] for file in files),
        "mentions": _refs(action["@id"] for action in actions),
    }
    graph = [
        {
            "@id": form.CRATE,
            "@type": "CreativeWork",
            "about": _ref("./"),
            "conformsTo": _ref(CRATE),
        },
        _filled(root),
        licence,
        _work(PROFILE, "Process Run Crate", "0.5"),
        *files,
        *_instruments(runs),
        *(_agent(name) for name in principals),
        *(record for _, properties in environments for record in properties),
        *(_request(run) for run in runs),
        *actions,
    ]
    return {"@context": CONTEXT, "@graph": graph}


def _runs(connection: Connection) -> Iterator[RowMapping]:
    e, o, a = schema.experiment, schema.outcome, schema.attempt
    columns = [
        *e.c,
        *(o.c[name].label(f"outcome_{name}") for name in ("kind", "error", "artifacts")),
        o.c.environment_digest,
        o.c.created_at.label("ended_at"),
        a.c.created_at.label("began_at"),
    ]
    query = select(*columns).join(o, o.c.experiment_id == e.c.id)
    # An outcome without an attempt is kept: it then began when its row was written.
    query = query.outerjoin(a, a.c.id == o.c.attempt_id).where(o.c.kind.in_(STATUS))
    return iter(connection.execute(query.order_by(e.c.seq)).mappings())


def _action(run: RowMapping, variables: Mapping[str, list[str]]) -> Entity:
    artifacts: dict[str, str] = json.loads(run["outcome_artifacts"])
    what = " in ".join(run[name] for name in ("perturbation", "context") if run[name])
    ran_on = variables.get(run["environment_digest"] or "", [])
    entity = {
        "@id": f"#{run['id']}",
        "@type": "CreateAction",
        "name": f"{run['id']}: {run['tool']}",
        "description": f"{run['tool']}: {what or 'no perturbation named'}; seed {run['seed']}",
        "instrument": _ref(_instrument_id(run)),
        "agent": _ref(_agent_id(run["principal"])),
        "object": _ref(f"#{run['id']}/request"),
        "result": _refs(form.member_of(digest) for digest in sorted(set(artifacts.values()))),
        "startTime": _time(run["began_at"] or run["created_at"]),
        "endTime": _time(run["ended_at"]),
        "actionStatus": STATUS[run["outcome_kind"]],
        "environment": _refs(ran_on),
        "error": run["outcome_error"],
    }
    return _filled(entity)


def _request(run: RowMapping) -> Entity:
    return {
        "@id": f"#{run['id']}/request",
        "@type": "PropertyValue",
        "name": "resolved request, as canonical JSON",
        "propertyID": run["request_digest"],
        "value": run["request"],
    }


def _instruments(runs: list[RowMapping]) -> list[Entity]:
    # By id, so that runs of a checkpoint share an entity.
    entities = {
        _instrument_id(run): {
            "@id": _instrument_id(run),
            "@type": "SoftwareApplication",
            "name": f"checkpoint {run['checkpoint']}",
            "description": "Weights and configuration of a generative model of single cells.",
            "softwareVersion": run["checkpoint_digest"],
            "identifier": run["checkpoint_digest"],
        }
        for run in runs
    }
    return [entities[name] for name in sorted(entities)]


def _instrument_id(run: RowMapping) -> str:
    # A name without a registered address, but an absolute URI, and the same in every archive.
    return f"urn:lingshu:checkpoint:{run['checkpoint_digest']}"


def _agent(principal: str) -> Entity:
    said = "The principal under which experiments were asked for; a person, a group or an agent."
    named = {"@id": _agent_id(principal), "@type": "Organization", "name": principal}
    return {**named, "description": said}


def _agent_id(principal: str) -> str:
    return f"#principal/{quote(principal)}"


def _environments(connection: Connection) -> Iterator[tuple[str, list[Entity]]]:
    query = select(schema.environment).order_by(schema.environment.c.seq)
    for row in connection.execute(query).mappings():
        # Sorted, so that equal rows give equal bytes.
        leaves = sorted(_leaves(json.loads(row["document"])))
        digest = row["digest"]
        yield (
            digest,
            [
                {
                    "@id": f"#environment/{digest}/{quote(path)}",
                    "@type": "PropertyValue",
                    "name": path,
                    "value": value,
                }
                for path, value in leaves
            ],
        )


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{path}{key}.")
        else:
            text = inner if isinstance(inner, str) else json.dumps(inner, sort_keys=True)
            yield f"{path}{key}", text


def _crate_files() -> list[Entity]:
    return [
        _file(form.DATABASE, "ledger", "Every row, hash-chained.", "application/vnd.sqlite3"),
        _file(form.METADATA, "archive metadata", "Head, counts and digests.", "application/json"),
    ]


def _objects(connection: Connection) -> Iterator[Entity]:
    # Objects are keyed by their bytes, so one may have several roles; the first names it.
    roles: dict[str, str] = {}
    for (text,) in connection.execute(select(schema.outcome.c.artifacts)):
        for role, digest in json.loads(text).items():
            roles.setdefault(digest, role)
    query = select(schema.artifact).order_by(schema.artifact.c.digest)
    for row in connection.execute(query).mappings():
        name, digest = roles.get(row["digest"], "object"), row["digest"]
        entity = _file(form.member_of(digest), name, f"Arrays of the role {name}.", _SAFETENSORS)
        sized = {"contentSize": str(row["size"]), "sha256": digest.removeprefix("sha256:")}
        yield {**entity, **sized}


def _file(name: str, title: str, description: str, encoding: str) -> Entity:
    named = {"@id": name, "@type": "File", "name": title, "description": description}
    return {**named, "encodingFormat": encoding}


def _work(identifier: str, name: str, version: str) -> Entity:
    return {"@id": identifier, "@type": "CreativeWork", "name": name, "version": version}


def _licence(terms: str | None) -> Entity:
    address = terms if terms and terms.startswith(("https://", "http://")) else "#licence"
    named = {"@id": address, "@type": "CreativeWork", "name": "Licence"}
    return {**named, "description": terms or UNLICENSED}


def _time(text: str) -> str:
    """Return a row's time in milliseconds, as the profile writes it."""
    return f"{text.removesuffix('Z')[:23]}+00:00"


def _filled(entity: Entity) -> Entity:
    # An empty property would be a claim; leaving it out is none.
    return {name: value for name, value in entity.items() if value not in (None, [])}


def _refs(identifiers: Iterable[str]) -> Any:
    """Return references; a single one stands alone, as the specification asks."""
    references = [_ref(record) for record in identifiers]
    return references[0] if len(references) == 1 else references


def _ref(identifier: str) -> dict[str, str]:
    return {"@id": identifier}


def _newest(connection: Connection, created_at: str) -> str:
    tables = (schema.outcome, schema.experiment, schema.screen, schema.verification)
    newest = (select(t.c.created_at).order_by(t.c.seq.desc()).limit(1) for t in tables)
    return max([created_at, *(time for q in newest if (time := connection.scalar(q)))])
