"""The door to the kernels: arguments as C takes them, errors by name, the fixture that swaps the kernels."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ntdm.ops import build, kernels
from ntdm.ops.uv_scatter import uv_scatter

# A kernel of each library in two types. It writes down what it was called with; for a negative number of rows
# it returns that, as a code: 700 is an illegal address, to CUDA.
PROBE = """
#include <cstdint>
#define PROBE(NAME, LAST) \\
    extern "C" int NAME(void* in, void* mask, int64_t rows, double scale, int64_t* out, LAST last) { \\
        if (rows < 0) return -rows; \\
        out[0] = int64_t(in), out[1] = int64_t(mask), out[2] = rows, out[3] = int64_t(1e6 * scale); \\
        out[4] = int64_t(last); \\
        return 0; \\
    }
PROBE(ntdm_probe_f32, int)
PROBE(ntdm_probe_f64, int)
PROBE(ntdm_cuda_probe_f32, void*)
PROBE(ntdm_cuda_probe_bf16, void*)
"""


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.cpp").write_text(PROBE)
    compiler = build.CPU.compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    source, library = str(folder / "probe.cpp"), str(folder / "libprobe.so")
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(library)


@pytest.fixture
def on(probe: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch):
    """Sends calls to the probe, as a kernel of one build or the other."""

    def choose(cuda: bool) -> None:
        monkeypatch.setattr(kernels, "target", lambda data: kernels.Target(lambda: probe, cuda))

    return choose


def test_arguments_become_c_types_and_the_thread_count_is_last(on):
    on(cuda=False)
    tensor, out = torch.zeros(3), torch.zeros(5, dtype=torch.int64)
    kernels.call("probe", tensor, None, 2**40, 0.5, out)
    assert out.tolist() == [tensor.data_ptr(), 0, 2**40, 500000, torch.get_num_threads()]
    mask = torch.ones(2, dtype=torch.bool)
    kernels.call("probe", tensor.double(), mask, 3, 1.0, out)
    assert out[1:4].tolist() == [mask.data_ptr(), 3, 1000000]


def test_arrays_go_to_one_thread(on):
    on(cuda=False)
    array, out = np.zeros(3), np.zeros(5, np.int64)
    kernels.call("probe", array, None, 7, 0.25, out)
    assert out.tolist() == [array.ctypes.data, 0, 7, 250000, 1]


def test_the_cuda_build_is_called_by_its_own_name_and_types(on):
    on(cuda=True)
    for dtype in (torch.float32, torch.bfloat16):
        tensor, out = torch.zeros(3, dtype=dtype), torch.zeros(5, dtype=torch.int64)
        kernels.call("probe", tensor, None, 2, 0.5, out)
        assert out.tolist() == [tensor.data_ptr(), 0, 2, 500000, 0]
    with pytest.raises(AttributeError, match="ntdm_cuda_probe_f64"):
        kernels.call("probe", torch.zeros(3).double(), None, 2, 0.5, out)


def test_an_error_code_is_an_exception(on):
    on(cuda=False)
    out = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(MemoryError, match="probe"):
        kernels.call("probe", torch.zeros(3), None, -kernels.NO_MEMORY, 0.5, out)
    with pytest.raises(AssertionError, match="probe ended with code 700"):
        kernels.call("probe", torch.zeros(3), None, -700, 0.5, out)


@pytest.mark.gpu
def test_an_error_code_of_cuda_is_its_exception(on):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on(cuda=True)
    with pytest.raises(torch.cuda.CudaError, match="illegal"):
        kernels.call("probe", torch.zeros(3, device="cuda"), None, -700, 0.5, None)


def test_what_a_kernel_cannot_walk_is_refused(on):
    out = torch.zeros(5, dtype=torch.int64)
    for cuda in (False, True):
        on(cuda)
        with pytest.raises(AssertionError, match="probe"):
            kernels.call("probe", torch.zeros(3, 4).T, None, 1, 0.5, out)
        with pytest.raises(AssertionError, match="probe"):
            kernels.call("probe", torch.zeros(3), out[::2], 1, 0.5, out)
        with pytest.raises(AssertionError, match="probe"):
            kernels.call("probe", torch.zeros(3), torch.zeros(3, device="meta"), 1, 0.5, out)
    on(cuda=False)
    with pytest.raises(AssertionError, match="probe"):
        kernels.call("probe", np.zeros((3, 4)).T, None, 1, 0.5, np.zeros(5, np.int64))
    assert not out.any()


def test_numbers_do_not_pass_for_one_another(on):
    """A double read as an integer is any number: types are those of the call, not of the first one."""
    on(cuda=False)
    out = torch.zeros(5, dtype=torch.int64)
    for rows, scale in ((1, 0.5), (2, 0.5), (1, 0.25)):
        kernels.call("probe", torch.zeros(3), None, rows, scale, out)
        assert out[2:4].tolist() == [rows, int(1e6 * scale)]
    for wrong in (True, np.float64(0.5), "2"):
        with pytest.raises(AttributeError):
            kernels.call("probe", torch.zeros(3), None, wrong, 0.5, out)


def test_advice_about_pages_changes_nothing_else(on):
    """Outputs of 6 MB, off the page's start, and an empty one."""
    on(cuda=False)
    out = torch.arange(3 * kernels.HUGE_PAGE // 8)[5:]
    kernels.call("probe", torch.zeros(3), None, 1, 0.5, out)
    assert torch.equal(out[5:], torch.arange(10, len(out) + 5))
    with pytest.raises(MemoryError):
        kernels.call("probe", torch.zeros(0), torch.zeros(0), -1, 0.5, torch.zeros(0))


def test_the_device_fixture_swaps_the_kernels(request, device, monkeypatch):
    """By what is loaded and called, not by what the fixture says that it does."""
    calls, original = [], kernels.call

    def call(name, *arguments):
        calls.append((name, kernels.target(arguments[0]).library()))
        original(name, *arguments)

    monkeypatch.setattr(kernels, "call", call)
    uv = torch.rand(1, 3, 3, 2)
    uv_scatter(uv, uv, torch.ones(1, 3, 3, dtype=torch.bool), 4)
    names, libraries = [name for name, _ in calls], {library for _, library in calls}
    if "cpu" in request.node.callspec.id:
        assert names == ["uv_scatter"] and libraries == {kernels.library()}
    else:
        assert names == ["uv_scatter_count", "uv_scatter_list", "uv_scatter_average"]
        assert libraries == (
            {kernels.cuda_library()} if device == "cuda" else {request.getfixturevalue("host_kernels")}
        )


def test_an_array_needs_no_torch(checkout: Path) -> None:
    """Preparing datasets runs one kernel in many workers: importing torch would cost each a second."""
    code = """if True:
        import sys
        sys.modules["torch"] = None  # importing it is an error
        import importlib.util
        import numpy as np
        from ntdm.ops import amodal_mask, kernels
        triangle = np.array([[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]]), np.array([[0, 1, 2]])
        viewpoint = np.array([0.0, np.pi / 2, 0.0, 4.0])
        mask = amodal_mask.amodal_mask(triangle, viewpoint, 40.0, np.array([8.0, 8.0]), (16, 16))
        print(int(mask.sum()))"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 50, done.stderr
