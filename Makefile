# Every target makes the environment that it needs. PYTHON and VENV choose another one.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
UV := uv==0.13.9
BIN := $(VENV)/bin
READY := $(VENV)/ready
PLAIN := not postfix and not scheduler and not pythons and not browser

.PHONY: demo test test-postfix test-scheduler test-browser images test-pythons test-wheel test-without-airflow lint format bench bench-faults constraints clean

demo: $(READY)
	$(BIN)/python demo.py

# All tests that need no root.
test: $(READY)
	$(BIN)/pytest -q -n 2 -m "$(PLAIN)" --cov=airflow_smtp_interface.mail --cov-branch --cov-fail-under=100 $(ARGS)

# Needs root and Debian's packages postfix, libsasl2-modules and sasl2-bin.
test-postfix: $(READY)
	$(BIN)/pytest -q -m postfix tests/postfix $(ARGS)

# A whole Airflow: api-server, scheduler, Dag processor, triggerer; tasks are killed under it.
test-scheduler: $(READY)
	$(BIN)/pytest -q -m scheduler tests/scheduler $(ARGS)

# Needs Debian's package chromium.
test-browser: $(VENV)/browser
	$(BIN)/pytest -q -m browser tests/browser $(ARGS)

# The README's pictures, taken by the same tests.
images: $(VENV)/browser
	PICTURES=docs/images $(BIN)/pytest -q -m browser tests/browser $(ARGS)

$(VENV)/browser: $(READY)
	$(BIN)/uv pip install -q --python $(BIN)/python -c $(CONSTRAINTS) --group browser
	touch $@

# The hostile inputs on each CPython of the machine.
test-pythons: $(READY)
	$(BIN)/pytest -q -m pythons -rP tests/hostile $(ARGS)

# The wheel's tests run in a folder of their own, so that nothing of the checkout can be imported by accident.
WHEEL_TESTS = rm -rf build && mkdir -p build && cp -r tests example_dags pyproject.toml README.md build/
INSTALL = $(BIN)/uv venv -q --clear --python $(BIN)/python build/venv && $(BIN)/uv pip install -q --python build/venv -c $(CONSTRAINTS)

test-wheel: $(READY)
	$(WHEEL_TESTS) && $(BIN)/uv build -q --wheel -o build/dist
	$(INSTALL) "$$(ls build/dist/*.whl)[inbox]" --group test
	cd build && venv/bin/python -c 'import airflow_smtp_interface as a; assert "site-packages" in a.__file__, a.__file__'
	cd build && venv/bin/pytest -q -n 2 -m "$(PLAIN)" $(ARGS)

test-without-airflow: $(READY)
	$(WHEEL_TESTS) && $(BIN)/uv build -q --wheel -o build/dist
	$(INSTALL) --no-deps build/dist/*.whl
	$(BIN)/uv pip install -q --python build/venv -c $(CONSTRAINTS) tenacity idna markdownify jinja2 --group test
	cd build && ! venv/bin/python -c 'import airflow'
	cd build && venv/bin/pytest -q -n 2 tests/mail tests/viewer $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Takes a quarter of an hour; as root with delayed round trips, else without. ARGS=--quick takes three minutes.
bench: $(READY)
	$(BIN)/python -m tests.benchmarks.speed $(ARGS)

bench-faults: $(READY)
	$(BIN)/python -m tests.benchmarks.fault_matrix

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(UV)
	$(BIN)/uv pip install -q --python $(BIN)/python -c $(CONSTRAINTS) -e .[inbox] --group test --group lint
	touch $@

# Exact versions for today's Airflow and for the older ones that are supported.
constraints:
	$(BIN)/uv pip compile -q --universal --no-header --no-annotate --no-emit-index-url --upgrade pyproject.toml --extra inbox \
	    --group test --group lint --group browser -o constraints.txt
	echo 'apache-airflow==3.2.2' | $(BIN)/uv pip compile -q --universal --no-header --no-annotate --no-emit-index-url --upgrade \
	    --exclude-newer 2026-07-01 pyproject.toml - --extra inbox --group test --group lint --group browser -o constraints-airflow-3.2.txt
	echo 'apache-airflow==3.1.8' | $(BIN)/uv pip compile -q --universal --no-header --no-annotate --no-emit-index-url --upgrade \
	    --exclude-newer 2026-03-25 pyproject.toml - --extra inbox --group test --group lint --group browser -o constraints-airflow-3.1.txt

clean:
	rm -rf .venv* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
