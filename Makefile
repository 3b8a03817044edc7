# One verb a target. `make demo` and `make test` set up whatever they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := pipeline operators model jobs
DEMO ?= build/demo
SAMPLE ?= 20
SEED ?= 0

.PHONY: demo test test-docs test-faults docs install links format lint types wheel bench train score notebook screenshots check clean help

help:            ## say what each target does
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  *##' Makefile | sed -E 's/:.*##/ -/'

demo: $(VENV)/.installed  ## draw videos, index them, ask, compare the answers with the truth
	$(BIN)/malmm demo $(DEMO)

# Three at once, which two cores do in less time than two: tests that start clusters wait for processes more than they
# compute. A file's tests share what it makes. In the order of the files, so that the long ones of tests/integration
# come first and short ones fill all three to the end.
test: $(VENV)/.installed-dev  ## run the tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not faults"

test-docs: $(VENV)/.installed-dev  ## run all of the task pages, the examples and the notebook
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/integration/test_task_pages.py \
		tests/integration/test_talks_page.py tests/integration/test_jobs_page.py tests/integration/test_finetune_pages.py \
		tests/integration/test_examples.py tests/integration/test_notebook.py

# Rounds are independent, and any of them can be had again: `make test-faults SAMPLE=1 SEED=17`.
test-faults: $(VENV)/.installed-dev  ## let things fail at random places, SAMPLE rounds from SEED on
	$(BIN)/python -m pytest -n 2 -m faults --fault-sample $(SAMPLE) --fault-seed $(SEED)

install: $(VENV)/.installed-dev links  ## install for development

# The folders import as malmm.*; type checkers and editors need to see them laid out so.
links:
	mkdir -p build/types/malmm
	for package in $(PACKAGES); do ln -sfn ../../../$$package build/types/malmm/$$package; done

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[serve]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

format: $(VENV)/.installed-dev  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed-dev  ## check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# What a language server is asked for: every package, and a name that is defined in one of them.
define EVERY_PACKAGE
import tomllib
with open("pyproject.toml", "rb") as settings:
    packages = tomllib.load(settings)["tool"]["setuptools"]["packages"]
print("# pyright: basic", *(f"import {name}" for name in packages), "print(malmm.pipeline.index)", sep="\n")
endef
export EVERY_PACKAGE

types: $(VENV)/.installed-dev links  ## check types, and that editors find every package
	MYPYPATH=build/types:tests $(BIN)/mypy $(PACKAGES:%=-p malmm.%)
	MYPYPATH=build/types:tests:benchmarks $(BIN)/mypy --allow-untyped-defs tests benchmarks examples docs
	$(BIN)/python -c "$$EVERY_PACKAGE" > build/every_package.py
	$(BIN)/basedpyright --level error build/every_package.py

# The wheel is tried in an environment of its own, which sees the dependencies but not the source tree.
# From the source distribution, so that this is tried as well. Other Pythons that are here take the wheel without its
# dependencies, and compile all of it.
wheel: $(VENV)/.installed-dev  ## build the wheel and try it
	rm -rf build/lib build/wheel build/wheel-3.* dist
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv --without-pip build/wheel
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
		> "$$(build/wheel/bin/python -c 'import site; print(site.getsitepackages()[0])')/dependencies.pth"
	$(BIN)/pip --python build/wheel/bin/python install --quiet --no-deps --force-reinstall dist/*.whl
	cd build/wheel && ./bin/malmm demo-videos videos --minutes 0.2 \
		&& ./bin/malmm index videos --archive archive --model demo --json > report.json \
		&& ./bin/malmm show --archive archive \
		&& ./bin/python -c "import malmm.pipeline.indexing.index as m; assert 'site-packages' in m.__file__, m.__file__"
	for version in 3.11 3.12 3.13; do \
		python$$version -c "" 2>/dev/null || { echo "no python$$version here: the wheel was not tried on it"; continue; }; \
		python$$version -m venv --without-pip build/wheel-$$version \
			&& $(BIN)/pip --python build/wheel-$$version/bin/python install --quiet --no-deps dist/*.whl \
			&& build/wheel-$$version/bin/python -W error -m compileall -q build/wheel-$$version/lib \
			&& echo "python$$version takes the wheel" || exit 1; \
	done

# Broken links, anchors and missing pages are errors. Not --quiet: what is not said is not counted either.
docs: $(VENV)/.installed-dev links  ## build the documentation as a site: build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

screenshots: $(VENV)/.installed-dev  ## take the pictures of the page anew, which needs Chromium
	$(BIN)/python docs/take_screenshots.py

notebook: $(VENV)/.installed-dev  ## run the notebook and keep what its cells show
	PYTHONPATH=tests $(BIN)/python -m support.notebooks examples/memory.ipynb

bench: $(VENV)/.installed-dev  ## run all benchmarks (hours): build/bench/benchmarks.md
	$(BIN)/python benchmarks/all.py build/bench

train: $(VENV)/.installed  ## train the demo models anew (hours)
	$(BIN)/python -m malmm.model.demo.training build/training
	$(BIN)/python -m malmm.model.demo.training.plain_stages build/training

score: $(VENV)/.installed  ## measure the demo model: the tables of docs/demo-model.md
	$(BIN)/python benchmarks/demo_model.py build/scored

check: lint types test wheel  ## all of the above that can fail

clean:  ## remove what was built, but not the environment
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
