# Asked to run, not only to exist: a version manager's shim may be there without its version.
PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test fuzz lint venv clean

demo: $(STAMP)
	$(BIN)/clip-antidote demo --out runs/demo

# Whole files of tests are divided among a few processes of one thread each (tests/conftest.py).
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

# Broken and hostile inputs: many more cases of the fast tier, then real processes of the command line with limits, then
# kill -9 at random moments. Every part runs, whatever came of those before; the last lines say what came of each. A case
# that fails is kept in runs/fuzz with the command that repeats it.
fuzz: $(STAMP)
	$(BIN)/python tests/fuzz/everything.py --times $(or $(TIMES),5) --cases $(or $(CASES),1360) --kills $(or $(KILLS),20)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(STAMP)

# torch and torchvision come first and together: resolved apart, they may not fit each other.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install torch torchvision
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@

# Leaves runs/ alone: results are not build products.
clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
