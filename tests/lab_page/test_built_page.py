"""The built page is what its sources give, and its policy lets nothing else in."""

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lingshu_mcp.lab_page.document import headers, html, policy

STATIC = ("build.mjs", "package-lock.json", "package.json")


def digest_of(sources: Path) -> str:
    """The digest that `build.mjs` writes into the page."""
    names = sorted([*STATIC, *(f"src/{path.name}" for path in (sources / "src").iterdir())])
    whole = hashlib.sha256()
    for name in names:
        whole.update(f"{name}\0{(sources / name).read_text('utf-8')}\0".encode())
    return f"sha256:{whole.hexdigest()}"


def element(name: str) -> str:
    """The text of the only element of this name, as a browser hashes it."""
    (text,) = re.findall(rf"<{name}>(.*?)</{name}>", html(), re.DOTALL)
    return text


def directives() -> dict[str, str]:
    return dict(part.strip().split(" ", 1) for part in policy().split(";"))


def test_the_page_was_built_from_the_sources_beside_it(sources: Path):
    # Otherwise: make page, and commit lab.html.
    assert f'name="lingshu-sources" content="{digest_of(sources)}"' in html()


def test_a_changed_source_changes_the_digest(sources: Path, tmp_path: Path):
    copy = tmp_path / "page"
    shutil.copytree(sources, copy, ignore=shutil.ignore_patterns("node_modules"))
    assert digest_of(copy) == digest_of(sources)
    with (copy / "src" / "main.js").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert digest_of(copy) != digest_of(sources)


def test_building_again_gives_the_same_page(sources: Path):
    if not (sources / "node_modules" / "esbuild").is_dir() or shutil.which("node") is None:
        pytest.skip("needs node and the packages of mcp_server/page: make page-check")
    command = ["node", "build.mjs", "--check"]
    run = subprocess.run(command, cwd=sources, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["script", "style"])
def test_the_policy_admits_the_script_and_the_style_of_the_page_and_no_others(name: str):
    digest = base64.b64encode(hashlib.sha256(element(name).encode()).digest()).decode()
    assert directives()[f"{name}-src"] == f"'sha256-{digest}'"


def test_the_policy_forbids_everything_else():
    rest = {k: v for k, v in directives().items() if k not in ("script-src", "style-src")}
    assert rest == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert "unsafe" not in policy()
    assert headers()["content-security-policy"] == f"{policy()}; frame-ancestors 'none'"


def test_the_page_loads_nothing_and_names_no_host():
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", html()))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(eval|innerHTML|outerHTML|insertAdjacentHTML)\b|\sstyle=", html())
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\ssrc=", html())


def test_no_registry_is_named_in_the_sources(sources: Path):
    for path in (sources / name for name in STATIC):
        assert "registry" not in path.read_text("utf-8"), path
        assert "resolved" not in path.read_text("utf-8"), path
