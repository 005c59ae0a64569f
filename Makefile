# One command per task. `make help` lists them.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := $(VENV)/.compiled
PROJECTS := pyproject.toml $(wildcard qbridge_*/pyproject.toml)

.DEFAULT_GOAL := help
# Tests wait more than they compute.
PROCESSES ?= $(shell python3 -c 'import os; print(min(24, 3 * (os.cpu_count() or 1)))')
# Tests start some thousand processes: where no bytecode may be written, each would compile all modules anew.
export PYTHONDONTWRITEBYTECODE :=
.PHONY: help env demo wheels test test-pythons test-python-next test-matrix test-dockerfile chaos soak bench check clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

env: $(STAMP) ## Create .venv with the six distributions (editable) and the tools
	@:

$(STAMP): $(PROJECTS) scripts/setup-env.sh
	@scripts/setup-env.sh $(VENV)
	@touch $@

# Six processes that find nothing compiled would each compile the same. What is wrong with a test the run itself shows.
$(COMPILED): $(STAMP)
	@! $(BIN)/pytest --collect-only -qq > /dev/null || touch $@

demo: env ## Run the demonstration; URL=amqp://… or redis://… chooses a broker
	@$(BIN)/python examples/demo.py $(if $(URL),'$(URL)')

wheels: env ## Build the wheels of the six distributions into dist/
	@PYTHON=$(BIN)/python scripts/build-wheels.sh

test: env $(COMPILED) ## Run the tests against private brokers; ARGS='-k name' is passed to pytest
	@scripts/install-brokers.sh
	@scripts/fetch-promtool.sh
	@$(BIN)/pytest -n $(PROCESSES) --dist worksteal $(ARGS)

test-pythons: env ## Run most tests on each Python, from wheels, and with the oldest drivers; PYTHONS='3.13 lowest' chooses
	@scripts/install-brokers.sh
	@PROCESSES=$(PROCESSES) scripts/test-pythons.sh $(ARGS)

test-python-next: ## The same on the Python of Debian's next release (root on Debian)
	@PROCESSES=$(PROCESSES) scripts/test-python-next.sh $(ARGS)

test-matrix: env ## Test the backends on RabbitMQ 4, Redis 8 and Valkey 8 (root on Debian); MATRIX='redis-8' chooses
	@scripts/test-matrix.sh $(ARGS)

test-dockerfile: env ## Run the steps of deploy/Dockerfile in trees of Debian, and try out the image (root on Debian)
	@scripts/test-dockerfile.sh

chaos: env ## Break brokers, connections and workers, and prove that nothing is lost; SEED=, SEEDS=, BACKEND=, FAULT=, JOBS=
	@scripts/install-brokers.sh
	@PYTHONPATH=tests $(BIN)/python -m chaos $(if $(SEED),--seed '$(SEED)') $(if $(BACKEND),--backend '$(BACKEND)') \
		$(if $(FAULT),--fault '$(FAULT)') $(if $(TASKS),--tasks '$(TASKS)') $(if $(FAULTS),--faults '$(FAULTS)') \
		$(if $(TASK_SECONDS),--task-seconds '$(TASK_SECONDS)') $(if $(THREADS),--threads '$(THREADS)') \
		$(if $(SECONDS),--seconds '$(SECONDS)') $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(JOBS),--jobs '$(JOBS)') \
		$(if $(MARKDOWN),--markdown '$(MARKDOWN)')

bench: env ## Measure QBridge and its peers side by side; QUICK=1, ROUNDS=, ONLY=consume,…, WHO=, OUT=, MARKDOWN=, PLOTS=
	@scripts/install-brokers.sh
	@PYTHONPATH=tests:. $(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds '$(ROUNDS)') \
		$(if $(ONLY),--only '$(ONLY)') $(if $(WHO),--who '$(WHO)') $(if $(SCALE),--scale '$(SCALE)') \
		$(if $(OUT),--out '$(OUT)') $(if $(MARKDOWN),--markdown '$(MARKDOWN)') $(if $(PLOTS),--plots '$(PLOTS)') \
		$(if $(LOAD),--load '$(LOAD)')

soak: env ## Run a million tasks through a worker, and prove that nothing grows; COUNT=, URL= or BACKEND=
	@scripts/install-brokers.sh
	@PYTHONPATH=tests $(BIN)/python -m soak $(if $(COUNT),--count '$(COUNT)') $(if $(URL),--url '$(URL)') \
		$(if $(BACKEND),--backend '$(BACKEND)')

check: env ## Check format, lint, types and who imports whom
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@MYPYPATH=tests:.:examples $(BIN)/mypy -p support -p chaos -p soak -p dockerfile -p shop -m benchmarks.__main__ -m benchmarks.idle \
		-m benchmarks.metrics -m benchmarks.asends -m benchmarks.peers.qbridge -m benchmarks.peers.qbridge_app
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports

clean: ## Remove the environment, caches and builds
	@rm -rf $(VENV) .bench-venv .pythons .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist qbridge_*/dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
