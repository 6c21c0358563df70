import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ntdm.ops import build as native
from ntdm.ops import kernels as door

ADD = 'extern "C" long ntdm_add(long a, long b) { return a + b%s; }\n'


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
    assert native.built() is None
    assert door.library().ntdm_add(1, 2) == 3
    assert native.built() == tmp_path / "cache" / "ntdm" / native.library_name()
    assert [path.name for path in (tmp_path / "cache" / "ntdm").iterdir()] == [native.library_name()]


def test_installed_library_is_preferred_and_a_changed_source_makes_it_stale(kernels: Path) -> None:
    installed = native.build(kernels.parent)
    assert native.built() == installed
    (kernels / "add.cpp").write_text(ADD % " + 10")
    assert native.built() is None
    door.library.cache_clear()
    assert door.library().ntdm_add(1, 2) == 13


def test_header_flags_and_cpu_are_part_of_the_name(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {native.library_name()}
    (kernels / "shared.h").write_text("// header\n")
    names.add(native.library_name())
    with monkeypatch.context() as patch:
        patch.setattr(native, "FLAGS", ("-O0",))
        names.add(native.library_name())
    monkeypatch.setattr(native, "_cpu", lambda: "another")
    names.add(native.library_name())
    assert len(names) == 4


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
    build = f'{native.compiler()} -x c++ -shared -fPIC {kernels}/*_cuda.cu -o "$last"'
    program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\nfor last; do :; done\nexec {build}\n')
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    return program


def test_the_cuda_library_is_one_of_its_own(kernels: Path, nvcc: Path, tmp_path: Path) -> None:
    assert native.nvcc() == str(nvcc)
    assert native.built_cuda() is None
    library = native.build_cuda(native.user_cache())
    assert native.built_cuda() == library and library.name != native.library_name()
    assert ctypes.CDLL(str(library)).ntdm_cuda_add(1, 2) == 3
    arguments = (tmp_path / "arguments").read_text()
    for flag in ("code=sm_80", "code=sm_89", "code=sm_90", "code=compute_90", "--cudart=static"):
        assert flag in arguments
    assert "add.cpp" not in arguments and "add_cuda.cu" in arguments
    assert native.built() is None, "the CPU library has nothing to do with it"
    (kernels / "add_cuda.cu").write_text("// changed\n" + CUDA_ADD)
    assert native.built_cuda() is None


def test_a_machine_without_or_with_a_broken_nvcc(
    kernels: Path, nvcc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc.write_text("#!/no/such/shell\n")
    with pytest.raises(native.BuildError, match="nvcc could not build the operators"):
        native.build_cuda(native.user_cache())
    nvcc.write_text("#!/bin/sh\necho no such device >&2; exit 3\n")
    with pytest.raises(native.BuildError, match="no such device"):
        native.build_cuda(native.user_cache())
    assert list(native.user_cache().iterdir()) == []
    monkeypatch.setattr(native, "nvcc", lambda: None)
    with pytest.raises(native.BuildError, match="there is no nvcc: install NVIDIA's CUDA toolkit") as caught:
        native.build_cuda(native.user_cache())
    assert "\n" not in str(caught.value)


def test_who_builds_the_cuda_library_at_installation(nvcc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for said, wanted in (("0", False), ("1", True)):
        monkeypatch.setenv("NTDM_CUDA", said)
        assert native.cuda_is_wanted() == wanted
    monkeypatch.delenv("NTDM_CUDA")
    monkeypatch.setattr(native, "nvcc", lambda: None)
    assert not native.cuda_is_wanted()


def test_advice_about_pages_changes_nothing_else() -> None:
    large = torch.arange(3 * door.HUGE_PAGE // 4, dtype=torch.int32)
    shifted, small = large[5:], torch.arange(4)
    door.advise(large, shifted, small, torch.empty(0))
    assert torch.equal(large, torch.arange(len(large), dtype=torch.int32)) and small.tolist() == [0, 1, 2, 3]


def test_the_checkout_builds_and_uses_more_than_one_thread(checkout: Path, tmp_path: Path) -> None:
    library = ctypes.CDLL(str(native.build(tmp_path)))
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
