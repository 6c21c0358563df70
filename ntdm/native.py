"""The compiled operators: plain C++ kernels of cuda/, built once and called through ctypes.

The kernels know neither torch nor Python (`extern "C"`, raw pointers, an explicit thread count), so one
build serves every torch and every Python. The library's name carries a hash of the sources, the flags and
the CPU model: a changed source, or a wheel carried to another CPU, is never run stale but built anew into
the user's cache. This file imports no torch at the top, since setup.py uses it where there is none.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-std=c++17", "-fPIC", "-shared")
PACKAGE = Path(__file__).resolve().parent
INSTALL_COMPILER = "apt-get install g++"


class BuildError(RuntimeError):
    """The compiled operators cannot be had here; the message says what to do."""


def source_folder() -> Path:
    """The kernels' sources: the package data of a wheel, else cuda/ of the checkout."""
    installed = PACKAGE / "kernels"
    return installed if installed.is_dir() else PACKAGE.parent / "cuda"


def sources() -> list[Path]:
    """Every .cpp that goes into the CPU library, in name order."""
    return sorted(source_folder().glob("*.cpp"))


def user_cache() -> Path:
    """Where a library is built at first use: $XDG_CACHE_HOME/ntdm, else ~/.cache/ntdm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ntdm"


def library_name() -> str:
    """File name of the library that belongs to the present sources, flags and CPU."""
    key = hashlib.sha256("\0".join((*FLAGS, _cpu())).encode())
    for path in sorted([*sources(), *source_folder().glob("*.h")]):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"libntdm-{key.hexdigest()[:16]}.so"


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else the first of g++, c++, clang++; None without one."""
    names = (os.environ.get("CXX", ""), "g++", "c++", "clang++")
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)


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
    final = out_dir / library_name()
    out_dir.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}.{os.getpid()}.part")
    try:
        result = subprocess.run(
            [command, *FLAGS, *map(str, sources()), "-o", str(temporary)],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise BuildError(f"{command} could not build the operators:\n{result.stderr.strip()[-4000:]}")
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
    return final


def built() -> Path | None:
    """The library of the present sources if it exists: in the package, else in the user's cache."""
    name = library_name()
    return next((folder / name for folder in (PACKAGE, user_cache()) if (folder / name).is_file()), None)


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded CPU library, built first when it is missing or stale. Raises what :func:`build` raises."""
    import torch  # noqa: F401  (its OpenMP runtime must be the one in the process before ours asks for it)

    return ctypes.CDLL(str(built() or build(user_cache())))


def pointer(tensor: "torch.Tensor") -> ctypes.c_void_p:
    """The address of a contiguous CPU tensor's first element, as a kernel's argument."""
    assert tensor.device.type == "cpu" and tensor.is_contiguous(), (tensor.device, tensor.stride())
    return ctypes.c_void_p(tensor.data_ptr())


def status() -> dict[str, Any]:
    """For `ntdm doctor`: the library's path (None: not built yet), its sources and the compiler."""
    return {
        "library": built(),
        "sources": [path.name for path in sources()],
        "source_folder": source_folder(),
        "compiler": compiler(),
    }


def _cpu() -> str:
    # -march=native code of one CPU can be an illegal instruction on the next, even under one model name
    # (a hypervisor may mask features), so the feature list is part of the key.
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
