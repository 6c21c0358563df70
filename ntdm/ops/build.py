"""The compiled operators: plain C++ and CUDA kernels of cuda/, built once into two shared libraries.

The kernels know neither torch nor Python (`extern "C"`, raw pointers, an explicit thread count or stream), so
one build serves every torch and every Python. :data:`CPU` is built of the .cpp files, :data:`CUDA` of the
_cuda.cu files when the first CUDA tensor comes; kernels.py loads and calls them. A library's name carries a
hash of its sources, flags, machine and compiler: a changed source, a wheel carried to another CPU, or a home
shared by unlike machines never runs stale or foreign code; what is missing is built into the user's cache.
This file imports no torch and nothing of ntdm, since setup.py runs it by its path.
"""

import functools
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not a Unix: two processes may then both build, and the later replaces the earlier
    fcntl = None  # type: ignore[assignment]

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-std=c++17", "-fPIC", "-shared")
# Machine code for T4 and RTX 20, A100, RTX 40 and H100 cards, and PTX for what comes after them. cudart is
# linked in, so that the library runs beside a torch of any CUDA version that the driver takes.
CUDA_FLAGS = (
    "-O3", "-std=c++17", "-shared", "-Xcompiler=-fPIC", "--cudart=static", "--threads=0",
    *(f"-gencode=arch=compute_{n},code=sm_{n}" for n in (75, 80, 89, 90)),
    "-gencode=arch=compute_90,code=compute_90",
)  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[1]
INSTALL_COMPILER = "apt-get install g++"
INSTALL_NVCC = "install NVIDIA's CUDA toolkit, 12 or later, and set CUDA_HOME"

_building = threading.Lock()


class BuildError(RuntimeError):
    """The compiled operators cannot be had here; the message says what to do."""


@dataclass(frozen=True)
class Library:
    """One of the two libraries: what it is built of, by what, and where it lies.

    Fields:
        stem: how its file's name begins.
        pattern: of its sources' names.
        flags: the compiler's.
        compiler: finds the compiler's path; None where there is none.
        machine: what the code depends on beside the architecture.
        no_compiler: the sentence for a machine without the compiler.
    """

    stem: str
    pattern: str
    flags: tuple[str, ...]
    compiler: Callable[[], str | None]
    machine: Callable[[], str]
    no_compiler: str

    def sources(self) -> list[Path]:
        """What it is compiled from, in name order."""
        return sorted(source_folder().glob(self.pattern))

    def name(self) -> str:
        """Its file's name for the present sources, flags, machine and compiler."""
        return f"{self._key()}-{_digest(_version(self.compiler()))[:8]}.so"

    def candidates(self) -> list[Path]:
        """Whole files of that name: in the package, then in the user's cache.

        On a machine without a compiler, of any compiler: a wheel's stays behind on the machine that built it.
        """
        name = self.name() if self.compiler() else f"{self._key()}-*.so"
        folders = [PACKAGE]
        with suppress(BuildError):  # nowhere to have built one
            folders.append(user_cache())
        paths = [path for folder in folders for path in sorted(folder.glob(name))]
        return [path for path in paths if _is_whole(path)]

    def built(self) -> Path | None:
        """The library if it exists."""
        return next(iter(self.candidates()), None)

    def build(self, folder: Path, anew: bool = True) -> Path:
        """Compile every kernel into one library.

        Args:
            folder: where to put it; made if it is missing.
            anew: also where a whole library of its name is there already.

        Raises:
            BuildError: there is no compiler, no source, or the compilation fails; in one sentence.
        """
        command = self.compiler()
        if command is None:
            raise BuildError(self.no_compiler)
        if not self.sources():
            raise BuildError(f"no kernel sources ({self.pattern}) in {source_folder()}: reinstall ntdm")
        final = folder / self.name()
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder):
            if anew or not _is_whole(final):
                _compile([command, *self.flags], self.sources(), final)
        return final

    def _key(self) -> str:
        files = sorted([*self.sources(), *source_folder().glob("*.h")])
        parts: list[str | bytes] = [*self.flags, platform.machine(), self.machine()]
        parts += [part for path in files for part in (path.name, path.read_bytes())]
        return f"{self.stem}-{_digest(*parts)[:16]}"


def source_folder() -> Path:
    """The kernels' sources: the package data of a wheel, else cuda/ of the checkout."""
    installed = PACKAGE / "kernels"
    return installed if installed.is_dir() else PACKAGE.parent / "cuda"


def user_cache() -> Path:
    """Where a library is built at first use: $XDG_CACHE_HOME/ntdm, else ~/.cache/ntdm.

    Raises:
        BuildError: there is neither.
    """
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "ntdm"
    try:
        return Path.home() / ".cache" / "ntdm"
    except RuntimeError:  # a user that the system does not know, as in containers
        raise BuildError(
            "there is no home directory to build ntdm's operators in: set XDG_CACHE_HOME to a folder"
        ) from None


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

    It takes nvcc 20 s of one core: elsewhere it waits for the first CUDA tensor.
    """
    setting = os.environ.get("NTDM_CUDA", "")
    driver = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))
    return setting == "1" if setting else driver and CUDA.compiler() is not None


def cpu() -> str:
    """The CPU, as code of -march=native depends on it.

    Such code can be an illegal instruction on the next CPU, even under one model name (a hypervisor may mask
    features), so the feature list is part of it.
    """
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    lines = info.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))


CPU = Library(
    "libntdm", "*.cpp", FLAGS, compiler, cpu,
    f"ntdm's C++ operators are not built and there is no C++ compiler: {INSTALL_COMPILER}",
)  # fmt: skip
CUDA = Library(
    "libntdm_cuda", "*_cuda.cu", CUDA_FLAGS, nvcc, lambda: "",
    f"ntdm's CUDA operators are not built and there is no nvcc: {INSTALL_NVCC}",
)  # fmt: skip


def status() -> dict[str, Any]:
    """For `ntdm doctor`: the libraries' paths (None: not built yet), their sources and the compilers."""
    return {
        "library": CPU.built(),
        "sources": [path.name for path in CPU.sources()],
        "source_folder": source_folder(),
        "compiler": CPU.compiler(),
        "cuda_library": CUDA.built(),
        "cuda_sources": [path.name for path in CUDA.sources()],
        "nvcc": CUDA.compiler(),
    }


def _compile(command: list[str], sources: list[Path], final: Path) -> None:
    # A name that no thread, process or machine over the same folder can have, then renamed: whoever looks
    # sees the whole library or none.
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.stem}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        result = subprocess.run(
            [*command, *map(str, sources), "-o", name], capture_output=True, text=True, check=False
        )
        if result.returncode:
            reason = (result.stderr or result.stdout).strip()[-4000:]
            raise BuildError(f"{command[0]} could not build the operators:\n{reason}")
        temporary.chmod(0o755)  # mkstemp's is the user's alone
        os.replace(temporary, final)
    except OSError as error:  # a compiler that does not start
        raise BuildError(f"{command[0]} could not build the operators: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """One build a folder, of all threads and, where the file system knows locks, of all processes."""
    with _building:
        if fcntl is None:
            yield
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a network folder without locks: built twice, renamed twice, never half
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _is_whole(path: Path) -> bool:
    """Whether a library is there to its end: the loader ends the process over one that was cut short.

    A linker writes the section headers, which an ELF file's first bytes place, behind everything else.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(64)
    if head[:5] != b"\x7fELF\x02":  # not 64-bit ELF: left to the loader
        return len(head) == 64
    if len(head) < 64:
        return False
    (start,), (size, count) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<HH", head, 58)
    return path.stat().st_size >= start + size * count


@functools.cache
def _version(command: str | None) -> str:
    """What a compiler says of itself; nothing where it does not run, which the build will say."""
    if command is None:
        return ""
    try:
        result = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return result.stdout


def _digest(*parts: str | bytes) -> str:
    key = hashlib.sha256()
    for part in parts:
        key.update((part.encode() if isinstance(part, str) else part) + b"\0")
    return key.hexdigest()
