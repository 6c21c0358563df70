"""The build of the libraries: when, where, once; names that tell stale and foreign code; broken files."""

import ctypes
import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from ntdm.ops import build as native
from ntdm.ops import kernels as door

ADD = 'extern "C" long ntdm_add(long a, long b) { return a + b%s; }\n'
ADD_UP = """if True:
    import pathlib, sys
    from ntdm.ops import build, kernels
    build.PACKAGE = pathlib.Path(sys.argv[1])
    print(kernels.library().ntdm_add(1, 2))
"""


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own with one kernel, and a cache of its own."""
    package = tmp_path / "site" / "ntdm"
    (package / "kernels").mkdir(parents=True)
    (package / "kernels" / "add.cpp").write_text(ADD % "")
    monkeypatch.setattr(native, "PACKAGE", package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    door.library.cache_clear()
    yield package / "kernels"
    door.library.cache_clear()


def test_first_use_builds_into_the_cache_and_the_second_finds_it(kernels: Path, tmp_path: Path) -> None:
    assert native.CPU.built() is None
    assert door.library().ntdm_add(1, 2) == 3
    assert native.CPU.built() == tmp_path / "cache" / "ntdm" / native.CPU.name()
    assert [path.name for path in (tmp_path / "cache" / "ntdm").iterdir()] == [native.CPU.name()]


def test_installed_library_is_preferred_and_a_changed_source_makes_it_stale(kernels: Path) -> None:
    installed = native.CPU.build(kernels.parent)
    assert native.CPU.built() == installed
    (kernels / "add.cpp").write_text(ADD % " + 10")
    assert native.CPU.built() is None
    door.library.cache_clear()
    assert door.library().ntdm_add(1, 2) == 13


def test_header_flags_machine_and_compiler_are_part_of_the_name(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a home that unlike machines share, each takes its own."""
    other = tmp_path / "other-c++"
    other.write_text("#!/bin/sh\necho another compiler, version 99\n")
    other.chmod(0o755)
    for library in (native.CPU, native.CUDA):
        names = [library.name()]
        names += [dataclasses.replace(library, flags=("-O0",)).name()]
        names += [dataclasses.replace(library, machine=lambda: "another CPU").name()]
        names += [dataclasses.replace(library, compiler=lambda: str(other)).name()]
        (kernels / "shared.h").write_text(f"// header of {library.stem}\n")
        names += [library.name()]
        with monkeypatch.context() as patch:
            patch.setattr("platform.machine", lambda: "aarch64")
            names += [library.name()]
        assert len(set(names)) == len(names)


def test_threads_that_come_together_wait_for_one_build(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations, compile_one = [], native._compile
    monkeypatch.setattr(native, "_compile", lambda *rest: compilations.append(rest) or compile_one(*rest))
    start, sums = threading.Barrier(3), []

    def first_use() -> None:
        start.wait()
        sums.append(door.library().ntdm_add(1, 2))

    threads = [threading.Thread(target=first_use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [3, 3, 3] and len(compilations) == 1
    assert [path.name for path in native.user_cache().iterdir()] == [native.CPU.name()]


def test_processes_that_come_together_all_get_a_whole_library(kernels: Path) -> None:
    command = [sys.executable, "-c", ADD_UP, str(kernels.parent)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["3\n"] * 3
    assert [path.name for path in native.user_cache().iterdir()] == [native.CPU.name()]


@pytest.mark.parametrize("share", [0, 0.001, 0.4, 0.95, 1])
def test_a_broken_library_is_built_anew_once(kernels: Path, share: float) -> None:
    """Empty, cut short (which the loader answers with a bus error), or whole and not of this machine."""
    path = native.CPU.build(native.user_cache())
    whole = path.read_bytes()
    broken = bytearray(whole[: int(share * len(whole))])
    if share == 1:
        broken[18:20] = b"\xf3\x00"  # the ELF header's machine: RISC-V
    path.write_bytes(broken)
    command = [sys.executable, "-c", ADD_UP, str(kernels.parent)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout == "3\n", done.stderr
    mended = path.stat().st_mtime_ns
    assert path.stat().st_size == len(whole)
    door.library.cache_clear()
    assert door.library().ntdm_add(1, 2) == 3 and path.stat().st_mtime_ns == mended


def test_a_broken_library_of_the_package_is_passed_over(kernels: Path) -> None:
    native.CPU.build(kernels.parent).write_bytes(b"\x7fELF")
    assert door.library().ntdm_add(1, 2) == 3
    assert native.CPU.built() == native.user_cache() / native.CPU.name()


def test_what_was_built_and_does_not_load_is_a_sentence(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kernels / "add.cpp").write_text(
        'extern "C" long missing(); extern "C" long ntdm_add() { return missing(); }\n'
    )
    monkeypatch.setattr(native, "CPU", dataclasses.replace(native.CPU, flags=(*native.FLAGS, "-Wl,-z,now")))
    with pytest.raises(native.BuildError, match=r"was built and does not load: .*missing"):
        door.library()


def test_without_a_compiler_any_compilers_library_will_do(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel's, say, whose compiler stayed behind."""
    built = native.CPU.build(kernels.parent)
    monkeypatch.setenv("PATH", "")
    assert native.CPU.compiler() is None and native.CPU.built() == built
    assert door.library().ntdm_add(1, 2) == 3
    (kernels / "add.cpp").write_text(ADD % " + 10")
    assert native.CPU.built() is None


def test_no_compiler_is_one_sentence_with_the_command(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(native.BuildError, match=r"apt-get install g\+\+$") as caught:
        door.library()
    assert "\n" not in str(caught.value)


def test_failed_compilation_shows_the_compiler_and_leaves_nothing(kernels: Path) -> None:
    (kernels / "add.cpp").write_text("this is not C++\n")
    with pytest.raises(native.BuildError, match=r"add\.cpp"):
        door.library()
    assert list(native.user_cache().iterdir()) == []


CUDA_ADD = 'extern "C" int ntdm_cuda_add(int a, int b) { return a + b; }\n'


@pytest.fixture
def nvcc(kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CUDA source, and in $CUDA_HOME an nvcc that writes down its arguments and calls the C++ compiler."""
    (kernels / "add_cuda.cu").write_text(CUDA_ADD)
    program = tmp_path / "toolkit" / "bin" / "nvcc"
    program.parent.mkdir(parents=True)
    build = f'{native.CPU.compiler()} -x c++ -shared -fPIC {kernels}/*_cuda.cu -o "$last"'
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec echo version 1\n'
        f'echo "$@" >{tmp_path}/arguments\nfor last; do :; done\nexec {build}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    return program


def test_the_cuda_library_is_one_of_its_own(kernels: Path, nvcc: Path, tmp_path: Path) -> None:
    assert native.nvcc() == str(nvcc)
    assert native.CUDA.built() is None
    library = native.CUDA.build(native.user_cache())
    assert native.CUDA.built() == library and library.name != native.CPU.name()
    assert ctypes.CDLL(str(library)).ntdm_cuda_add(1, 2) == 3
    arguments = (tmp_path / "arguments").read_text()
    for flag in (
        "code=sm_75",
        "code=sm_80",
        "code=sm_89",
        "code=sm_90",
        "code=compute_90",
        "--cudart=static",
    ):
        assert flag in arguments
    assert "add.cpp" not in arguments and "add_cuda.cu" in arguments
    assert native.CPU.built() is None, "the CPU library has nothing to do with it"
    (kernels / "add_cuda.cu").write_text("// changed\n" + CUDA_ADD)
    assert native.CUDA.built() is None


def test_a_machine_without_or_with_a_broken_nvcc(
    kernels: Path, nvcc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc.write_text("#!/no/such/shell\n")
    with pytest.raises(native.BuildError, match="nvcc could not build the operators"):
        native.CUDA.build(native.user_cache())
    nvcc.write_text("#!/bin/sh\necho no such device >&2; exit 3\n")
    with pytest.raises(native.BuildError, match="no such device"):
        native.CUDA.build(native.user_cache())
    assert list(native.user_cache().iterdir()) == []
    monkeypatch.setattr(native, "CUDA", dataclasses.replace(native.CUDA, compiler=lambda: None))
    with pytest.raises(native.BuildError, match="there is no nvcc: install NVIDIA's CUDA toolkit") as caught:
        native.CUDA.build(native.user_cache())
    assert "\n" not in str(caught.value)


def test_who_builds_the_cuda_library_at_installation(nvcc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for said, wanted in (("0", False), ("1", True)):
        monkeypatch.setenv("NTDM_CUDA", said)
        assert native.cuda_is_wanted() == wanted
    monkeypatch.delenv("NTDM_CUDA")
    monkeypatch.setattr(native, "CUDA", dataclasses.replace(native.CUDA, compiler=lambda: None))
    assert not native.cuda_is_wanted()


def test_the_checkout_builds_and_uses_more_than_one_thread(checkout: Path, tmp_path: Path) -> None:
    library = ctypes.CDLL(str(native.CPU.build(tmp_path)))
    symbols = subprocess.run(
        ["nm", "-D", str(library._name)], capture_output=True, text=True, check=True
    ).stdout
    assert "GOMP_parallel" in symbols, "without -fopenmp every kernel is silently serial"


def test_importing_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from ntdm.ops import build; build.status()['sources']"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ}, capture_output=True)


def test_the_library_shares_torchs_openmp_without_importing_torch() -> None:
    """Two OpenMP runtimes in one process may end it, or share no threads; torch may still come later."""
    code = """if True:
        import re, sys
        from ntdm.ops import kernels
        def runtimes():
            return set(re.findall(r"/\\S*/lib[a-z]*omp[0-9]*[-.]\\S*", open("/proc/self/maps").read()))
        kernels.library()
        early = "torch" in sys.modules, runtimes()
        import torch
        torch.ones(100, 100) @ torch.ones(100, 100)
        print(early[0], len(runtimes() - early[1]), len(early[1]))"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    imported, more, first = said.split()
    assert int(first) >= 1 and int(more) == 0
    if list((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        assert imported == "False"
