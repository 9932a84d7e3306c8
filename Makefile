# Every target sets up what it needs: a virtual environment, then the package with pinned versions.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PYTHONUTF8 = 1
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo real test test-slow test-real test-gpu check bench-attention bench-sharing bench bench-adapters bench-adapters-world demo-full bench-diagnose bench-rewards bench-online bench-theory bench-work bench-hh docs docs-commands docs-losses docs-options bench-league bench-pareto bench-sentiment bench-real-hh bench-collect bench-judge clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev,bench]'
	@touch $@

$(VENV)/.real: $(VENV)/.ready
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev,real]'
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/preftree demo --out demo

# A real model of 135 M weights, fetched once: six answers before and after DPO on 200 pairs; resumable.
real: $(VENV)/.real
	$(BIN)/python benchmarks/real/first_run.py --out runs/real

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.bench
	$(BIN)/python -m pytest -m slow

# Needs the model that benchmarks/real/prepare.py puts into runs/real, or PREFTREE_REAL_MODEL=FILE.
test-real: $(VENV)/.ready
	$(BIN)/python -m pytest -m real

test-gpu: $(VENV)/.ready
	$(BIN)/python -m pytest -m gpu

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Forward and backward of the attention paths, a layer and a model, on the device that there is.
bench-attention: $(VENV)/.ready
	$(BIN)/python benchmarks/attention.py

# Trees across prompts beside trees of one prompt.
bench-sharing: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/sharing.py

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/step.py

# Peak memory and step time: all weights, LoRA, quantised LoRA where installed, TRL with the same LoRA.
bench-adapters: $(VENV)/.bench
	$(BIN)/python benchmarks/adapters.py

# True reward of LoRA and of all weights within 4 nats; resumable.
bench-adapters-world: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/adapters_world.py --out runs/adapters-world

# Every method on one world, three seeds, and one report; as many runs at once as there are cores, resumable.
demo-full: $(VENV)/.ready
	$(BIN)/preftree demo --full --out runs/full

# Planted failures against the checks of `preftree eval diagnose`; about 20 minutes on one core, and resumable.
bench-diagnose: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/diagnose.py --out runs/diagnose

# What a reward model and DPO's policy know of a known reward, in and out of distribution
bench-rewards: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rewards.py --out runs/rewards

# Memory and time of a round of DPO, RLOO and PPO
bench-online: $(VENV)/.ready
	$(BIN)/python benchmarks/online.py

# DPO and RLHF where both can be worked out; the tables of docs/theory.md, about two minutes
bench-theory: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/theory.py

# Seconds of a step by tokens, prompt length, responses and model size; about 10 minutes on one core, and resumable.
bench-work: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/work.py --out runs/work

# make bench-hh DATA=hh.jsonl.gz
bench-hh: $(VENV)/.ready
	$(BIN)/python benchmarks/hh.py --data $(DATA) --out runs/hh

# The table of docs/losses.md, from the docstrings.
docs-losses: $(VENV)/.ready
	$(BIN)/preftree losses --into docs/losses.md

# The documentation site, in site/; a warning is an error.
docs: $(VENV)/.ready
	$(BIN)/mkdocs build --strict

# docs/commands.md, from the command line.
docs-commands: $(VENV)/.ready
	$(BIN)/preftree commands > docs/commands.md

# docs/options.md, from the descriptions of the options.
docs-options: $(VENV)/.ready
	$(BIN)/preftree options --markdown > docs/options.md

bench-league: $(VENV)/.ready
	$(BIN)/python -W ignore benchmarks/league.py --out runs/league

# Two objectives against the exact front: MODPO, labels of the weighted sum, a sum of two losses; about 7 minutes on one
# core, and resumable.
bench-pareto: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/pareto.py --out runs/pareto

# The DPO paper's controlled sentiment on the real model; up to three hours a seed on two cores, and resumable.
bench-sentiment: $(VENV)/.real
	$(BIN)/python benchmarks/real/sentiment.py --out runs/real/sentiment --seeds 0

# make bench-real-hh DATA=hh.jsonl.gz
bench-real-hh: $(VENV)/.real
	$(BIN)/python benchmarks/real/hh.py --data $(DATA) --out runs/real/hh

# Votes a second and waits against the disk's fsync, a project of a million votes, and kills; about five minutes.
bench-collect: $(VENV)/.ready
	PYTHONPATH=tests $(BIN)/python benchmarks/collect.py --out runs/collect

# What a judge of accuracy .8 is worth as a source of labels; about ten minutes on one core, and resumable by seed.
bench-judge: $(VENV)/.ready
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -W ignore benchmarks/judge.py --out runs/judge

clean:
	rm -rf $(VENV) build dist
