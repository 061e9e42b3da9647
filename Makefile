# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv themselves.
# Everything installed comes from constraints.txt's exact versions; pyproject.toml holds the ranges a user's pip sees.

PYTHON ?= python3
# Where to take torch from, if not from the package index. On Linux the ordinary wheel brings gigabytes of CUDA libraries;
# without a GPU: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# The versions that wheel-test installs, a file of pip constraints; /dev/null: the newest of everything.
CONSTRAINTS ?= constraints.txt
# Further flags for pytest: make test PYTEST_FLAGS="-m slow"
PYTEST_FLAGS ?=

TORCH = $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch

.PHONY: help demo test lint wheel-test oldest-test common-tests clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        the whole story on built-in data, in a few minutes: vocabulary, pretraining, translation (runs/demo)"
	@echo "make test        run the tests"
	@echo "make lint        check style (ruff) and types (pyright)"
	@echo "make wheel-test  build the sdist and the wheel, and run the tests against the wheel in a clean environment"
	@echo "make oldest-test the same with the oldest versions that pyproject.toml allows"
	@echo "make common-tests run transformers' own common tests on our classes, and on MarianMT and BART beside them"
	@echo "make clean       remove what the other targets made, except runs/"
	@echo "Variables: PYTHON=$(PYTHON)  TORCH_INDEX=$(TORCH_INDEX)  PYTEST_FLAGS=$(PYTEST_FLAGS)"

demo: .venv/.installed
	.venv/bin/vanilla-transformer demo --output-dir runs/demo

test: .venv/.installed
	.venv/bin/pytest $(PYTEST_FLAGS)

lint: .venv/.installed
	.venv/bin/ruff check
	.venv/bin/pyright

# The stamp is newer than both files exactly when the last installation finished.
# torch goes first and alone, so that the choice of its build (TORCH_INDEX) touches nothing else.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=...")'
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt $(TORCH)
	.venv/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# An editable installation hides missing files and wrong package data. Here the wheel, built from the sdist, lies in an
# environment of its own, and the tests run from a folder in which the source rooms cannot be found.
wheel-test: .venv/.installed
	@set -eu; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; unset PYTHONPATH; \
	.venv/bin/python -m build --outdir "$$folder/dist" . > "$$folder/build.log" 2>&1 || { cat "$$folder/build.log"; exit 1; }; \
	wheel=$$(ls "$$folder"/dist/*.whl); echo "built $$(basename "$$wheel"); installing it"; \
	.venv/bin/python -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip install --quiet -c $(CONSTRAINTS) $(TORCH); \
	"$$folder/venv/bin/python" -m pip install --quiet -c $(CONSTRAINTS) "$$wheel[test,trackers]"; \
	mkdir "$$folder/checkout"; cp -R tests pyproject.toml "$$folder/checkout/"; \
	if [ -d ../shared/data ]; then export VANILLA_TRANSFORMER_DATA="$${VANILLA_TRANSFORMER_DATA:-$(abspath ../shared/data)}"; fi; \
	export VANILLA_TRANSFORMER_WHEEL="$$wheel"; \
	cd "$$folder/checkout"; \
	"$$folder/venv/bin/pytest" tests/test_packaging.py -m slow; \
	"$$folder/venv/bin/pytest" $(PYTEST_FLAGS)

# Old versions of what we stand on warn about new versions of what they stand on.
oldest-test: .venv/.installed
	@set -eu; file=$$(mktemp); trap 'rm -f "$$file"' EXIT; \
	.venv/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*(d.replace(">=", "==") for d in sum((p["optional-dependencies"][extra] for extra in ("search", "ctranslate2", "sentences", "serve")), p["dependencies"])), sep="\n")' > "$$file"; \
	$(MAKE) wheel-test CONSTRAINTS="$$file" PYTEST_FLAGS="-W default $(PYTEST_FLAGS)"

# The tests come from transformers' source distribution, which is downloaded and not kept.
common-tests: .venv/.installed
	RUN_SLOW=1 .venv/bin/python tests/transformers_suite/run.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find tokenization modeling training deployment scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
