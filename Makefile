# Each target sets itself up in .venv first; a second run finds the stamp and does no set-up work.
PYTHON ?= python3
DEMO ?= demo
STAMP := .venv/.ntdm-ready

.PHONY: demo test lint bench setup

demo: $(STAMP)
	.venv/bin/ntdm demo $(DEMO)

test: $(STAMP)
	.venv/bin/pytest -q $(TESTS)

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run --Werror $(wildcard cuda/*.cpp cuda/*.h cuda/*.cu)
	rm -rf build/types && mkdir -p build/types && cp -R ntdm build/types && cp -R data_prep reports cli.py build/types/ntdm
	cd build/types && ../../.venv/bin/mypy --config-file ../../pyproject.toml -p ntdm # laid out as installed: mypy knows no package-dir

bench: $(STAMP)
	for script in benchmarks/bench_*.py; do .venv/bin/python $$script || exit 1; done

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt .ci/setup
	PYTHON="$(PYTHON)" sh .ci/setup
	touch $@
