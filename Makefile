# make lab            set up, copy the course to my-course, open JupyterLab (only needs Python 3.11)
# make test           style, types, library, every lesson's outputs, answers to the exercises
# make proofs         what takes longer: answers on many seeds, challenges, hostile submissions, and
#                     lessons, exercises and commands in an environment with nothing else
# make coverage       which lines of sltools the quicker tests reach
# make test-newest    the same with the newest versions of all packages
# make test-browser   drive a real browser through a lesson
# make notebooks      build and run the lessons whose sources changed
# make reproduce      run what is missing in course/results/depth.csv: hours
#
# make lab ARGS="--no-browser --port=8899"    pass options to JupyterLab
# make lab GPU=1                              torch with CUDA, from the default index
# make lab PYTHON=python3.12                  another Python

PYTHON = python3
VENV = .venv
BARE = .venv-bare
CONSTRAINTS = constraints.txt
TORCH_INDEX = https://download.pytorch.org/whl/cpu
ARGS =
GPU =

BIN = $(VENV)/bin
CACHE = .cache
# Not compiled: Python does that for the modules that are used, when they are.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
CONSTRAIN = $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

# Lessons run beside each other on one thread each, with pictures in place of live widgets.
# Victims are trained once for all of them.
HEADLESS = OMP_NUM_THREADS=1 SLTOOLS_STATIC=1 PYTHONDONTWRITEBYTECODE= \
	SLTOOLS_CACHE=$(CURDIR)/$(CACHE)
PYTEST = $(HEADLESS) $(BIN)/python -m pytest -q
NBVAL = --nbval --nbval-current-env --nbval-cell-timeout=120 \
	--nbval-sanitize-with=tests/nbval_sanitize.cfg
QUICK = not browser and not proofs
BALANCED = -n 2 --dist worksteal
# One kernel per notebook: its cells must stay together.
TWO_AT_ONCE = -n 2 --dist loadfile

.PHONY: lab test proofs coverage test-newest test-browser reproduce notebooks

lab: $(VENV)/.lab
	$(BIN)/sltools lab my-course $(ARGS)

test: $(VENV)/.dev
	@echo "== 1/3 style and types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@echo "== 2/3 library, grading, exercises on right and wrong answers"
	$(PYTEST) $(BALANCED) -m "$(QUICK)" --durations=36
	@echo "== 3/3 every lesson gives the outputs it shows"
	$(PYTEST) $(TWO_AT_ONCE) $(NBVAL) course/*.ipynb course/appendix/*.ipynb

proofs: $(VENV)/.dev $(BARE)/.installed
	$(PYTEST) $(BALANCED) -m proofs --bare=$(BARE) --durations=36

coverage: $(VENV)/.dev
	$(PYTEST) $(BALANCED) -m "$(QUICK)" --cov --cov-fail-under=90

test-newest:
	rm -rf .venv-newest .venv-bare-newest
	$(MAKE) test proofs VENV=.venv-newest BARE=.venv-bare-newest CONSTRAINTS=

test-browser: $(VENV)/.torch
	$(PIP) $(CONSTRAIN) --editable ".[dev,browser]"
	$(BIN)/python -m pytest -m browser -rs -s tests/browser

reproduce: $(VENV)/.dev
	$(BIN)/python -m benchmarks.reproduce $(ARGS)

notebooks: $(VENV)/.dev
	$(BIN)/python -m tools.notebooks $(ARGS)

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is not."; \
		echo "Install it from https://www.python.org, then: make lab PYTHON=python3.12"; exit 1; }
	@echo "== setting up $(VENV), a few minutes the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(GPU),)
	$(BIN)/python tools/install_torch.py $(TORCH_INDEX) $(CONSTRAINTS)
endif
	@touch $@

$(VENV)/.lab: $(VENV)/.torch pyproject.toml
	@echo "== installing sltools and what it needs"
	$(PIP) $(CONSTRAIN) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "== installing sltools and what it needs"
	$(PIP) $(CONSTRAIN) --editable ".[dev]"
	@touch $@

# What a learner without `make` installs: the package and what it names, and nothing for developers.
$(BARE)/.installed: pyproject.toml constraints.txt $(shell find sltools course exercises solutions -type f -not -name '*.pyc')
	rm -rf $(BARE)
	$(MAKE) $(BARE)/.torch VENV=$(BARE)
	$(BARE)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $(CONSTRAIN) .
	@touch $@
