"""What is published beside the package: bundle, registry entry, skill, unit, container."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from lingshu_tools.calls.published import published_tools
from lingshu_tools.calls.registry import TOOL_NAMES

ROOT = Path(__file__).parents[2]
FILES = ROOT / "mcp_server"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = PROJECT["version"]
# Vendored unchanged, see the licence beside it.
MANIFEST = json.loads(Path(__file__).with_name("mcpb-manifest-0.4.schema.json").read_text("utf-8"))
SERVER = json.loads((FILES / "server.json").read_text("utf-8"))


def pack(wheel: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FILES / "bundle" / "pack.py", wheel, out]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout without weights, as no build backend is at hand in a test."""
    path = tmp_path_factory.mktemp("dist") / f"lingshu_tools-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for folder in ("lingshu_tools", "model/lingshu_model", "mcp_server/lingshu_mcp"):
            for file in (ROOT / folder).rglob("*"):
                if file.suffix not in (".safetensors", ".pyc") and file.is_file():
                    archive.write(file, file.relative_to((ROOT / folder).parent))
    return path


@pytest.fixture(scope="module")
def bundle(wheel: Path) -> Path:
    out = wheel.with_name("lingshu-tools.mcpb")
    ran = pack(wheel, out)
    assert ran.returncode == 0, ran.stderr
    return out


def test_the_manifest_of_the_bundle_is_valid_and_lists_the_tools(bundle: Path):
    with zipfile.ZipFile(bundle) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        names = archive.namelist()
    Draft7Validator(MANIFEST).validate(manifest)
    assert manifest["version"] == VERSION
    assert [tool["name"] for tool in manifest["tools"]] == list(TOOL_NAMES)
    assert manifest["server"]["entry_point"] in names


@pytest.mark.parametrize(
    "change",
    [
        {"manifest_version": "0.3"},
        {"server": {"type": "uv", "entry_point": "server.py"}},
        {"author": "somebody"},
        {"extra": 1},
    ],
)
def test_the_schema_refuses_what_is_no_manifest(change: dict[str, Any]):
    manifest = json.loads((FILES / "bundle" / "manifest.json").read_text("utf-8"))
    assert Draft7Validator(MANIFEST).is_valid(manifest)
    assert not Draft7Validator(MANIFEST).is_valid({**manifest, **change})


def test_the_same_wheel_gives_the_same_bundle(bundle: Path, wheel: Path, tmp_path: Path):
    again = tmp_path / "again.mcpb"
    pack(wheel, again)
    assert again.read_bytes() == bundle.read_bytes()


def test_another_file_is_not_packed(tmp_path: Path):
    other = tmp_path / "other-1.0-py3-none-any.whl"
    other.write_bytes(b"")
    ran = pack(other, tmp_path / "out.mcpb")
    assert ran.returncode == 1
    assert "no wheel of lingshu-tools" in ran.stderr
    assert not (tmp_path / "out.mcpb").exists()


def test_an_unpacked_bundle_starts_and_lists_its_tools(bundle: Path, tmp_path: Path):
    unpacked, site = tmp_path / "bundle", tmp_path / "site"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(unpacked)
    project = tomllib.loads((unpacked / "pyproject.toml").read_text("utf-8"))
    [source] = project["tool"]["uv"]["sources"].values()
    # What uv does with the project; its other dependencies are this environment's.
    with zipfile.ZipFile(unpacked / source["path"]) as archive:
        archive.extractall(site)
    manifest = json.loads((unpacked / "manifest.json").read_text("utf-8"))
    *_, entry = manifest["server"]["mcp_config"]["args"]
    environ = {**os.environ, "PYTHONPATH": str(site), "HOME": str(tmp_path)}
    environ |= {"LINGSHU_HOME": str(tmp_path / "lab")}
    where = [sys.executable, "-c", "import lingshu_mcp; print(lingshu_mcp.__file__)"]
    file = subprocess.run(where, env=environ, capture_output=True, text=True, check=True).stdout
    assert Path(file.strip()).is_relative_to(site)
    params = {"protocolVersion": "2025-11-25", "capabilities": {}}
    params |= {"clientInfo": {"name": "test", "version": "0"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    ran = subprocess.run(
        [sys.executable, unpacked / entry],
        input="".join(json.dumps(each) + "\n" for each in messages),
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    answers = {a["id"]: a["result"] for a in map(json.loads, ran.stdout.splitlines())}
    assert answers[1]["serverInfo"]["name"] == "lingshu"
    assert [t["name"] for t in answers[2]["tools"]] == [t.name for t in published_tools()]


# The rules of the schema of 2025-12-11 that concern this file, from the server.json reference of
# the repository modelcontextprotocol/registry (docs/reference/server-json).
FIELDS = {"$schema", "name", "title", "description", "version", "packages", "repository"}
FIELDS |= {"websiteUrl", "icons", "remotes", "_meta"}
PACKAGE = {"registryType", "registryBaseUrl", "identifier", "version", "fileSha256", "runtimeHint"}
PACKAGE |= {"transport", "runtimeArguments", "packageArguments", "environmentVariables"}
ARGUMENT = {"type", "name", "value", "valueHint", "isRepeated", "variables", "description"}
ARGUMENT |= {"isRequired", "format", "isSecret", "default", "placeholder", "choices"}


def problems(server: dict[str, Any]) -> list[str]:
    """Return what the schema refuses in a server.json."""
    wrong = [f"field {name}" for name in server.keys() - FIELDS]
    wrong += [f"no {name}" for name in ("name", "description", "version") if name not in server]
    if not re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", server.get("name", "")):
        wrong.append("name")
    if not 1 <= len(server.get("description", "")) <= 100:
        wrong.append("description")
    if not 1 <= len(server.get("title", "x")) <= 100:
        wrong.append("title")
    for package in server.get("packages", []):
        wrong += [f"package field {name}" for name in package.keys() - PACKAGE]
        needed = ("registryType", "identifier", "transport")
        wrong += [f"no package {name}" for name in needed if name not in package]
        if package.get("version") == "latest":
            wrong.append("package version")
        if package.get("transport", {}).get("type") not in ("stdio", "streamable-http", "sse"):
            wrong.append("transport")
        if "runtimeArguments" in package and "runtimeHint" not in package:
            wrong.append("runtimeHint")
        for argument in package.get("runtimeArguments", []) + package.get("packageArguments", []):
            named = argument.get("type") == "named" and "name" in argument
            placed = argument.get("type") == "positional" and {"value", "valueHint"} & set(argument)
            if not (named or placed) or argument.keys() - ARGUMENT:
                wrong.append("argument")
        for variable in package.get("environmentVariables", []):
            if "name" not in variable or variable.keys() - ARGUMENT:
                wrong.append("environment variable")
    return wrong


def test_the_registry_entry_is_valid():
    assert problems(SERVER) == []
    assert SERVER["$schema"].endswith("/schemas/2025-12-11/server.schema.json")


@pytest.mark.parametrize(
    "change",
    [
        {"description": "x" * 101},
        {"name": "lingshu-tools"},
        {"extra": 1},
        {"packages": [{"registryType": "pypi"}]},
        {"packages": [{**SERVER["packages"][0], "version": "latest"}]},
        {"packages": [{**SERVER["packages"][0], "transport": {"type": "pipe"}}]},
    ],
)
def test_the_check_of_the_registry_entry_finds_mistakes(change: dict[str, Any]):
    assert problems({**SERVER, **change})


def test_versions_and_names_are_the_packages():
    [package] = SERVER["packages"]
    assert SERVER["version"] == package["version"] == VERSION
    assert package["identifier"] == PROJECT["name"]
    assert package["runtimeArguments"][0]["value"] == f"{PROJECT['name']}[all]=={VERSION}"
    # Clients run the command of the package's name.
    assert PROJECT["scripts"][PROJECT["name"]] == PROJECT["scripts"]["lingshu-mcp"]
    assert f"<!-- mcp-name: {SERVER['name']} -->" in (ROOT / "README.md").read_text("utf-8")
    containerfile = (FILES / "Containerfile").read_text("utf-8")
    assert f'io.modelcontextprotocol.server.name="{SERVER["name"]}"' in containerfile


def test_the_skill_has_its_header_and_names_only_tools_that_exist():
    path = FILES / "skill" / "lingshu" / "SKILL.md"
    _, header, body = path.read_text("utf-8").split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in header.strip().splitlines())
    assert fields.keys() == {"name", "description"}
    assert fields["name"] == path.parent.name
    assert len(fields["description"]) <= 1024
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", body))
    fields_of_results = {"mc_interval", "prediction_error", "next_step", "dry_run"}
    assert named - fields_of_results <= set(TOOL_NAMES)
    assert {"describe_model", "perturb_cells", "run_screen"} <= named


def test_the_container_runs_without_privileges_and_says_that_it_is_untested():
    lines = (FILES / "Containerfile").read_text("utf-8").splitlines()
    assert lines[0].startswith("# UNTESTED")
    [user] = [line for line in lines if line.startswith("USER ")]
    assert user not in ("USER root", "USER 0")
    assert lines.index(user) < lines.index('ENTRYPOINT ["lingshu-mcp"]')
    for source, *_ in (line.split()[1:] for line in lines if re.match(r"COPY \w", line)):
        assert (ROOT / source).exists()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path):
    text = (FILES / "lingshu.service").read_text("utf-8")
    command = tmp_path / ".local" / "bin" / "lingshu"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n", "utf-8")
    command.chmod(0o755)
    unit = tmp_path / "lingshu.service"
    unit.write_text(text.replace("%h", str(tmp_path)), "utf-8")
    verify = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    environ = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    ran = subprocess.run(verify, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "lingshu.service" not in ran.stderr
    broken = unit.with_name("broken.service")
    broken.write_text(unit.read_text("utf-8").replace("ExecStart=/", "ExecStart=nowhere/"), "utf-8")
    again = subprocess.run(
        [*verify[:-1], str(broken)], env=environ, capture_output=True, text=True, check=False
    )
    assert "broken.service" in again.stderr
