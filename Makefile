# Each target does its own set-up in .venv; pip runs again only when pyproject.toml or constraints.txt changed.
#   make demo      the whole pipeline on real play, in minutes on two cores; the report is runs/demo/report.html
#   make play      act in a dream beside the real game, in the browser; PLAY="--run-dir runs/demo" takes another world
#   make test      the fast tests          make slow   those that take minutes, make long tens of them
#   make lint      style and types         make gpu    those that need a CUDA GPU, and the times and memory there
#   make bench     the gate: counts and times of every row against bench/baselines, and the kernels' times on this CPU
#   make embedded-world    the world that ships with the package, anew: the demo by configs/crafter_play.yaml, then packed
#   make chaos     kills, flipped bytes, damaged inputs, failing disks and bad numbers, by the thousand; under 15 minutes
#
# PYTHON names the interpreter (3.11 or newer), PIP_ARGS goes to every pip install. On Linux the registry's torch brings
# the CUDA libraries, some GB of them. Where there is no GPU the CPU build is enough and smaller: give its index, which
# PyTorch's installation page names, with PIP_ARGS="--extra-index-url ...".
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt $(PIP_ARGS)
INPUTS := pyproject.toml constraints.txt

# Two installs at once would tread on one another.
.NOTPARALLEL:

.PHONY: demo play embedded-world test slow long gpu bench chaos lint clean

demo: $(VENV)/.installed-core
	$(BIN)/fastdreamer demo

# PLAY="--port 9000 --open" has other options (fastdreamer play --help).
play: $(VENV)/.installed-play
	$(BIN)/fastdreamer play $(PLAY)

# A run that is there is gone on with; the old world gives way when the new one is whole.
WORLD := fastdreamer/play/embedded
embedded-world: $(VENV)/.installed-core
	$(BIN)/fastdreamer demo --config crafter_play --run-dir runs/play
	rm -rf runs/embedded
	$(BIN)/fastdreamer pack --run-dir runs/play --out runs/embedded --half
	rm -rf $(WORLD)
	mv runs/embedded $(WORLD)

# Two processes, a thread each. The kernels run once more through Triton's interpreter, which must be chosen before
# Triton is imported.
PYTEST := $(BIN)/python -m pytest -q -n 2
test: $(VENV)/.installed-dev
	$(PYTEST) --dist loadfile
	TRITON_INTERPRET=1 $(PYTEST) tests/kernels tests/bench/test_harness.py tests/training/test_kernels_on.py

slow: $(VENV)/.installed-dev
	$(PYTEST) --dist loadfile -m "slow and not long and not gpu"

long: $(VENV)/.installed-dev
	$(PYTEST) --dist loadfile -m "long and not gpu"

# From a plain checkout, with whatever PYTHON has of torch, triton and pytest: one table in ten minutes, whatever fails
# (docs/gpu.md). GPU="--minutes 30" gives it more, GPU=--dry-run tries every part without a GPU.
gpu:
	PYTHONPATH=.:kernels:engines $(PYTHON) -m bench.gpu $(GPU)

# Correctness first, then counts, then times; the rows of the kernels once more by pytest-benchmark.
bench: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 PYTHONPATH=.:kernels:engines $(BIN)/python -m bench.gate --full
	$(BIN)/python -m pytest -q bench --benchmark-group-by=group --benchmark-columns=median,iqr,rounds

# One table of tries and failures (docs/reliability.md). CHAOS=--short takes a minute, CHAOS="--seed 1" tries others.
chaos: $(VENV)/.installed-dev
	PYTHONPATH=.:kernels:engines $(BIN)/python -m bench.chaos $(CHAOS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11 or newer, or name one with PYTHON=..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$("$(PYTHON)" -V 2>&1): FastDreamer needs 3.11 or newer, name one with PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' || { echo "make: $(PYTHON) cannot make virtual environments: install its venv package (python3-venv)" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)

# The development install brings everything of the core one. The interpreter itself is order-only: its time stamp means
# nothing.
$(VENV)/.installed-core: $(INPUTS) | $(VENV)/bin/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-play: $(INPUTS) | $(VENV)/bin/python
	$(INSTALL) -e ".[play]"
	@touch $@ $(VENV)/.installed-core

$(VENV)/.installed-dev: $(INPUTS) | $(VENV)/bin/python
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.installed-core $(VENV)/.installed-play
