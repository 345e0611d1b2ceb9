# Every target first builds the environment in .venv, where it is missing or older than what it is built from.
# Packages come from requirements.lock alone, each with its hash; no model hub is ever asked.
.DELETE_ON_ERROR:
.PHONY: help repro verify figures train test test-browser test-remotes test-slurm lint env lock

UV := $(if $(shell uv --version 2>/dev/null),uv,.uv/bin/uv)
PRIVATE_UV := $(filter .uv/bin/uv,$(UV))
PYTHON := >=3.11,<3.14
ENV := .venv/.complete
REMOTES := .venv-remotes/.complete
# An environment holds absolute paths: in a folder that was moved or copied it is stale too.
$(foreach env,$(ENV) $(REMOTES),$(if $(filter-out $(shell cat $(env) 2>/dev/null),$(CURDIR)),$(eval .PHONY: $(env))))

export HF_HUB_OFFLINE := 1
export DVC_NO_ANALYTICS := 1
export UV_PYTHON_DOWNLOADS := never
# Each stage imports a lot, which takes half a minute where Python may not keep the bytecode.
unexport PYTHONDONTWRITEBYTECODE
DVC = PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/dvc

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' Makefile | expand -t 22

repro: $(ENV) ## build the mini profile and a page of it all; say whether it is what is committed
	@.venv/bin/featspace repro mini
	@.venv/bin/featspace report
	@.venv/bin/featspace reproduced

verify: $(ENV) ## measure the published images again, and compare with the tables and figures; decodes nothing
	.venv/bin/featspace verify

figures: $(ENV) ## draw again the figures whose code or data changed
	$(DVC) repro figures-mini featinv_figures@mini

# Freed memory is kept, which spares a training a tenth of its time; THREADS and SECONDS are limits, if they are given.
train: $(ENV) ## train the small models on what is idle, or go on; stop it at any time
	cd training && MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_MMAP_THRESHOLD_=4294967296 \
	    nice -n 19 ../.venv/bin/python -m featspace_training.schedule \
	    $(if $(THREADS),--threads $(THREADS)) $(if $(SECONDS),--seconds $(SECONDS))

test: $(ENV) ## run the tests; some talk to a hub that they serve themselves
	HF_HUB_OFFLINE=0 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# Debian's Chromium, or Chrome; Playwright's own browsers are never downloaded.
test-browser: $(ENV) ## test the page that `make repro` builds in a browser
	@{ command -v chromium || command -v google-chrome || { test "$$(id -u)" = 0 && apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends chromium; }; } >/dev/null 2>&1 || \
	    { echo "make: no chromium or google-chrome found, nor can it be installed from here: put one on PATH" >&2; exit 1; }
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m browser tests/browser

test-remotes: $(ENV) $(REMOTES) ## test a DVC remote, on a server of S3 that the test starts
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m remotes tests/remotes

# Debian's Slurm; its daemons run on 127.0.0.1 alone, as who calls this, and end with the tests.
test-slurm: export PATH := $(PATH):/usr/sbin
test-slurm: $(ENV) ## test the pipeline on a Slurm of its own, and what Kubernetes would be sent
	@{ { command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged; } || \
	    { test "$$(id -u)" = 0 && apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends slurm-wlm munge; }; } >/dev/null 2>&1 || \
	    { echo "make: no Slurm and munge found, nor can they be installed from here: install slurm-wlm and munge" >&2; exit 1; }
	$(UV) pip install -q --python .venv --require-hashes --no-deps -r profiles/requirements.lock
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m slurm tests/clusters

lint: $(ENV) ## check code, format, types, and that rooms import downwards only
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy

env: $(ENV) ## build the environment alone

# What clusters and the test of remotes need besides has files of its own, as every stage depends on requirements.lock.
lock: | $(PRIVATE_UV) ## resolve what is needed into the three files of pinned packages
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes -q \
	    -o requirements.lock
	$(UV) pip compile tests/remotes/requirements.in --universal --python-version 3.11 --generate-hashes -q \
	    -o tests/remotes/requirements.lock
	$(UV) pip compile --group cluster -c requirements.lock --universal --python-version 3.11 --generate-hashes -q \
	    --custom-compile-command 'make lock' --no-annotate -o profiles/requirements.lock \
	    $$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.lock | sort -u)

# A source archive has no .git, and DVC wants to be told. The last line marks the environment complete: one whose build
# was interrupted is built anew.
$(ENV): requirements.lock pyproject.toml | $(PRIVATE_UV)
	@rm -f $@ && rm -rf .venv
	@$(UV) python find '$(PYTHON)' >/dev/null 2>&1 || \
	    { echo "make: no Python 3.11, 3.12 or 3.13 found: install one and put it on PATH" >&2; exit 1; }
	$(UV) venv -q --python '$(PYTHON)' .venv
	$(UV) pip install --python .venv --require-hashes --build-constraints requirements.lock -r requirements.lock
	$(UV) pip install -q --python .venv --no-deps --no-build-isolation -e .
	@test -e .git || $(DVC) config --local core.no_scm true
	@echo '$(CURDIR)' > $@

# DVC with S3, and the server, apart: what they need does not go together with the lock.
$(REMOTES): tests/remotes/requirements.lock | $(PRIVATE_UV)
	@rm -rf .venv-remotes
	$(UV) venv -q --python '$(PYTHON)' .venv-remotes
	$(UV) pip install --python .venv-remotes --require-hashes --build-constraints requirements.lock \
	    -r tests/remotes/requirements.lock
	@echo '$(CURDIR)' > $@

.uv/bin/uv:
	@rm -rf .uv .uv.part
	python3 -m venv .uv.part
	.uv.part/bin/python -m pip install -q uv==0.13.9
	@mv .uv.part .uv
