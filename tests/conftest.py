"""What several test files share."""

from pathlib import Path

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
