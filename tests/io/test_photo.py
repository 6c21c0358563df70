"""Photos: HEIC through pillow-heif where it is installed, and by name where not; what is no photo."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntdm.io import photo

HEADER = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_is_read_and_stands_upright(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = (200, 30, 40)  # left half red
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: the left half is above
    image = Image.fromarray(pixels)
    image.info["exif"] = exif.tobytes()  # pillow-heif writes it as the container's rotation too
    path = tmp_path / "IMG_0001.HEIC"
    image.save(path, "HEIF", quality=-1)
    read = photo.read_photo(path)
    assert read.dtype == np.uint8 and read.shape == (64, 48, 3)
    assert abs(read[:30].astype(int) - (200, 30, 40)).max() < 12
    assert read[34:].max() < 12


def test_a_damaged_heic_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    (tmp_path / "a.heic").write_bytes(HEADER + bytes(100))
    with pytest.raises(ValueError, match=r"photo .*a\.heic cannot be read as an image: it is damaged HEIC$"):
        photo.read_photo(tmp_path / "a.heic")


def test_heic_without_its_package_is_called_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(HEADER)
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path; from ntdm.io.photo import read_photo\n"
        "read_photo(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.heic")], capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        f"ValueError: photo {tmp_path}/a.heic cannot be read as an image: it is HEIC, as phones write: "
        "`pip install pillow-heif`, or save it as JPEG (it is none of JPEG, PNG, BMP, GIF, WEBP)"
    )


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"])
def test_what_is_no_photo_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    message = r"a\.jpg cannot be read as an image: it is none of JPEG, PNG, BMP, GIF, WEBP$"
    with pytest.raises(ValueError, match=message):
        photo.read_photo(tmp_path / "a.jpg")
