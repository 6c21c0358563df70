"""Calls of the CUDA kernels: `launch` finds the library, checks the tensors, passes the current stream.

The launchers (cuda/*_cuda.cu) are plain C, as the CPU kernels are, and return 0 or a CUDA error code. The
library is loaded, and built first where it is missing or stale, when the first CUDA tensor comes: without
one nothing here runs.
"""

import ctypes
import functools
import sys

import torch
from torch import Tensor

from ntdm.ops import build

SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16"}


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded CUDA library. Raises what :func:`ntdm.ops.build.build_cuda` raises."""
    found = build.built_cuda()
    if found is None:
        print("building the CUDA operators; that is done once", file=sys.stderr, flush=True)
        found = build.build_cuda(build.user_cache())
    return ctypes.CDLL(str(found))


def stream(device: torch.device) -> int:
    """The address of torch's current stream on a CUDA device."""
    assert device.type == "cuda", device
    return torch.cuda.current_stream(device).cuda_stream


def launch(name: str, *arguments: Tensor | int | float | None) -> None:
    """Queue `ntdm_cuda_<name>` on the current stream of the tensors' device.

    Args:
        arguments: as the launcher takes them: contiguous tensors of one device become pointers, None a null
            pointer, int an int64_t, float a double.

    Raises:
        torch.cuda.CudaError: the launch was refused.
        ntdm.ops.build.BuildError: there is no library and it cannot be built.
    """
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    device = tensors[0].device
    assert all(tensor.is_contiguous() and tensor.device == device for tensor in tensors), name
    function = getattr(library(), f"ntdm_cuda_{name}")
    # cudart launches on the thread's current device; a stream of another one would be refused.
    with torch.cuda.device(device if device.type == "cuda" else -1):
        code = function(*map(_as_c, arguments), ctypes.c_void_p(stream(device)))
    if code:
        raise torch.cuda.CudaError(code)


def _as_c(value: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double | None:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p()
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_double(value)
