PYTHON ?= python

.PHONY: check format types lint fuzz

check: lint types

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# The pack is imported under whatever name its folder has; for the type checker it is called carlos_pack.
types:
	mkdir -p .typecheck
	ln -sfn $(CURDIR) .typecheck/carlos_pack
	MYPYPATH=.typecheck $(PYTHON) -m mypy -p carlos_pack.carlos_core -p carlos_pack.nodes
	MYPYPATH=$(CURDIR) $(PYTHON) -m mypy --explicit-package-bases tests fuzz benchmarks scripts --exclude tests/assets

# Longer: make fuzz EXECUTIONS=1000000
EXECUTIONS ?= 10000
fuzz:
	$(PYTHON) -m fuzz --executions $(EXECUTIONS)
