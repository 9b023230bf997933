# Every target sets up what it needs in ./.venv and nothing outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := constraints.txt
NATIVE := $(shell find c_ext -type f)

.PHONY: always help demo test ci-tools validate validate-tools bench train-demo refit-demo sanitize lint format wheel clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@command -v g++ >/dev/null || { echo "g++ is missing: apt-get install g++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# An editable install lists its modules once: a changed .py needs no reinstall, a new one does.
$(VENV)/.modules: always | $(BIN)/python
	@find mammofm_lite export quant -name '*.py' | sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(VENV)/.runtime: pyproject.toml $(PINS) $(NATIVE) $(VENV)/.modules | $(BIN)/python
	$(PIP) install --quiet --constraint $(PINS) --editable .
	@touch $@

$(VENV)/.develop: $(VENV)/.runtime
	$(PIP) install --quiet --constraint $(PINS) --editable '.[export,test]'
	@touch $@

$(VENV)/.lint: pyproject.toml $(PINS) | $(BIN)/python
	$(PIP) install --quiet --constraint $(PINS) $$(sed -n '/^lint = \[/,/^\]/p' pyproject.toml | grep -oE '"[^"]+"' | tr -d '"') 
	@touch $@

# Seeds chosen to show both: of 23 a spiculated cancer and benign calcifications in the right breast, of 1 nothing.
demo: $(VENV)/.runtime ## make a study with a cancer and a normal one, run the four heads on both, show the results
	$(BIN)/mammofm-lite phantom demo-study/cancer --seed 23 --force
	$(BIN)/mammofm-lite infer demo-study/cancer -o demo-out/cancer --write json,text,png,html --force
	$(BIN)/mammofm-lite phantom demo-study/normal --seed 3 --force
	$(BIN)/mammofm-lite infer demo-study/normal -o demo-out/normal --write json,text,png,html --force
	@echo; ls -1 demo-out/*; echo 'open demo-out/cancer/result.html in a browser'

# Where CI is set, the programs that judge our results are installed first.
test: $(VENV)/.develop $(if $(CI),ci-tools) ## install what the tests need, run them all
	$(BIN)/python -m pytest

# VALIDATE=--allow-missing passes over what is not installed, and says so.
validate: $(VENV)/.develop ## hold DICOM results of every kind against the public validators
	$(BIN)/python tests/validate/run.py $(VALIDATE)

VALIDATORS := dicom3tools dcmtk pixelmed-apps default-jdk-headless orthanc
INSTALL := DEBIAN_FRONTEND=noninteractive apt-get --quiet -o DPkg::Lock::Timeout=60 -o Acquire::http::Timeout=20
validate-tools: ## install the programs that make validate and the tests ask (Debian 12, needs root)
	$(INSTALL) update
	$(INSTALL) install --yes --no-install-recommends $(VALIDATORS) chromium fonts-dejavu-core

# Where they cannot be installed their tests are skipped, each with its reason.
ci-tools: | $(BIN)/python
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		timeout 300 $(MAKE) --no-print-directory validate-tools >$(VENV)/ci-tools.log 2>&1 \
			|| { tail -n 20 $(VENV)/ci-tools.log; echo "NOT INSTALLED: validators and browser"; }; \
	else echo "NOT INSTALLED: validators and browser need apt-get and root"; fi

$(VENV)/.bench: $(VENV)/.runtime
	$(PIP) install --quiet --constraint $(PINS) --editable '.[export,bench]'
	@touch $@

FULL := build/full.mfm
$(FULL): $(VENV)/.bench export/recipes/full-synthetic.toml
	$(BIN)/mammofm-lite export export/recipes/full-synthetic.toml -o $@ --force

FULL8 := build/full-int8.mfm
$(FULL8): $(FULL)
	$(BIN)/mammofm-lite quantize $(FULL) --phantoms 3 -o $@ --rounds 0 --accept-drift --force

bench: $(VENV)/.bench $(FULL) $(FULL8) ## latency and memory, of the demo and the full-size bundle, and the peers beside them
	$(BIN)/mammofm-lite bench
	$(BIN)/mammofm-lite bench --bundle $(FULL)
	$(BIN)/python benchmarks/peers.py $(FULL) $(FULL8)
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/encoder.py $(FULL) $(FULL8)
	$(BIN)/python benchmarks/scaling.py $(FULL) $(FULL8) --plot build/scaling.png
	$(BIN)/mammofm-lite bench --bundle $(FULL8)

# Stopped at any moment, the same command goes on. HOURS=0.1 tries it out.
HOURS := 2.2
# START=mammofm_lite/bundles/demo.mfm goes on from what is shipped; SEED chooses the phantoms, too.
START :=
SEED := 0
DEMO_MODEL := build/demo-model
BUNDLE := $(DEMO_MODEL)/demo-int8.mfm
train-demo: $(VENV)/.develop ## train the demonstration model on phantoms: two hours on two cores, or a GPU
	$(BIN)/python -m mammofm_lite.export.training $(DEMO_MODEL) --hours $(HOURS) --seed $(SEED) $(if $(START),--start $(START))

# Of a quantized bundle: what the report head hears is then what it was taught on.
# EXACT is its twin in float32: malignancy is fitted anew, too.
EXACT :=
refit-demo: $(VENV)/.develop ## teach the report head of BUNDLE (INT8) more, on its own encoder; writes demo-refit.mfm
	$(BIN)/python -m mammofm_lite.export.training.refit $(BUNDLE) $(DEMO_MODEL)/demo-refit.mfm --folder $(DEMO_MODEL) --seed $(SEED) $(if $(EXACT),--exact $(EXACT))

# FUZZ_SECONDS of every fuzz; a crash leaves its input in /dev/shm/mammofm-fuzz-*/last-input.
FUZZ_SECONDS := 60
sanitize: $(VENV)/.develop ## the C library under address, undefined-behaviour and thread sanitizers, and fuzzed
	PATH=$(abspath $(BIN)):$$PATH bash c_ext/fuzz/sanitize.sh $(FUZZ_SECONDS)

lint: $(VENV)/.runtime $(VENV)/.lint ## ruff, mypy, clang-format: the checks a change must pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find c_ext -name '*.cpp' -o -name '*.hpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.lint ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find c_ext -name '*.cpp' -o -name '*.hpp' -o -name '*.h' | xargs $(BIN)/clang-format -i

wheel: | $(BIN)/python ## build the wheel into dist/
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist

clean: ## remove what was built
	rm -rf build dist demo-study demo-out $(VENV)
