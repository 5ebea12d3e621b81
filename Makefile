# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard csrc/*/*.[hc]* csrc/*/*/*.[hc]*)
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# A checkout's kernels are compiled for the instruction sets of this machine, and for all where everything is tested.
export VSAD_ISAS ?= native
# Two workers even where there are more cores: some tests need 2 GB of memory. A worker runs whole files, because the tests
# of a file share what it has made, and the long files first (tests/conftest.py). Idle threads sleep: those of one worker
# would otherwise spin on the other's core.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-isas emulate gpu-compile sanitize lint format bench bench-quick gpu-check clean

help:
	@echo "make demo         from photographs to verdicts: out/demo/report.html (under 5 minutes after installing)"
	@echo "make install      what every other command does first: makes .venv and compiles the kernels (5 minutes on 2 cores)"
	@echo "make test         every test but the slow ones; with nvcc also the CUDA kernels, emulated and for one architecture"
	@echo "                  (8 minutes on 2 cores, 4 more to emulate); continuous integration runs it with VSAD_CUDA=0"
	@echo "make test-all     the slow tests too, every instruction set, and the GPU kernels for every architecture"
	@echo "                  (about an hour on 2 cores); the weekly job and a release run it"
	@echo "make test-isas    the CPU kernels' tests with every instruction set of this machine forced but the best"
	@echo "make emulate      the CUDA kernels' tests without a GPU: the kernels run on the CPU (needs nvcc)"
	@echo "make gpu-compile  registers, spills and instructions of every GPU kernel (needs nvcc, no GPU)"
	@echo "make sanitize     the CPU kernels and the emulated CUDA kernels under the address and undefined-behavior sanitizers (GCC)"
	@echo "make lint         ruff, mypy, pyright, clang-format"
	@echo "make format       rewrite the sources as the linters want them"
	@echo "make bench        every case against every library, tables and plots (under 20 minutes)"
	@echo "make bench-quick  the most important cases (2 minutes)"
	@echo "make gpu-check    on a machine with a GPU, offline: build, test, measure (about 12 minutes; PART=tests for one part)"
	@echo "make clean        remove what was built"

# The kernels need no package but pybind11: they are compiled while the others are installed, and not by pip, which hides
# the compiler's progress; it finds them compiled. Python 3.10 cannot read the list: there pip installs all at the end.
PACKAGES := import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['dev'], sep='\n')
$(VENV)/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) 'setuptools>=77' pybind11 ninja
	@echo "installing the other packages and compiling the kernels"
	@$(BIN)/python -c "$(PACKAGES)" > $(VENV)/packages.txt 2>/dev/null || echo torch > $(VENV)/packages.txt
	@$(PIP) -r $(VENV)/packages.txt & packages=$$!; $(BIN)/python setup.py --quiet build_ext --inplace; built=$$?; \
		wait $$packages && exit $$built
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $@

# The rows of the matrix that run a kernel, and what only the kernels promise.
KERNEL_TESTS := tests/test_ops.py tests/test_properties.py tests/test_prototype_distance.py tests/test_homography_align.py tests/test_cpu_*.py -k 'not torch and not compiles'
# Tests that measure memory are left out: a sanitizer needs several times as much.
SANITIZED_TESTS := tests/test_ops.py tests/test_properties.py tests/test_random_calls.py --calls 10000 tests/test_prototype_distance.py tests/test_homography_align.py tests/test_cpu_*.py -k 'not torch and not compiles and not opcheck and not needs_no_more and not memory_measurement'

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/vsad demo --out out/demo

test: $(VENV)/installed
	$(PYTEST) tests
	@if command -v nvcc >/dev/null; then \
		$(MAKE) emulate && { [ "$$VSAD_CUDA" = 0 ] || $(BIN)/python -m vsad.bench.gpu.compile --family cuda --quiet; }; \
		else echo "no nvcc: the CUDA kernels were not tested"; fi

test-all: export VSAD_ISAS = all
test-all: $(VENV)/installed
	$(BIN)/python setup.py --quiet build_ext --inplace
	$(PYTEST) tests --slow
	$(MAKE) test-isas
	@if command -v nvcc >/dev/null; then $(MAKE) emulate SLOW=--slow && $(MAKE) gpu-compile; \
		else echo "no nvcc: the CUDA kernels were not tested"; fi

test-isas: $(VENV)/installed
	isas=$$($(BIN)/python -c "from vsad import _cpu; print(*_cpu.isas()[:-1])") && \
		for isa in $$isas; do $(PYTEST) --isa $$isa $(KERNEL_TESTS) || exit 1; done

# The rows of the matrix that the emulated CUDA kernels run, and what only the CUDA kernels promise.
emulate: $(VENV)/installed
	VSAD_CUDA=emulate $(BIN)/python setup.py --quiet build_ext --build-lib build/emulate
	VSAD_EMULATED=build/emulate $(PYTEST) $(SLOW) tests -k "cuda and not bench"

# Every architecture of a release, in a module beside the one in use.
gpu-compile: $(VENV)/installed
	VSAD_CUDA=1 VSAD_CUDA_ARCHS=release $(BIN)/python setup.py --quiet build_ext --build-lib build/release
	$(BIN)/python -m vsad.bench.gpu.compile --module build/release/vsad/_cuda.*.so

# In a copy of the tree, so that the extension in use stays as it is. Leaks are not looked for: those found are Python's.
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
	$(BIN)/basedpyright
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu')

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu')

# The libraries that we compare ourselves with.
$(VENV)/installed-bench: $(VENV)/installed
	$(PIP) --no-build-isolation -e '.[bench]'
	touch $@

BENCH = $(BIN)/python -m pytest bench -q --benchmark-group-by=group --benchmark-columns=median,iqr,rounds

bench: $(VENV)/installed-bench
	$(BENCH) --results bench/results
	$(BIN)/python -m vsad.bench.report

bench-quick: $(VENV)/installed-bench
	$(BENCH) --quick --results out/bench

# With the Python at hand instead of .venv: nothing can be installed where there is no network.
gpu-check:
	$(PYTHON) -m vsad.bench.gpu.check $(PART:%=--part %) $(ARGS)

clean:
	rm -rf build dist *.egg-info vsad/*.so out .pytest_cache .mypy_cache .ruff_cache
