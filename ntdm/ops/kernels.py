"""The one door to the compiled kernels: `call` picks library and function, and turns arguments into C's.

A kernel is plain C, `ntdm_<name>_<dtype>` in the CPU library (cuda/*.cpp) and `ntdm_cuda_<name>_<dtype>` in
the CUDA library (cuda/*_cuda.cu). Tensors become pointers, int int64_t, float double; last comes what the
device adds, the thread count or the stream. The CUDA library is loaded, and built first where it is missing
or stale, when the first CUDA tensor comes: without one nothing of it runs.
"""

import ctypes
import functools
import importlib
import importlib.util
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ntdm.ops import build

if TYPE_CHECKING:  # not imported: preparing datasets calls one kernel and does without torch
    import torch
    from torch import Tensor

HUGE_PAGE = 2 * 2**20  # bytes
_SUFFIXES = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16"}


def call(name: str, *arguments: Any, dtype: Any = None) -> int:
    """Run a kernel on the device of its tensors; on CUDA it is queued on the current stream.

    Args:
        name: of the kernel, without prefix and type.
        arguments: as the kernel takes them: contiguous tensors of one device or arrays, None for a null
            pointer, int, float.
        dtype: the kernel's floating type; by default that of the first tensor that has one.

    Returns:
        What a kernel of the CPU returns that returns something (int64_t); 0 on CUDA.

    Raises:
        torch.cuda.CudaError: the launch was refused.
        ntdm.ops.build.BuildError: there is no library and it cannot be built.
    """
    tensors = [a for a in arguments if a is not None and not isinstance(a, int | float)]
    if dtype is None:
        dtype = next(t.dtype for t in tensors if str(t.dtype).removeprefix("torch.") in _SUFFIXES)
    suffix = _SUFFIXES[str(dtype).removeprefix("torch.")]
    values = [_as_c(name, argument) for argument in arguments]
    device: Any = getattr(tensors[0], "device", None)
    assert all(getattr(t, "device", None) == device for t in tensors), name
    if not uses_cuda(device):
        function = getattr(library(), f"ntdm_{name}_{suffix}")
        function.restype = ctypes.c_int64
        return int(function(*values, ctypes.c_int(_threads())))
    import torch

    function = getattr(cuda_library(), f"ntdm_cuda_{name}_{suffix}")
    # cudart launches on the thread's current device; a stream of another one would be refused.
    with torch.cuda.device(device if device.type == "cuda" else -1):
        code = function(*values, ctypes.c_void_p(stream(device)))
    if code:
        raise torch.cuda.CudaError(code)
    return 0


def uses_cuda(device: Any) -> bool:
    """Whether tensors of this device go to the CUDA kernels."""
    return getattr(device, "type", "cpu") == "cuda"


def stream(device: "torch.device") -> int:
    """The address of torch's current stream on a CUDA device."""
    import torch

    assert device.type == "cuda", device
    return torch.cuda.current_stream(device).cuda_stream


def register(
    library: "torch.library.Library", name: str, on_cpu: Callable[..., Any], on_cuda: Callable[..., Any],
    fake: Callable[..., Any],
) -> None:  # fmt: skip
    """Make two functions the implementations of the operator ntdm::<name>, and a third what tracing sees."""
    import torch

    def run(*arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, torch.Tensor))
        return (on_cuda if uses_cuda(device) else on_cpu)(*arguments)

    for key in ("CPU", "CUDA"):
        library.impl(name, run, key)
    torch.library.register_fake(f"ntdm::{name}", fake, lib=library)


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded CPU library, built first when it is missing or stale. Raises what build.build raises."""
    _share_openmp()
    return ctypes.CDLL(str(build.built() or build.build(build.user_cache())))


@functools.cache
def cuda_library() -> ctypes.CDLL:
    """The loaded CUDA library, likewise. Raises what build.build_cuda raises."""
    path = build.built_cuda()
    if path is None:
        print("building the CUDA operators; that is done once", file=sys.stderr, flush=True)
        path = build.build_cuda(build.user_cache())
    return ctypes.CDLL(str(path))


def _as_c(name: str, value: Any) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if value is None:
        return ctypes.c_void_p()
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous, (name, value.strides)
        return ctypes.c_void_p(value.ctypes.data)
    assert value.is_contiguous(), (name, value.stride())
    return ctypes.c_void_p(value.data_ptr())


def _threads() -> int:
    torch = sys.modules.get("torch")
    return 1 if torch is None else torch.get_num_threads()


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


def advise(*tensors: "Tensor") -> None:
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
