"""Calls of the CUDA kernels: `launch` finds the library, checks the tensors, passes the current stream.

The launchers (cuda/*_cuda.cu) are plain C, as the CPU kernels are, and return 0 or a CUDA error code. The
library is loaded, and built first where it is missing or stale, when the first CUDA tensor comes: without
one nothing here runs.
"""

import ctypes
import functools
import importlib.util
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntdm.ops import build

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HUGE_PAGE = 2 * 2**20  # bytes

_SUFFIXES = {"torch.float32": "f32", "torch.float64": "f64", "torch.bfloat16": "bf16", "torch.float16": "f16"}


def dtype_suffix(dtype: "torch.dtype") -> str:
    """What a kernel's name ends with for tensors of this type."""
    return _SUFFIXES[str(dtype)]


@functools.cache
def cuda_library() -> ctypes.CDLL:
    """The loaded CUDA library. Raises what :func:`ntdm.ops.build.build_cuda` raises."""
    found = build.built_cuda()
    if found is None:
        print("building the CUDA operators; that is done once", file=sys.stderr, flush=True)
        found = build.build_cuda(build.user_cache())
    return ctypes.CDLL(str(found))


def stream(device: "torch.device") -> int:
    """The address of torch's current stream on a CUDA device."""
    import torch

    assert device.type == "cuda", device
    return torch.cuda.current_stream(device).cuda_stream


def launch(name: str, *arguments: "Tensor | int | float | None") -> None:
    """Queue `ntdm_cuda_<name>` on the current stream of the tensors' device.

    Args:
        arguments: as the launcher takes them: contiguous tensors of one device become pointers, None a null
            pointer, int an int64_t, float a double.

    Raises:
        torch.cuda.CudaError: the launch was refused.
        ntdm.ops.build.BuildError: there is no library and it cannot be built.
    """
    import torch  # not at the top: preparing datasets calls one kernel and does without torch

    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    device = tensors[0].device
    assert all(tensor.is_contiguous() and tensor.device == device for tensor in tensors), name
    function = getattr(cuda_library(), f"ntdm_cuda_{name}")
    # cudart launches on the thread's current device; a stream of another one would be refused.
    with torch.cuda.device(device if device.type == "cuda" else -1):
        code = function(*map(_as_c, arguments), ctypes.c_void_p(stream(device)))
    if code:
        raise torch.cuda.CudaError(code)


def _as_c(value: Any) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double | None:
    if value is None:
        return ctypes.c_void_p()
    if not isinstance(value, int | float):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_double(value)


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded CPU library, built first when it is missing or stale. Raises what build.build raises."""
    _share_openmp()
    return ctypes.CDLL(str(build.built() or build.build(build.user_cache())))


def _share_openmp() -> None:
    """See that torch's OpenMP runtime is the one in the process before our library asks for one.

    The file is loaded alone where there is one: importing torch takes a second, which prep-data does without.
    """
    if "torch" in sys.modules:
        return
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None  # a dependency
    runtimes = sorted((Path(torch.origin).parent / "lib").glob("libgomp*.so*"))
    if not runtimes:
        importlib.import_module("torch")
    for runtime in runtimes:
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)


def pointer(tensor: "torch.Tensor") -> ctypes.c_void_p:
    """The address of a contiguous CPU tensor's first element, as a kernel's argument."""
    assert tensor.device.type == "cpu" and tensor.is_contiguous(), (tensor.device, tensor.stride())
    return ctypes.c_void_p(tensor.data_ptr())


def advise(*tensors: "torch.Tensor") -> None:
    """Ask for huge pages behind large new CPU tensors that a kernel is about to write.

    The system maps new memory at its first touch, page after page: at 4 kB a page that takes several times as
    long as the writing itself. Advice only, where the system has such pages (Linux): contents stay. It holds
    for the pages, also when the allocator hands them on; those of 32 MB and more it returns to the system.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    for tensor in tensors:
        if tensor.nbytes < 2 * HUGE_PAGE:
            continue
        first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_HUGEPAGE)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.cache
def _kernel(name: str, dtype: "torch.dtype", signature: str) -> Callable[..., None]:
    # One letter an argument: p(ointer), i(nt64), d(ouble), t(hreads: int).
    types = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double, "t": ctypes.c_int}
    function = getattr(library(), f"ntdm_{name}_{dtype_suffix(dtype)}")
    function.argtypes = [types[letter] for letter in signature]
    function.restype = None
    return function


def _pointers(*tensors: "Tensor") -> list[int]:
    assert all(t.is_contiguous() and t.device.type == "cpu" for t in tensors)
    return [t.data_ptr() for t in tensors]
