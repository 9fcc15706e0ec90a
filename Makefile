# Every target works in a clean checkout: it makes .venv and installs what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Flower's telemetry, update check and run-time installs stay off everywhere.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1

.PHONY: demo e2e faults load sbom smoke test test-all check format mutants bench install install-test clean

demo: $(VENV)/.installed
	$(BIN)/fedvox demo

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "fedvox needs Python 3.11: set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

# A test that hangs ends with the stacks of all threads, and fails; the slowest takes two minutes and a half.
WATCHED := --timeout 900 --timeout-method thread

# One torch thread per worker; three share two cores, since the long stories wait for processes a third of their
# time. In the order of collection, which begins with the long files: else one worker would end alone.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest $(WATCHED) -n 3 --dist loadfile --no-loadscope-reorder --durations 12 -m "not slow and not hospitals and not load and not smoke"

test-all: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not hospitals and not load"

# The tiny demo, and every arm of the segmentation experiment for seconds each: 5 minutes.
smoke: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest $(WATCHED) -m smoke --durations 3 tests/e2e/test_segmentation_command.py

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Coordinator and sites as hosts of their own, in network namespaces: needs root, nginx and iproute2. And the runbook,
# as written. Two files at a time, for processes mostly wait for one another; the long files first.
e2e: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -rP --durations 0 --durations-min 5 \
		$(addprefix tests/e2e/test_,refusals.py hospitals.py canaries.py deployment.py)

# The server's memory with 4 and with 32 sites and a model of 50 MB; what a round costs beside training. On a quiet
# machine; 20 to 35 minutes.
load: $(VENV)/.installed-test
	$(BIN)/pytest -m load -s tests/e2e/test_many_sites.py tests/e2e/test_overhead.py tests/e2e/test_start_times.py

# Everything that breaks, at every moment of a round, one run each; resumable. Needs what `make e2e` needs.
faults: $(VENV)/.installed-test
	$(BIN)/python -m tests.faults.run

# Plants known privacy bugs and fails if the tests miss one: some minutes.
mutants: $(VENV)/.installed-test
	$(BIN)/python tests/mutants/run.py

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.run

# What a release consists of: a CycloneDX bill of materials and the licences of all that it brings, told from an
# environment that holds nothing else. Some minutes.
sbom:
	$(PYTHON) -m venv build/release && $(PYTHON) -m venv build/sbom-tools
	build/release/bin/pip install --quiet --disable-pip-version-check -c constraints.txt .
	build/sbom-tools/bin/pip install --quiet --disable-pip-version-check -c constraints.txt cyclonedx-bom pip-licenses
	mkdir -p sbom
	build/sbom-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--of JSON -o sbom/fedvox.cdx.json build/release/bin/python
	build/sbom-tools/bin/pip-licenses --python build/release/bin/python --with-urls --format markdown \
		--output-file sbom/LICENCES.md

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
