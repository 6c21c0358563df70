"""The one door to the compiled kernels of cuda/: :func:`call` runs one by name, on the CPU or on CUDA.

A kernel is a plain C function, ``ntdm_<name>_<type>`` of the CPU library and ``ntdm_cuda_<name>_<type>`` of
the CUDA library, <type> being that of its first argument. Its arguments are

    input tensors, sizes (int64_t), numbers (double), scratch and output tensors, threads (int) or CUDA stream

and it returns 0 or an error code. What the C function has last is added here, and nothing else of ctypes is
seen outside: the operators know names, tensors and numbers.

torch is not imported at the top: preparing datasets calls one kernel, on numpy arrays, and does without.
"""

import ctypes
import functools
import importlib.util
import mmap
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ntdm.ops import build

if TYPE_CHECKING:
    from torch import Tensor

    Data: TypeAlias = Tensor | np.ndarray
    Argument: TypeAlias = Data | int | float | None

HUGE_PAGE = 2 * 2**20  # bytes
NO_MEMORY = 1  # kNoMemory of cuda/uv_scatter.cpp: a CPU kernel could not get its scratch memory

_loading = threading.Lock()
_SUFFIXES = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16"}
_NUMBERS = {int: ctypes.c_int64, float: ctypes.c_double}


class Target(NamedTuple):
    """The build of the kernels that a call goes to.

    Fields:
        library: loads it.
        cuda: whether it is of the CUDA sources, whose operators take scratch memory and sorted lists.
    """

    library: Callable[[], ctypes.CDLL]
    cuda: bool


def target(data: "Data") -> Target:
    """The build that serves a tensor, by its device."""
    return _ON_CUDA if not isinstance(data, np.ndarray) and data.is_cuda else _ON_CPU


def call(name: str, *arguments: "Argument") -> None:
    """Run a kernel; on CUDA, queue it on the current stream of the tensors' device.

    Args:
        name: of the kernel, without prefix and type.
        arguments: as the C function takes them, the last left out. Contiguous tensors of one device, or numpy
            arrays, become pointers, None a null pointer, int an int64_t and float a double. The first is a
            tensor of the type that the kernel computes in. Tensors behind the last number are outputs: fresh
            memory, for which large pages are asked on the CPU.

    Raises:
        ntdm.ops.build.BuildError: there is no library and it cannot be built.
        MemoryError: the kernel could not get its scratch memory.
        torch.cuda.CudaError: the launch was refused.
    """
    first: Any = arguments[0]
    library, cuda = target(first)
    function = _function(library(), cuda, name, first.dtype, tuple(map(type, arguments)))
    arrays = isinstance(first, np.ndarray)
    on_cpu = arrays or first.is_cpu
    values: list[Any] = []
    data: Any
    for data in arguments:
        if data is not None and type(data) not in _NUMBERS:
            whole = data.flags.c_contiguous if arrays else data.is_contiguous()
            beside = arrays or (data.is_cpu if on_cpu else data.device == first.device)
            assert whole and beside, f"{name}: a tensor {data.shape} with holes, or on another device"
            data = data.ctypes.data if arrays else data.data_ptr()
        values.append(data)
    if cuda:
        _launch(function, first, values)
        return
    _advise_outputs(arguments, values)
    # One thread for arrays: the workers that prepare datasets share the cores already.
    code = function(*values, 1 if arrays else _torch().get_num_threads())
    if code == NO_MEMORY:
        raise MemoryError(name)
    assert code == 0, f"{name} ended with code {code}"


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded CPU library, built first when it is missing or stale.

    Raises:
        ntdm.ops.build.BuildError: it cannot be built, or what was built does not load.
    """
    _share_openmp()
    return _load(build.CPU)


@functools.cache
def cuda_library() -> ctypes.CDLL:
    """The loaded CUDA library, as :func:`library`; without a CUDA tensor nobody asks for it."""
    return _load(build.CUDA)


_ON_CPU, _ON_CUDA = Target(library, False), Target(cuda_library, True)


@functools.cache
def _function(
    library: ctypes.CDLL, cuda: bool, name: str, dtype: Any, types: tuple[Any, ...]
) -> Callable[..., int]:
    types = tuple(_NUMBERS.get(kind, ctypes.c_void_p) for kind in types)
    suffix = _SUFFIXES[str(dtype).removeprefix("torch.")]
    symbol = f"ntdm_cuda_{name}_{suffix}" if cuda else f"ntdm_{name}_{suffix}"
    # A prototype of its own for each list of types: attributes of library[symbol] would be shared.
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *types, ctypes.c_void_p if cuda else ctypes.c_int)
    return prototype((symbol, library))


def _launch(function: Callable[..., int], first: "Tensor", values: list[Any]) -> None:
    torch = _torch()
    if not first.is_cuda:  # the CUDA sources as a C++ compiler takes them (launch_host.h) know no stream
        code = function(*values, None)
        assert code == 0, code
        return
    # cudart launches on the thread's current device; a stream of another one would be refused.
    with torch.cuda.device(first.device):
        code = function(*values, torch.cuda.current_stream().cuda_stream)
    if code:
        raise torch.cuda.CudaError(code)


def _advise_outputs(arguments: tuple[Any, ...], values: list[Any]) -> None:
    """Ask for huge pages behind large outputs.

    The system maps new memory at its first touch, page after page: at 4 kB a page that takes several times as
    long as the writing itself. Advice only, where the system has such pages (Linux): contents stay. It holds
    for the pages, also when the allocator hands them on; those of 32 MB and more it returns to the system.
    """
    for data, address in zip(reversed(arguments), reversed(values), strict=True):
        if type(data) in _NUMBERS:
            break
        if data is not None and data.nbytes >= 2 * HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (address + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_HUGEPAGE)


def _torch() -> Any:
    return sys.modules["torch"]  # whoever has a tensor has imported it


def _load(kind: build.Library) -> ctypes.CDLL:
    with _loading:  # threads that come at the same time wait for one build
        for path in kind.candidates():
            # One that does not load, of a machine with another C library, is passed over and built anew.
            with suppress(OSError):
                return ctypes.CDLL(str(path))
        if kind is build.CUDA:
            print("building the CUDA operators; that is done once", file=sys.stderr, flush=True)
        path = kind.build(build.user_cache(), anew=bool(kind.candidates()))
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            raise build.BuildError(f"{path} was built and does not load: {error}") from error


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


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
