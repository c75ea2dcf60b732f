# Needs make, a POSIX shell and Python 3.11 to 3.14; everything else is installed into .venv (tools/setup.sh).

SHELL = /bin/sh
# Which run to make: a name in bpo_utils/profiles
PROFILE = mini
# Which Python makes .venv; empty: the first good one of python3, python3.14 ... python3.11
PYTHON ?=
BIN = .venv/bin
# Papermill's and the editors' traces; cell ids are ours and stay
STRIP = --keep-id --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution \
	metadata.widgets metadata.language_info.version"

.PHONY: help reproduce reproduce-all report test lint lab training rlhf clean distclean venv

help:  ## print this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

reproduce: venv  ## the experiment from data to report; PROFILE=mini is the default, what is up to date is skipped
	@$(BIN)/bpo run --profile "$(PROFILE)"
	@$(BIN)/bpo report --profile "$(PROFILE)"

reproduce-all: venv  ## the same with the further experiments (07 and up), which the report then includes
	@$(BIN)/bpo run --profile "$(PROFILE)" --all
	@$(BIN)/bpo report --profile "$(PROFILE)"

report: venv  ## the report again, from a run that is there: HTML and PDF, in English and Chinese
	@$(BIN)/bpo report --profile "$(PROFILE)"

test: lint  ## lint, then every test, one run of all notebooks among them
	$(BIN)/python -m pytest

lint: venv  ## code style, and the rules that the notebooks keep
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify $(STRIP) notebooks/*.ipynb
	$(BIN)/python -m bpo_utils.checks

lab: venv  ## open the notebooks in JupyterLab
	$(BIN)/python -m jupyterlab notebooks

training: venv  ## add DeepSpeed and peft to .venv, for training on GPUs; the miniature does without
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-training.txt -c requirements.lock

rlhf: venv  ## add TRL to .venv, for the comparison with RLHF by that library (notebook 08)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-rlhf.txt -c requirements.lock

clean:  ## remove runs/ (every result in it) and caches; .venv and figures/ stay
	rm -rf runs dist build/lib build/bdist.* bpo_utils.egg-info .pytest_cache .ruff_cache
	find bpo_utils tests notebooks benchmarks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv and build/ (unfinished model training) too
	rm -rf .venv build

venv:  ## make .venv, or bring it up to date; every target that needs it does this first
	@PYTHON="$(PYTHON)" sh tools/setup.sh
