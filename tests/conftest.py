"""What several test files share."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
def tiny() -> SimpleNamespace:
    """The names of tiny_world.py: configurations, and writers of caches and shapes."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_world.py"))))


@pytest.fixture(scope="session")
def tiny_folder(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
