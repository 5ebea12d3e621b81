# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard csrc/*/*.[hc]* csrc/*/*/*.[hc]*)

.DEFAULT_GOAL := help
.PHONY: help demo test test-isas emulate gpu-compile sanitize lint format bench bench-quick gpu-check clean

help:
	@echo "make demo         from photographs to verdicts: out/demo/report.html (under 5 minutes after installing)"
	@echo "make test         every test"
	@echo "make test-isas    the CPU kernels' tests with every instruction set of this machine forced but the best"
	@echo "make emulate      the CUDA kernels' tests without a GPU: the kernels run on the CPU (needs nvcc)"
	@echo "make gpu-compile  registers, spills and instructions of every GPU kernel (needs nvcc, no GPU)"
	@echo "make sanitize     the CPU kernels and the emulated CUDA kernels under the address and undefined-behaviour sanitizers (GCC)"
	@echo "make lint         ruff, mypy, clang-format"
	@echo "make format       rewrite the sources as the linters want them"
	@echo "make bench        every case against every library, tables and plots (under 20 minutes)"
	@echo "make bench-quick  the most important cases (2 minutes)"
	@echo "make gpu-check    on a machine with a GPU, offline: build, test, measure (under 9 minutes; PART=matrix for one part)"
	@echo "make clean        remove what was built"

# torch first: the pinned version must be there before anything else asks for any torch
$(VENV)/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# the rows of the matrix that run a kernel, and what only the kernels promise
KERNEL_TESTS := tests/test_ops.py tests/test_properties.py tests/test_prototype_distance.py tests/test_cpu_*.py -k 'not torch and not compiles'
# memory is measured elsewhere: a sanitizer needs several times as much
SANITIZED_TESTS := tests/test_ops.py tests/test_properties.py tests/test_prototype_distance.py tests/test_cpu_*.py -k 'not torch and not compiles and not opcheck and not needs_no_more and not memory_measurement'

demo: $(VENV)/installed
	$(BIN)/vsad demo --out out/demo

# and where nvcc is, the GPU kernels: what they compute, emulated, and what they became
test: $(VENV)/installed
	$(BIN)/python -m pytest tests
	@if command -v nvcc >/dev/null; then $(MAKE) emulate && $(BIN)/python -m vsad.bench.gpu.compile --family cuda --quiet; \
		else echo "no nvcc: the CUDA kernels were not tested"; fi

test-isas: $(VENV)/installed
	isas=$$($(BIN)/python -c "from vsad import _cpu; print(*_cpu.isas()[:-1])") && \
		for isa in $$isas; do $(BIN)/python -m pytest -q --isa $$isa $(KERNEL_TESTS) || exit 1; done

# the rows of the matrix that the emulated CUDA kernels run
emulate: $(VENV)/installed
	VSAD_CUDA=emulate $(BIN)/python setup.py --quiet build_ext --build-lib build/emulate
	VSAD_EMULATED=build/emulate $(BIN)/python -m pytest -q tests -k cuda

gpu-compile: $(VENV)/installed
	$(BIN)/python -m vsad.bench.gpu.compile

# In a copy of the tree, so that the extension in use stays as it is. The leaks that are found are Python's own.
sanitize: $(VENV)/installed
	mkdir -p build/sanitize
	git ls-files -z -- . ':!docs' ':!bench/results' | xargs -0 cp -pP --parents -t build/sanitize
	cd build/sanitize && for cuda in 0 emulate; do VSAD_SANITIZE=1 VSAD_CUDA=$$cuda \
		$(abspath $(BIN))/python setup.py --quiet build_ext --inplace || exit 1; done
	cd build/sanitize && ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
		$(abspath $(BIN))/python -m pytest -q -p no:cacheprovider $(SANITIZED_TESTS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --allow-untyped-calls --allow-untyped-decorators --allow-subclassing-any -p vsad.ops
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu')

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu')

# the libraries that we compare ourselves with
$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

BENCH = $(BIN)/python -m pytest bench -q --benchmark-group-by=group --benchmark-columns=median,iqr,rounds

bench: $(VENV)/installed-bench
	$(BENCH) --results bench/results
	$(BIN)/python -m vsad.bench.report

bench-quick: $(VENV)/installed-bench
	$(BENCH) --quick --results out/bench

# With the Python at hand, not .venv: nothing can be installed where there is no network.
gpu-check:
	$(PYTHON) -m vsad.bench.gpu.check $(PART:%=--part %) $(ARGS)

clean:
	rm -rf build dist *.egg-info vsad/*.so out .pytest_cache .mypy_cache .ruff_cache
