# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
# Tests run without what containers and CI set and a user's shell has not: it would hide what fails for users.
# pip keeps it for the set-up. The switches of BLAS (OPENBLAS_*, NVPL_BLAS_*) stay: some processors need them.
UNSET := CI BUILD_NUMBER DEBIAN_FRONTEND IS_SANDBOX PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED RUST_BACKTRACE \
	PIP_% %_CA_BUNDLE %_CA_CERTS %_CA_CERTS_FILE %SSL_CERT_DIR %SSL_CERT_FILE GIT_SSL_CAINFO \
	GRPC_DEFAULT_SSL_ROOTS_FILE_PATH
# Four test processes: files that start Ray in one of them, one after the other, and wait often; the rest in all.
WORKERS ?= 4
SPREAD := -n $(WORKERS) --dist loadscope --no-loadscope-reorder
CLEAN := env $(addprefix -u ,$(sort $(filter $(UNSET),$(.VARIABLES))))
PYTEST := $(CLEAN) $(BIN)/python -m pytest

.PHONY: help setup quickstart test test-slow test-gpu test-cluster test-chaos bench scale lint clean

help:
	@echo "make quickstart   SDA and Adapt Anything on real handwritten digits: tables, scores, logs and reports"
	@echo "make test         every test that is not marked slow or gpu"
	@echo "make test-slow    the tests marked slow (kill tests at many random moments, two-worker training)"
	@echo "make test-gpu     the tests marked gpu (needs CUDA)"
	@echo "make test-cluster several nodes on this machine: some are lost, some come and go with the load"
	@echo "make test-chaos   100 kills, 50 damaged files, 20 twin drivers: nothing wrong may be served (20 minutes)"
	@echo "make bench        throughput of synthesis and alignment, Ray's overhead, memory"
	@echo "make scale        1 to 256 simulated GPUs, and planning ten million images"
	@echo "make lint         style, form and types (ruff, pyright)"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info[:2] <= (3, 14); sys.exit(0 if ok else "Python 3.10, 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

setup: $(STAMP)

quickstart: $(STAMP)
	$(BIN)/diffadapt run quickstart
	$(BIN)/diffadapt run adapt_anything/digits

test: $(STAMP)
	$(PYTEST) tests -m "not slow and not gpu" $(SPREAD)

test-slow: $(STAMP)
	$(PYTEST) tests -m "slow and not gpu"

test-gpu: $(STAMP)
	$(PYTEST) tests -m gpu

test-cluster: $(STAMP)
	$(PYTEST) -s tests/fault/test_nodes.py tests/fault/test_autoscaling.py -m slow

# CHAOS="--kills 4 --damages 6 --twins 2" for a smaller one
test-chaos: $(STAMP)
	$(CLEAN) $(BIN)/python -m tests.chaos $(CHAOS)

bench: $(STAMP)
	$(BIN)/python -m tests.bench

scale: $(STAMP)
	$(BIN)/python -m tests.bench.scale_out
	$(BIN)/python -m tests.bench.planning

lint: $(STAMP)
	$(BIN)/ruff check platform pipelines tune_spaces tests
	$(BIN)/ruff format --check platform pipelines tune_spaces tests
	$(BIN)/pyright

clean:
	rm -rf build dist .pytest_cache
