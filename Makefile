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

.PHONY: help setup quickstart test test-slow test-gpu test-cluster test-chaos bench scale docs lint clean

help:
	@echo "make quickstart   SDA and Adapt Anything on real handwritten digits: tables, scores, logs and reports"
	@echo "make test         every test that is not marked slow or gpu"
	@echo "make test-slow    the tests marked slow (kill tests at many random moments, two-worker training)"
	@echo "make test-gpu     the tests marked gpu (needs CUDA)"
	@echo "make test-cluster several nodes on this machine: some are lost, some come and go with the load"
	@echo "make test-chaos   100 kills, 50 damaged files, 20 twin drivers: nothing wrong may be served (20 minutes)"
	@echo "make bench        throughput of synthesis and alignment, Ray's overhead, memory"
	@echo "make scale        1 to 256 simulated GPUs, and planning ten million images"
	@echo "make docs         this documentation as a site, in build/site"
	@echo "make lint         style, form and types (ruff, pyright)"

# Says what to do where the set-up would fail: PYTHON is none that pyproject.toml allows, or cannot make environments.
define CHECK
import importlib, re, shutil, sys
low, high = re.search('requires-python = ">=3.([0-9]+),<3.([0-9]+)"', open("pyproject.toml").read()).groups()
good = ["python3.%d" % minor for minor in range(int(high) - 1, int(low) - 1, -1)]
version = "%d.%d" % sys.version_info[:2]
if "python" + version not in good:
    here = [name for name in good if getattr(shutil, "which", lambda _: 0)(name)]
    get = "name one that is here" if here else "install one (your system's package, pyenv or uv) and name it"
    sys.exit("Python 3.%s to 3.%d is needed, and this is %s: %s, such as `make PYTHON=%s quickstart`."
        % (low, int(high) - 1, version, get, (here or ["python3.13"])[0]))
for name in ("venv", "ensurepip"):
    try:
        importlib.import_module(name)
    except ImportError:
        sys.exit("Python %s has no module %s, which makes environments: on Debian and Ubuntu `apt install python3-venv`"
            " (for another than the system's python3: python%s-venv), then the same command again." % (version, name, version))
endef
export CHECK

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "There is no $(PYTHON): on Debian and Ubuntu \`apt install python3 python3-venv\`, or name yours, such as \`make PYTHON=python3.13 quickstart\`." >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK"
	@echo "Setting up $(VENV), once, for quickstart and test alike: pip downloads about 3.5 GB and takes 7 GB of disk, mostly PyTorch with CUDA; 3 minutes on a fast line, else that of the download."
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
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

# Strict: a link that leads nowhere, or a page that is not in the index, fails.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet -f platform/mkdocs.yml -d $(CURDIR)/build/site
	@echo "the documentation: build/site/index.html"

lint: $(STAMP)
	$(BIN)/ruff check platform pipelines tune_spaces tests
	$(BIN)/ruff format --check platform pipelines tune_spaces tests
	$(BIN)/pyright

clean:
	rm -rf build dist .pytest_cache
