PYTHON ?= python
TESTS = $(CURDIR):$(CURDIR)/benchmarks:$(CURDIR)/tests/core:$(CURDIR)/tests/comfyui:$(CURDIR)/tests/gpu:$(CURDIR)/tests/browser

.PHONY: check format types lint

check: lint types

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# The pack is imported under whatever name its folder has; for the type checker it is called carlos_pack. Tests import their helpers
# as neighbours.
types:
	mkdir -p .typecheck
	ln -sfn $(CURDIR) .typecheck/carlos_pack
	MYPYPATH=.typecheck $(PYTHON) -m mypy -p carlos_pack.carlos_core -p carlos_pack.nodes
	for room in core comfyui gpu browser; do (cd tests && MYPYPATH=$(TESTS) $(PYTHON) -m mypy --config-file ../pyproject.toml \
		--explicit-package-bases --namespace-packages $$room) || exit 1; done
