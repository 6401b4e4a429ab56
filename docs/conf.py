"""Settings of the documentation site; `make docs` builds it.

The source folder is the repository's root, so that pages link to each other, to results and to
files as they do on a forge, and every such link is checked.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "lingshu-tools"
author = "the lingshu-tools contributors"
project_copyright = f"2026, {author}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs.builder.extension"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "benchmarks/**.md", "*.md"]
# README has the same content as the start page; links to it lead there (docs.builder.extension).
exclude_patterns = ["README.md", "docs/_site", "**/.*", ".*", "runs", "demo-home", "dist", "build"]

source_suffix = {".md": "myst-nb"}
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Docstrings are Markdown: a single backtick marks code.
default_role = "code"
highlight_language = "none"
autodoc_typehints = "none"
autodoc_member_order = "bysource"

# Pages of docs/notebooks are run at every build, with one home and one engine for all of them.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_merge_streams = True
os.environ["LINGSHU_REPOSITORY"] = str(ROOT)

html_theme = "furo"
html_title = "lingshu-tools"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
