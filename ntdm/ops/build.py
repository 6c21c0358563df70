"""The compiled operators: plain C++ and CUDA kernels of cuda/, built once and called through ctypes.

The kernels know neither torch nor Python (`extern "C"`, raw pointers, an explicit thread count or stream), so
one build serves every torch and every Python. There are two libraries, of the .cpp and of the _cuda.cu
files; the second is loaded (kernels.py) when the first CUDA tensor comes. A library's name carries a hash of
its sources, its flags and, for the first, the CPU model: a changed source, or a wheel carried to another CPU,
is never run stale but built anew into the user's cache. This file imports no torch at the top, since setup.py
uses it where there is none.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-std=c++17", "-fPIC", "-shared")
# Machine code for A100, RTX 40 and H100 cards, and PTX for what comes after them. cudart is linked in, so
# that the library runs beside a torch of any CUDA version that the driver takes.
CUDA_FLAGS = (
    "-O3", "-std=c++17", "-shared", "-Xcompiler=-fPIC", "--cudart=static", "--threads=0",
    *(f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 89, 90)),
    "-gencode=arch=compute_90,code=compute_90",
)  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[1]
INSTALL_COMPILER = "apt-get install g++"
INSTALL_NVCC = "install NVIDIA's CUDA toolkit, 12 or later, and set CUDA_HOME"


class BuildError(RuntimeError):
    """The compiled operators cannot be had here; the message says what to do."""


def source_folder() -> Path:
    """The kernels' sources: the package data of a wheel, else cuda/ of the checkout."""
    installed = PACKAGE / "kernels"
    return installed if installed.is_dir() else PACKAGE.parent / "cuda"


def sources() -> list[Path]:
    """Every .cpp that goes into the CPU library, in name order."""
    return sorted(source_folder().glob("*.cpp"))


def cuda_sources() -> list[Path]:
    """Every _cuda.cu that goes into the CUDA library, in name order."""
    return sorted(source_folder().glob("*_cuda.cu"))


def user_cache() -> Path:
    """Where a library is built at first use: $XDG_CACHE_HOME/ntdm, else ~/.cache/ntdm.

    BuildError where there is neither.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "ntdm"
    try:
        return Path.home() / ".cache" / "ntdm"
    except RuntimeError:  # a user that the system does not know, as in containers
        raise BuildError(
            "there is no home directory to build ntdm's operators in: set XDG_CACHE_HOME to a folder"
        ) from None


def library_name() -> str:
    """File name of the library that belongs to the present sources, flags and CPU."""
    return f"libntdm-{_digest((*FLAGS, _cpu()), sources())}.so"


def cuda_library_name() -> str:
    """File name of the CUDA library that belongs to the present sources and flags."""
    return f"libntdm_cuda-{_digest(CUDA_FLAGS, cuda_sources())}.so"


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else the first of g++, c++, clang++; None without one."""
    names = (os.environ.get("CXX", ""), "g++", "c++", "clang++")
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)


def nvcc() -> str | None:
    """Path of the CUDA compiler: of $CUDA_HOME, else on the path, else of /usr/local/cuda; or None."""
    home = os.environ.get("CUDA_HOME")
    names = (f"{home}/bin/nvcc" if home else "", "nvcc", "/usr/local/cuda/bin/nvcc")
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)


def cuda_is_wanted() -> bool:
    """Whether an installation builds the CUDA library: as $NTDM_CUDA says (0 or 1), else where a GPU is.

    It takes nvcc 15 s of one core: elsewhere it waits for the first CUDA tensor.
    """
    said = os.environ.get("NTDM_CUDA", "")
    driver = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))
    return said == "1" if said else driver and nvcc() is not None


def build(out_dir: Path) -> Path:
    """Compile every kernel into one library in `out_dir` and return its path.

    BuildError, in one sentence, when there is no compiler, no source, or the compilation fails.
    """
    command = compiler()
    if command is None:
        raise BuildError(
            f"ntdm's C++ operators are not built and there is no C++ compiler: {INSTALL_COMPILER}"
        )
    if not sources():
        raise BuildError(f"no kernel sources (*.cpp) in {source_folder()}: reinstall ntdm")
    return _compile([command, *FLAGS], sources(), out_dir / library_name())


def build_cuda(out_dir: Path) -> Path:
    """Compile every CUDA kernel into one library in `out_dir` and return its path.

    BuildError as :func:`build`.
    """
    command = nvcc()
    if command is None:
        raise BuildError(f"ntdm's CUDA operators are not built and there is no nvcc: {INSTALL_NVCC}")
    if not cuda_sources():
        raise BuildError(f"no CUDA sources (*_cuda.cu) in {source_folder()}: reinstall ntdm")
    return _compile([command, *CUDA_FLAGS], cuda_sources(), out_dir / cuda_library_name())


def built() -> Path | None:
    """The library of the present sources if it exists: in the package, else in the user's cache."""
    return _find(library_name())


def built_cuda() -> Path | None:
    """The CUDA library of the present sources if it exists, as :func:`built`."""
    return _find(cuda_library_name())


def status() -> dict[str, Any]:
    """For `ntdm doctor`: the libraries' paths (None: not built yet), their sources and the compilers."""
    return {
        "library": built(),
        "sources": [path.name for path in sources()],
        "source_folder": source_folder(),
        "compiler": compiler(),
        "cuda_library": built_cuda(),
        "cuda_sources": [path.name for path in cuda_sources()],
        "nvcc": nvcc(),
    }


def _digest(settings: tuple[str, ...], compiled: list[Path]) -> str:
    key = hashlib.sha256("\0".join(settings).encode())
    for path in sorted([*compiled, *source_folder().glob("*.h")]):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    return key.hexdigest()[:16]


def _compile(command: list[str], compiled: list[Path], final: Path) -> Path:
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}.{os.getpid()}.part")
    try:
        result = subprocess.run(
            [*command, *map(str, compiled), "-o", str(temporary)], capture_output=True, text=True, check=False
        )
        if result.returncode:
            reason = (result.stderr or result.stdout).strip()[-4000:]
            raise BuildError(f"{command[0]} could not build the operators:\n{reason}")
        os.replace(temporary, final)
    except OSError as error:  # a compiler that does not start
        raise BuildError(f"{command[0]} could not build the operators: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return final


def _find(name: str) -> Path | None:
    if (PACKAGE / name).is_file():
        return PACKAGE / name
    try:
        built = user_cache() / name
    except BuildError:  # nowhere to have built it
        return None
    return built if built.is_file() else None


def _cpu() -> str:
    # -march=native code of one CPU can be an illegal instruction on the next, even under one model name
    # (a hypervisor may mask features), so the feature list is part of the key.
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
