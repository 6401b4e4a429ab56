# `make demo` and `make test` need Python 3.11 or newer, make and a package index; nothing else.
PYTHON ?= python3
WORKERS ?= 2
KILLS ?= 300
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -c constraints.txt

# Without bytecode every process compiles torch again: a minute each on slow cores. pip's --no-compile
# leaves it to the first import, which this would forbid.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo reference-ledger test style lint format coverage proofs crash bundle page page-check docs docs-check figures clean

help:
	@echo "make demo              install, then screen 25 knock-outs and replay one"
	@echo "make test              install, then ruff, pyright and pytest"
	@echo "make lint | format     check (ruff, pyright), or mend, style and types"
	@echo "make coverage          every branch of the ledger is tested"
	@echo "make proofs            the long tests"
	@echo "make crash             kill ledger writers at random, 300 of them or KILLS=…, RESULTS=FILE to go on"
	@echo "make reference-ledger  remake experiments.db from the demo's experiments"
	@echo "make bundle            dist/: the wheel, and the .mcpb for desktop clients"
	@echo "make page | page-check build the lab page from its sources, or check that it is current (npm)"
	@echo "make docs              the documentation site in docs/_site, strictly, with its notebooks executed"
	@echo "make docs-check        links, code blocks and error texts of all pages"
	@echo "make figures           draw the figures of the documentation again"
	@echo "make clean             remove the environment, caches and the demo's home"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"lingshu-tools needs Python 3.11 or newer, and $(PYTHON) is {v}. Try: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .venv

# torch first and alone: it is most of the download, and a failure there is easier to read.
.venv/.run: constraints.txt pyproject.toml | $(BIN)/python
	@echo "installing lingshu-tools into .venv (once; torch is large)"
	@$(PIP) torch
	@$(PIP) -e ".[all]"
	@touch $@

.venv/.dev: .venv/.run
	@echo "installing the test tools"
	@$(PIP) -e ".[all,dev]"
	@touch $@

demo: .venv/.run
	@$(BIN)/lingshu demo

reference-ledger: .venv/.run
	@$(BIN)/lingshu demo --record experiments.db

# A test that fails beside others runs once more alone: a busy machine is no defect of the code, and
# both outcomes are on the screen. Exit status 1 of pytest means that tests failed.
test: lint
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" || { \
	  [ $$? = 1 ] && echo "The failed tests once more, one at a time:" && \
	  $(BIN)/python -m pytest -q -n 0 -m "not slow" --last-failed --last-failed-no-failures none; }

style: .venv/.dev
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

lint: style
	@$(BIN)/pyright

format: .venv/.dev
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format -q .

# Another file than the tests' own, so that two runs at a time do not mix.
coverage: .venv/.dev
	@COVERAGE_FILE=.coverage.ledger $(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" --cov --cov-report=term tests/ledger tests/archive

proofs: .venv/.dev
	@$(BIN)/python -m pytest -q -m slow

crash: .venv/.run
	@$(BIN)/python -m benchmarks.ledger.crash --kills $(KILLS) $(if $(RESULTS),--results $(RESULTS))

bundle: .venv/.run
	@$(BIN)/python -m pip wheel -q --no-deps -w dist .
	@$(BIN)/python mcp_server/bundle/pack.py dist/lingshu_tools-*.whl dist/lingshu-tools.mcpb
	@ls -l dist

mcp_server/page/node_modules: mcp_server/page/package-lock.json
	@cd mcp_server/page && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

page: mcp_server/page/node_modules
	@node mcp_server/page/build.mjs

page-check: mcp_server/page/node_modules
	@node mcp_server/page/build.mjs --check

.venv/.docs: .venv/.run
	@echo "installing the documentation tools"
	@$(PIP) -e ".[docs]"
	@touch $@

# A warning is an error: a link or an anchor that leads nowhere, a page outside the contents. The
# notebooks work in a home of their own, whose engine is stopped at the end.
docs: .venv/.docs
	@$(BIN)/python -m docs.builder docs/_site

docs-check: .venv/.dev
	@$(BIN)/python -m pytest -q -n $(WORKERS) tests/documentation tests/test_pages.py

figures: .venv/.run
	@$(BIN)/python -m docs.builder.figures docs/figures

clean:
	rm -rf .venv demo-home build dist docs/_site .pytest_cache .ruff_cache .hypothesis htmlcov .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
