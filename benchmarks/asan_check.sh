#!/bin/sh
# The operators' tests with the kernels built for AddressSanitizer and UndefinedBehaviorSanitizer: the CPU's, and the
# CUDA sources as a C++ compiler takes them. The first read or write outside a tensor, overflow or bad cast ends the
# run. Usage: benchmarks/asan_check.sh [PYTEST ARGUMENT...]; PYTHON names the interpreter, CXX a g++ (12 or later).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}
real=${CXX:-g++}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# What ntdm and its tests compile goes through this compiler.
cat >"$scratch/c++" <<EOF
#!/bin/sh
exec $real "\$@" -g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all
EOF
chmod +x "$scratch/c++"
export CXX="$scratch/c++" XDG_CACHE_HOME="$scratch" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
# Python and torch keep memory until they end: leaks are not looked for. A test that limits memory is left out, too:
# the sanitizer ends a process that runs out of it.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1

LD_PRELOAD="$($real -print-file-name=libasan.so) $($real -print-file-name=libstdc++.so.6)" "$python" - "$@" <<'EOF'
import dataclasses
import sys

import pytest

from ntdm.ops import build, kernels

# Another name: the library that is there already is not taken.
build.CPU = dataclasses.replace(build.CPU, flags=(*build.FLAGS, "-DNTDM_SANITIZED"))
kernels.library()
operators = ("uv_scatter", "rasterize", "texture_lookup", "texture_update", "amodal_mask", "cuda_lanes")
tests = [f"tests/ops/test_{name}.py" for name in operators]
sys.exit(pytest.main(["-q", "--capture=sys", "-p", "no:cacheprovider", "-k", "not compile and not than_memory", *tests, *sys.argv[1:]]))
EOF
echo "asan_check: nothing found"
