"""Calls of CUDA launchers: arguments as C takes them, errors by name, and the fixture that swaps kernels."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

from ntdm.ops import kernels
from ntdm.ops.uv_scatter import uv_scatter


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What reaches a launcher called `probe`, which returns 700 (an illegal address) for a negative int."""
    received: list[tuple] = []

    def probe(*arguments):
        received.append(arguments)
        return 700 if arguments[1].value < 0 else 0

    monkeypatch.setattr(kernels, "cuda_library", lambda: SimpleNamespace(ntdm_cuda_probe=probe))
    monkeypatch.setattr(kernels, "stream", lambda device: 1234)
    return received


def test_arguments_become_c_types_and_the_stream_is_last(calls):
    tensor = torch.zeros(3)
    kernels.launch("probe", tensor, 2**40, 0.5, None)
    (arguments,) = calls
    assert [type(a) for a in arguments] == [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    assert [a.value for a in arguments] == [tensor.data_ptr(), 2**40, 0.5, None, 1234]


def test_an_error_code_is_an_exception(calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "CudaError", lambda code: RuntimeError(f"CUDA error {code}"))
    with pytest.raises(RuntimeError, match="CUDA error 700"):
        kernels.launch("probe", torch.zeros(3), -1)


def test_a_tensor_with_holes_is_refused(calls):
    with pytest.raises(AssertionError, match="probe"):
        kernels.launch("probe", torch.zeros(3, 4).T, 1)
    assert not calls


def test_the_device_fixture_swaps_the_kernels(request, device, monkeypatch):
    launched, original = [], kernels.cuda_library
    monkeypatch.setattr(kernels, "cuda_library", lambda: launched.append(1) or original())
    uv = torch.rand(1, 3, 3, 2)
    uv_scatter(uv, uv, torch.ones(1, 3, 3, dtype=torch.bool), 4)
    assert bool(launched) == ("cpu" not in request.node.callspec.id)
