#!/bin/sh
# Everything about CUDA that needs a GPU, in one call: builds, tests, compute-sanitizer, 100 repeats bit for bit,
# times. Usage: benchmarks/gpu_check.sh [OUT]; PYTHON names the interpreter, which needs torch, numpy, h5py, pillow
# and pytest: the operators run from the checkout. With open3d and Kaolin also the distances of fit-shapes. Every step runs, whatever the others do; exit code 1 if one failed.
set -u
cd "$(dirname "$0")/.."
out=${1:-gpu_check}
python=${PYTHON:-python3}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$python" -c "import torch; raise SystemExit(not torch.cuda.is_available())" || {
    echo "gpu_check: $python sees no CUDA device through torch" >&2
    exit 2
}
mkdir -p "$out"
failed=""

step() { # step NAME COMMAND...: into OUT/NAME.log and onto the screen
    name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    { "$@" 2>&1; echo $? >"$out/$name.rc"; } | tee "$out/$name.log"
    [ "$(cat "$out/$name.rc")" = 0 ] || failed="$failed $name"
    rm -f "$out/$name.rc"
}

step machine nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
step build "$python" -c "
import time
from ntdm.ops import build, kernels
start = time.time()
kernels.cuda_library()
print(build.CUDA.built(), f'{time.time() - start:.1f} s')"
step tests "$python" -m pytest -q -m gpu -rs tests/ops/test_kernels.py tests/ops/test_uv_scatter.py tests/ops/test_rasterize.py \
    tests/ops/test_rasterize_kaolin.py tests/ops/test_texture_lookup.py tests/ops/test_texture_update.py \
    tests/shapes/test_nearest_faces.py
step repeat "$python" benchmarks/repeat.py --device cuda --repeats 100

# torch's own kernels are not looked at: only ours, by name.
sanitizer=${SANITIZER:-$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)}
if [ -x "$sanitizer" ]; then
    for tool in memcheck racecheck synccheck; do
        step "$tool" "$sanitizer" --tool "$tool" --error-exitcode 1 --kernel-regex kns=ntdm \
            "$python" benchmarks/repeat.py --device cuda --repeats 1
    done
else
    echo "compute-sanitizer: not there, not run"
    failed="$failed sanitizer"
fi

step bench_uv_scatter "$python" benchmarks/bench_uv_scatter.py --device cuda --paper
step bench_rasterize "$python" benchmarks/bench_rasterize.py --device cuda

if "$python" -c "import ntdm.cli" 2>/dev/null; then
    step demo "$python" -c "from ntdm.cli import main; main()" demo --quick --device cuda "$out/demo"
    if "$python" -c "from ntdm.shapes import nearest_faces; raise SystemExit(bool(nearest_faces.missing()))"; then
        for device in cpu cuda; do # Kaolin's fit beside open3d's: quality and seconds a category
            step "shapes_$device" "$python" -c "from ntdm.cli import main; main()" fit-shapes --device $device \
                --cad-root "$out/demo/data/PASCAL3D+_release1.1" --out "$out/shapes_$device"
        done
    else
        echo "Kaolin: not there, fit-shapes on CUDA not run"
    fi
fi
[ -z "$failed" ] || { echo "gpu_check: failed:$failed"; exit 1; }
echo "gpu_check: all held"
