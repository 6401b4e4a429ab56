"""Whether the cells that an outcome names answer the request of its experiment.

Blobs of cells say in their header which arm they answer; those written before blobs said so are
taken as they are. The arms follow from the experiment's tool and request.
"""

import json
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from lingshu_model.contracts import ArmRequest, read_origin
from lingshu_tools.engine_client.arms import arms_of
from lingshu_tools.errors import InputError
from lingshu_tools.ledger.objects import ObjectStore


def foreign_cells(
    objects: ObjectStore, tool: str, request: str, artifacts: str
) -> Iterator[tuple[str, str, str]]:
    """Yield (role, digest, what is wrong) of artifacts that hold another request's cells.

    Args:
        objects: where the artifacts are; those that are missing or damaged are left to others.
        tool: the experiment's tool.
        request: its request, as JSON text.
        artifacts: role to digest, as JSON text.
    """
    answered = dict(_answered(objects, json.loads(artifacts)))
    arms = _arms(tool, request) if answered else {}
    for (role, digest), origins in answered.items():
        expected = arms[role].digest if role in arms else "no request for cells"
        if origins != expected:
            yield role, digest, f"holds the cells of {origins}, and its experiment's are {expected}"


def _answered(
    objects: ObjectStore, artifacts: Mapping[str, str]
) -> Iterator[tuple[tuple[str, str], str]]:
    for role, digest in artifacts.items():
        try:
            origin = read_origin(objects.path(digest))
        except (ValueError, OSError, InputError):
            continue  # no cells; or not there, which is found where objects are read whole
        if origin is not None:
            yield (role, digest), origin.request


def _arms(tool: str, request: str) -> dict[str, ArmRequest]:
    try:
        return arms_of(tool, json.loads(request))
    except (KeyError, TypeError, ValidationError):
        return {}
