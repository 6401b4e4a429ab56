"""The rules of the house: who may import whom, what a light process loads, how long a file is."""

import ast
import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lingshu_tools.calls.registry import TOOL_NAMES

ROOT = Path(__file__).parent.parent
PARTS = {
    "lingshu_tools": ROOT / "lingshu_tools",
    "lingshu_model": ROOT / "model" / "lingshu_model",
    "lingshu_mcp": ROOT / "mcp_server" / "lingshu_mcp",
}

SOURCES = [path for part in PARTS.values() for path in sorted(part.rglob("*.py"))]
PACKAGES = [
    ".".join((name, *path.parent.relative_to(root).parts))
    for name, root in PARTS.items()
    for path in sorted(root.rglob("__init__.py"))
]
LAYERS = {
    "lingshu_model": [
        "system",
        "contracts",
        "effects",
        "strengths",
        "network",
        "sampling",
        "train",
        "user_cells",
        "evaluate",
        "finishing",
        "engine",
    ],
    "lingshu_tools": [
        "errors",
        "system",
        "engine_client",
        "ledger",
        "archive",
        "analysis",
        "calls",
        "experiments",
        "planner",
        "execution",
        "report",
        "training",
        "children",
        "user_cells",
        "app",
        "tools",
        "lab",
        "install",
        "chat",
        "cli",
    ],
}
"""Packages, and modules of the root, each importing only from itself and those before it."""
COMPOSING = ("train/command.py",)
"""The command that puts the steps of a training together, those of later layers among them."""
HEAVY = ("torch", "scipy", "pandas", "anndata", "matplotlib")
SLOW_TO_IMPORT = ("numpy", "pydantic", "sqlalchemy", "httpx", "mcp")
LONGEST_FILE = 600
MOST_MODULES = 16


def imported(path: Path, *, of_types: bool = True) -> Iterator[str]:
    """Modules and names that a file imports; `of_types`: also those only a type checker reads."""
    tree = ast.parse(path.read_text("utf-8"))
    if not of_types:
        tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def offences(paths: list[Path], forbidden: tuple[str, ...], *, of_types: bool = True) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in paths
        for module in imported(path, of_types=of_types)
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    ]


def sources(part: str) -> list[Path]:
    return sorted(PARTS[part].rglob("*.py"))


def test_the_tools_import_no_torch_no_mcp_and_nothing_above_them():
    assert not offences(sources("lingshu_tools"), ("torch", "accelerate", "mcp", "lingshu_mcp"))


def test_nothing_but_its_command_changes_a_schema():
    users = [path for path in SOURCES if path.name != "migrate_command.py"]
    assert not offences(users, ("lingshu_tools.ledger.migrate",))


def test_the_tools_import_of_the_model_only_its_contracts_and_its_system():
    reached = {m for path in sources("lingshu_tools") for m in imported(path)}
    inside = {m for m in reached if m.startswith("lingshu_model.")}
    known = ("lingshu_model.contracts", "lingshu_model.system", "lingshu_model.__")
    beyond = {m for m in inside if not m.startswith(known)}
    assert not beyond


def test_heavy_analysis_lives_in_child_processes():
    mine = [path for path in sources("lingshu_tools") if "children" not in path.parts]
    assert not offences(mine, ("scipy", "pandas", "anndata", "matplotlib"))


def test_the_model_imports_nothing_above_it():
    assert not offences(sources("lingshu_model"), ("lingshu_tools", "lingshu_mcp"))


@pytest.mark.parametrize("part", LAYERS)
def test_a_package_imports_only_those_of_the_layers_below_it(part: str):
    order = LAYERS[part]
    for path in sources(part):
        name = path.relative_to(PARTS[part]).with_suffix("").parts[0]
        if name == "__init__" or str(path.relative_to(PARTS[part])) in COMPOSING:
            continue
        above = tuple(f"{part}.{each}" for each in order[order.index(name) + 1 :])
        assert not offences([path], above, of_types=False)


@pytest.mark.parametrize("package", ["contracts", "system"])
def test_what_the_tools_import_of_the_model_is_free_of_torch(package: str):
    assert not offences(sorted((PARTS["lingshu_model"] / package).rglob("*.py")), HEAVY)


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_every_tool_loads_nothing_heavy():
    code = "from lingshu_tools.calls.registry import registry\n[*registry().values()]"
    assert loaded_after(code).isdisjoint((*HEAVY, "mcp"))


def test_a_call_loads_neither_other_tools_nor_what_talks_to_an_engine():
    code = (
        "import pathlib, tempfile\n"
        "from lingshu_tools.app import App\n"
        "from lingshu_tools.calls.dispatcher import call\n"
        "assert not call(App(pathlib.Path(tempfile.mkdtemp())), 'list_experiments', {}).experiments"
    )
    loaded = loaded_after(code)
    tools = {name for name in loaded if name.startswith("lingshu_tools.tools.")}
    assert "lingshu_tools.tools.list_experiments" in loaded
    # A memory budget of the server stands on it: 5 MB of tools, 3 MB of the engine's client.
    assert not tools & {f"lingshu_tools.tools.{name}" for name in ("run_screen", "perturb_cells")}
    assert "httpx" not in loaded


def test_a_built_server_has_listed_its_tools_and_loaded_nothing_heavy():
    code = (
        "import asyncio, tempfile, pathlib\n"
        "from lingshu_tools.app import App\n"
        "from lingshu_mcp import build_server\n"
        "server = build_server(App(pathlib.Path(tempfile.mkdtemp())))\n"
        "assert asyncio.run(server.list_tools())"
    )
    modules = loaded_after(code)
    assert "mcp" in modules
    assert modules.isdisjoint(HEAVY)


def test_tools_are_listed_before_anything_is_loaded_that_only_calls_need():
    code = (
        "import asyncio\n"
        "from lingshu_mcp.back import Back\n"
        "from lingshu_mcp.server import assemble\n"
        "server = assemble(Back(lambda: 1 / 0))\n"
        "assert asyncio.run(server.list_tools())\n"
        "assert asyncio.run(server.list_prompts())\n"
        "assert asyncio.run(server.list_resource_templates())"
    )
    assert loaded_after(code).isdisjoint((*HEAVY, "numpy", "sqlalchemy", "httpx"))


def test_the_listed_tools_are_those_of_the_registry():
    from lingshu_tools.calls.published import as_text, from_registry, published_tools

    # Otherwise: python -m lingshu_tools.calls.published, and commit the file.
    assert as_text(published_tools()) == as_text(from_registry())


def test_help_loads_only_what_help_needs():
    code = (
        "import contextlib, io\n"
        "from lingshu_tools.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])"
    )
    assert loaded_after(code).isdisjoint(
        (*HEAVY, "numpy", "pydantic", "sqlalchemy", "httpx", "mcp")
    )


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_lists_every_public_name_it_binds(name: str):
    module = importlib.import_module(name)
    listed: list[str] = getattr(module, "__all__", [])
    missing = set(public_names(Path(str(module.__file__)))) - set(listed)
    assert not missing
    assert all(hasattr(module, each) for each in listed)


def public_names(path: Path) -> Iterator[str]:
    """Names an `__init__` imports or defines at its top level, outside TYPE_CHECKING."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lingshu"):
            names = [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def test_no_folder_of_the_packages_has_more_than_sixteen_modules():
    # The ledger is frozen; a tool has a module of its own, so that folder grows with the tools.
    frozen = PARTS["lingshu_tools"] / "ledger"
    tools = {PARTS["lingshu_tools"] / "tools" / f"{name}.py" for name in TOOL_NAMES}
    counts = Counter(path.parent for path in SOURCES if path not in tools)
    assert not {
        str(folder.relative_to(ROOT)): n
        for folder, n in counts.items()
        if n > MOST_MODULES and folder != frozen
    }


def test_no_gene_and_no_cells_of_a_data_set_are_constants_of_the_library():
    checkpoints = PARTS["lingshu_model"] / "checkpoints"
    panels = [json.loads(path.read_text("utf-8")) for path in checkpoints.glob("*/panel.json")]
    configs = [json.loads(path.read_text("utf-8")) for path in checkpoints.glob("*/config.json")]
    names = {gene["symbol"] for panel in panels for gene in panel["genes"]}
    names |= {v for c in configs for entry in c["contexts"] for v in entry["context"].values()}
    assert len(names) > 10_000
    demo = PARTS["lingshu_mcp"] / "demo.py"  # asks one question of one shipped checkpoint
    assert not {
        f"{path.relative_to(ROOT)}: {node.value!r}"
        for path in SOURCES
        if path != demo
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    }


def test_what_is_shipped_imports_no_test_helpers():
    assert not offences(SOURCES, ("lingshu_testing",))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_six_hundred_lines(path: Path):
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE
