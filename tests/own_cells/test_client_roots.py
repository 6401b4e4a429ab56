"""MCP roots: folders that a client on this machine opens for its own calls."""

import asyncio
from pathlib import Path

import mcp.types as types
import pytest
from mcp import Client
from user_cells_lab import cells_of

from lingshu_mcp import build_server
from lingshu_mcp.client_folders import folder_of
from lingshu_tools.app import App


def answered(app: App, file: Path, roots: list[Path] | None) -> tuple[bool, str]:
    """Return whether a dry run on a file was refused, and the text."""

    async def give(_: object) -> types.ListRootsResult:
        given = [types.Root(uri=folder.as_uri()) for folder in roots or []]
        return types.ListRootsResult(roots=given)

    async def act() -> tuple[bool, str]:
        more = {"list_roots_callback": give} if roots is not None else {}
        async with Client(build_server(app), mode="legacy", **more) as client:
            arguments = {
                "interventions": [{"kind": "knockout", "target": "G3"}],
                "cells": str(file),
                "dry_run": True,
                "wait_s": 45,
            }
            result = await client.call_tool("perturb_cells", arguments)
            return bool(result.is_error), str(result.content[0].text)

    return asyncio.run(act())


def test_a_client_on_this_machine_opens_its_folders_for_its_calls_alone(app: App, file: Path):
    refused, text = answered(app, file, None)
    assert refused
    assert "no folder is allowed" in text
    refused, text = answered(app, file, [file.parent])
    assert not refused, text
    # The folders of one client are not those of the next.
    refused, _ = answered(app, file, None)
    assert refused


def test_a_root_of_a_client_opens_what_is_in_it_alone(app: App, file: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    cells_of(20).write_h5ad(other / "theirs.h5ad")
    refused, text = answered(app, other / "theirs.h5ad", [file.parent])
    assert refused
    assert "no allowed folder" in text


@pytest.mark.parametrize(
    "uri", ["file:///", "https://example.org/data", "file://elsewhere/data", "file:///no/such", ""]
)
def test_what_is_no_folder_of_data_here_opens_nothing(uri: str):
    assert folder_of(uri) is None


def test_a_root_is_a_folder_with_its_links_resolved(tmp_path: Path):
    (tmp_path / "real data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real data")
    assert folder_of((tmp_path / "link").as_uri()) == tmp_path / "real data"
