# Each target works by itself on a fresh machine with Python 3.11+: it makes .venv and installs what it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check test-slow test-gpu bench format clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[models,ray,dev]"
	# transformers' video processor, the reference of our tests, needs torchvision: its Python part alone, out of the way
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/reference torchvision==0.28.0
	touch $@

demo: $(READY)  ## Qwen2.5-Omni on a tiny random checkpoint: text, image, audio and video in; text and speech out
	$(BIN)/python examples/demo/make_media.py demo
	$(BIN)/omni-graph run qwen2_5_omni --launcher processes --messages demo/messages.json --greedy --seed 0 \
	  --max-tokens 40 --param talker.max_tokens=150 --speech demo/answer.wav --trace demo/trace.jsonl

test: $(READY)  ## every test that fits 15 minutes on two cores
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)  ## soaks and long matrices
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY)  ## parity on a GPU; skipped where there is none (TEST_DEVICE=cpu runs the same tests on the CPU)
	$(BIN)/python -m pytest -rs tests/gpu

check: $(READY)  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## every benchmark, each under 12 minutes: tables here, samples and plots in benchmarks/results
	set -e; for name in start hop overhead faults first_audio total throughput throughput_speech join slow_client live; do \
	  $(BIN)/omni-graph bench $$name --json benchmarks/results/$$name.json --plot benchmarks/results/$$name.svg; done

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo dist build
