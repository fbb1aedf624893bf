# Words to remember. Each sets up .venv by itself when it is missing; PYTHON=... chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO := simulated_mice_demo
TESTERS ?= 2

export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check bench report clean
.SILENT:

help:
	echo "make demo    simulated mice, a small sweep, a leaderboard: a few minutes"
	echo "make test    every test, in two processes (TESTERS=...)"
	echo "make check   format, lint, types"
	echo "make bench   speed, as ratios"
	echo "make report  leaderboards of finished runs, into reports/"
	echo "make clean   remove what the tools cached; keeps store/, runs/ and .venv"

# The demo stays inside this folder, whatever the environment says.
demo: export ETHORAY_STORE := $(CURDIR)/store
demo: export ETHORAY_RUNS := $(CURDIR)/runs
demo: $(READY) store/$(DEMO)/manifest.json
	env -u MLFLOW_TRACKING_URI $(BIN)/python sweeps/bams_dilation.py --dataset $(DEMO) --seeds 0 1 --steps 40
	echo
	echo "Browse the runs in MLflow:"
	echo "  $(BIN)/ethoray ui"
	echo "  then open http://127.0.0.1:5000"

store/$(DEMO)/manifest.json: | $(READY)
	$(BIN)/python datasets/simulated_mice.py --out $(DEMO) --recordings 60

test: $(READY)
	$(BIN)/python -m pytest -n $(TESTERS) --dist worksteal

check: $(READY)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/python -m ethoray.report.check reports

bench: $(READY)
	for file in $(filter-out %/timing.py,$(wildcard tests/bench/*.py)); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

report: $(READY)
	$(BIN)/ethoray report --mlflow --out reports

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	echo "setting up .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq -r requirements.lock
	$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	touch $@
