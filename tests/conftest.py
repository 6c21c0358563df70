"""What several test files share."""

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import tiny_world
from ntdm.ops import build, kernels, rasterize_kaolin

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as numeric what states numbers that arithmetic decides: CI runs it on another instruction set."""
    for item in items:
        if item.path.parent.name in ("geometry", "nn", "ops", "render_and_compare"):
            item.add_marker(pytest.mark.numeric)


@pytest.fixture
def checkout() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def real_data() -> Path:
    """Folder of real CADs, photos and labels beside the checkout; tests that need it are skipped without."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tiny_world.py: configurations, and writers of caches and shapes."""
    return tiny_world


@pytest.fixture(scope="session")
def tiny_folder(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches, shapes and two finished runs; not to be written to: copy what a test changes.

    cache/ (pascal3d/train and val, occluded_pascal3d/L1), shapes/, ntdm/ and classifier/.
    """
    from ntdm import train

    folder = tmp_path_factory.mktemp("tiny")
    tiny.write_cache(folder / "cache", "pascal3d/train", count=6)
    tiny.write_cache(folder / "cache", "pascal3d/val", count=3, seed=1, prefix="unseen", latents=False)
    tiny.write_cache(
        folder / "cache", "occluded_pascal3d/L1", count=2, seed=2, prefix="unseen", latents=False
    )
    tiny.write_shapes(folder / "shapes")
    for name, config in (("ntdm", tiny.TRAIN), ("classifier", tiny.CLASSIFIER)):
        train.run(config, folder / "cache", folder / "shapes", folder / name)
    return folder


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CUDA sources compiled by the C++ compiler: every kernel a loop, every launcher the same."""
    compiler, library = build.CPU.compiler(), tmp_path_factory.mktemp("kernels") / "libntdm_host.so"
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = map(str, build.CUDA.sources())
    flags = ("-x", "c++", "-O1", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")
    subprocess.run([compiler, *flags, *sources, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(params=["cpu", "cuda sources", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test on the CPU, on the CPU with the CUDA sources in the kernels' place, and on CUDA.

    New tensors are on the device; a test draws random ones on the CPU and moves them.
    """
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        monkeypatch.setattr(rasterize_kaolin, "missing", lambda: "the native operators are under test")
        with torch.device("cuda"):
            yield "cuda"
        return
    if request.param == "cuda sources":
        library = request.getfixturevalue("host_kernels")
        host = kernels.Target(lambda: library, cuda=True)
        monkeypatch.setattr(kernels, "target", lambda data: host)
    yield "cpu"
