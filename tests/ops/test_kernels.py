"""The door to the kernels: arguments as C takes them, errors by name, and the fixture that swaps kernels."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ntdm.ops import kernels
from ntdm.ops.rasterize import rasterize
from ntdm.ops.uv_scatter import uv_scatter


class Probe:
    """A kernel that keeps its arguments; it returns `status`."""

    def __init__(self, status: int = 0) -> None:
        self.status, self.calls = status, []

    def __call__(self, *arguments: ctypes.c_void_p | ctypes.c_int64) -> int:
        self.calls.append([(type(a), a.value) for a in arguments])
        return self.status


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Probe:
    probe = Probe(7)
    library = SimpleNamespace(ntdm_probe_f32=probe, ntdm_probe_f64=probe)
    monkeypatch.setattr(kernels, "library", lambda: library)
    return probe


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Probe:
    probe = Probe()
    monkeypatch.setattr(kernels, "uses_cuda", lambda device: True)
    monkeypatch.setattr(kernels, "stream", lambda device: 1234)
    monkeypatch.setattr(kernels, "cuda_library", lambda: SimpleNamespace(ntdm_cuda_probe_f32=probe))
    return probe


def expected(tensor: torch.Tensor) -> list[tuple[type, float | int | None]]:
    return [
        (ctypes.c_void_p, tensor.data_ptr()), (ctypes.c_int64, 2**40), (ctypes.c_double, 0.5),
        (ctypes.c_void_p, None),
    ]  # fmt: skip


def test_arguments_become_c_types_and_the_thread_count_is_last(on_cpu):
    tensor = torch.zeros(3)
    assert kernels.call("probe", tensor, 2**40, 0.5, None) == 7
    assert on_cpu.calls == [[*expected(tensor), (ctypes.c_int, torch.get_num_threads())]]


def test_on_cuda_the_stream_is_last(on_cuda):
    tensor = torch.zeros(3)
    assert kernels.call("probe", tensor, 2**40, 0.5, None) == 0
    assert on_cuda.calls == [[*expected(tensor), (ctypes.c_void_p, 1234)]]


def test_arrays_are_taken_and_the_first_floating_type_names_the_kernel(on_cpu):
    counts, numbers = np.zeros(2, np.int64), np.zeros(2)
    kernels.call("probe", counts, numbers)
    assert [value for _, value in on_cpu.calls[0][:2]] == [counts.ctypes.data, numbers.ctypes.data]
    kernels.call("probe", counts, numbers, dtype=np.dtype("float32"))
    with pytest.raises(AttributeError, match="ntdm_probe_f16"):
        kernels.call("probe", torch.zeros(2, dtype=torch.float16))


def test_an_error_code_is_an_exception(on_cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "CudaError", lambda code: RuntimeError(f"CUDA error {code}"))
    on_cuda.status = 700
    with pytest.raises(RuntimeError, match="CUDA error 700"):
        kernels.call("probe", torch.zeros(3))


@pytest.mark.parametrize("argument", [torch.zeros(3, 4).T, np.zeros((3, 4), np.float32).T])
def test_memory_with_holes_is_refused(on_cpu, argument):
    with pytest.raises(AssertionError, match="probe"):
        kernels.call("probe", argument)
    assert not on_cpu.calls


def test_the_device_fixture_swaps_the_kernels(request, device, monkeypatch):
    launched, original = [], kernels.cuda_library
    monkeypatch.setattr(kernels, "cuda_library", lambda: launched.append(1) or original())
    uv = torch.rand(1, 3, 3, 2)
    uv_scatter(uv, uv, torch.ones(1, 3, 3, dtype=torch.bool), 4)
    by_scatter = len(launched)
    triangle = torch.tensor([[[-1.0, -1, -3], [1, -1, -3], [0, 1, -3]]])
    rasterize(triangle, torch.tensor([[0, 1, 2]]), torch.tensor([4.0]), torch.tensor([[2.0, 2.0]]), (4, 4))
    swapped = "cpu" not in request.node.callspec.id
    assert (by_scatter > 0) == swapped and (len(launched) > by_scatter) == swapped
