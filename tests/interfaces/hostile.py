"""A working folder whose files have the names of modules and say so when one is run."""

import sys
from pathlib import Path

DEPENDENCIES = (
    "PIL", "accelerate", "anndata", "anyio", "click", "h5py", "httpx", "lingshu_mcp",
    "lingshu_model", "lingshu_tools", "matplotlib", "mcp", "mcp_types", "numpy", "pandas",
    "pydantic", "safetensors", "scipy", "sitecustomize", "sqlalchemy", "starlette", "torch",
    "tqdm", "usercustomize", "uvicorn",
)  # fmt: skip
PACKAGES = ("matplotlib", "mcp", "torch")


def write_hostile_files(folder: Path) -> Path:
    """Return `folder`, holding a file for every module of Python's and of the dependencies."""
    folder.mkdir(parents=True)
    for name in sorted({*sys.stdlib_module_names, *DEPENDENCIES}):
        code = f"open({str(folder / 'executed')!r}, 'a').write({name + chr(10)!r})\n"
        (folder / f"{name}.py").write_text(code)
        if name in PACKAGES:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(code)
    return folder


def executed(folder: Path) -> list[str]:
    """Return the names of the modules that were run from the folder."""
    record = folder / "executed"
    return record.read_text().splitlines() if record.exists() else []
