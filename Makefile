# make run   the whole assignment in small: own venv, install, train, table, HTML report
# make test  own venv, install with the test extras, lint, all tests
# make test-oldest, make test-newest   the tests with the oldest torch that is supported and with
#   the newest there is, each in a venv of its own; PYTHON=python3.13 for another Python
# make full  every experiment of the report from the start, more than a day; FULL="--data_dir DIR" says where CIFAR-10 is
# make faults  the whole campaign of kills, damage and random input; some hours; results/faults.json
# make mutants  deliberate mistakes, which the fast tests have to notice; minutes; results/mutants.json
# make notebook  open the notebooks; make notebooks  run them all again, in place
# make docs  the documentation site: site/index.html, which opens without a server
# make stale   results whose code has changed since the commit that they come from
# make report, make submission STUDENT=12345678   the report as HTML and PDF, a minute or
#   two; the archive to hand in, some minutes, since it is unpacked and run;
#   STUDENT_NAME="Ada Lovelace" puts a name on the title page
# Nothing here needs an activated venv, and the path may hold spaces.
# WORKERS=4 runs the tests in four processes, of one thread each

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest --numprocesses $(WORKERS) --dist worksteal
# Tests that run once more without the fast operations of torch_nets/fast
PLAIN := $(addprefix tests/, test_both_backends.py test_cnn_both_backends.py test_ensembles.py \
    torch_nets/test_layers.py torch_nets/test_vanilla_rnn.py)
export MPLBACKEND := Agg

# without --no-compile, pip compiles ten thousand files of which most are never imported
QUIET := --quiet --disable-pip-version-check --no-compile
OLDEST := torch==2.11.* torchvision==0.26.*

.PHONY: run full test test-oldest test-newest faults mutants stale lint format docs notebook notebooks bench
.PHONY: report submission student clean

run: .venv/installed
	"$(BIN)/python" scripts/run_quick.py

full: .venv/installed-report
	"$(BIN)/python" scripts/run_full.py $(FULL)

test: lint
	$(PYTEST) -rs
	PURENETS_PLAIN=1 $(PYTEST) $(PLAIN)
	PURENETS_QUICK=1 $(PYTEST) --nbmake --nbmake-timeout=300 notebooks
	-@"$(BIN)/python" -m scripts.stale

# The newest may be newer than setup.cfg allows: that is what is tried
test-oldest test-newest: test-%: .venv-%/installed
	PURENETS_GENERATE=1 $(PYTEST) -rs

test-oldest: BIN := .venv-oldest/bin
test-newest: BIN := .venv-newest/bin

# atheris is not to be had for every Python; its tests are skipped without it
faults: .venv/installed-test
	-"$(BIN)/python" -m pip install $(QUIET) --editable ".[fuzz]"
	rm -f results/faults.json
	PURENETS_FAULTS=results/faults.json "$(BIN)/python" -m pytest tests/faults

mutants: .venv/installed-test
	"$(BIN)/python" -m tests.mutants.run

stale: .venv/installed-test
	"$(BIN)/python" -m scripts.stale

lint: .venv/installed-test
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

format: .venv/installed-test
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --strict
	@echo "open site/index.html"

notebook: .venv/installed-notebooks
	"$(BIN)/jupyter" lab notebooks

notebooks: .venv/installed-test
	"$(BIN)/python" -m nbconvert --to notebook --execute --inplace notebooks/*.ipynb

bench: .venv/installed-bench
	"$(BIN)/python" -m benchmarks

report: .venv/installed-report
	"$(BIN)/python" scripts/make_report.py --name "$(STUDENT_NAME)" --student-number "$(STUDENT)"

student:
	@test -n "$(STUDENT)" || { echo "your student number names the archive: make submission STUDENT=12345678" >&2; exit 2; }

submission: student .venv/installed-report
	"$(BIN)/python" scripts/make_submission.py --name "$(STUDENT_NAME)" --student-number "$(STUDENT)"

clean:
	rm -rf .venv .venv-oldest .venv-newest build site *.egg-info .pytest_cache .ruff_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv-oldest/installed: setup.cfg
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install $(QUIET) --editable ".[test]" $(OLDEST)
	touch $@

.venv-newest/installed: setup.cfg
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install $(QUIET) --editable ".[test]"
	.venv-newest/bin/python -m pip install $(QUIET) --upgrade torch torchvision
	touch $@

# A stamp for each set of extras; setup.cfg changed means install again
.venv/installed: setup.cfg | .venv/bin/python
	"$(BIN)/python" -m pip install $(QUIET) --editable .
	touch $@

.venv/installed-%: setup.cfg | .venv/bin/python
	"$(BIN)/python" -m pip install $(QUIET) --editable ".[$*]"
	touch $@
