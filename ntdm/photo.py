"""Photos as files hold them, to RGB."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Some of ImageNet's .JPEG are PNGs. Not every format that Pillow knows: some start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
LARGEST_FILE = 32 * 2**20  # bytes: Pillow goes over what precedes the pixels byte by byte
LARGEST = 40_000_000  # pixels: half a gigabyte as float32 RGB
# Of a progressive JPEG, whose decoder goes over the whole photo for each: what cameras and programs write has
# ten, and its thumbnail as many.
_MOST_SCANS = 50
_MOST_PADDING = 2**19  # pairs of bytes, which Pillow goes over one by one
_LARGEST_GIF = 4 * 2**20  # bytes: Pillow joins a file's comments one by one, in the square of their length


def check_size(image: Image.Image) -> None:
    """ValueError where a picture has more than LARGEST pixels; nothing is decoded for it."""
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {LARGEST}; shrink it")


def check_effort(data: bytes) -> None:
    """ValueError where what a file holds would keep a decoder busy for long, however few its pixels."""
    if data.startswith(b"\xff\xd8"):
        scans = data.count(b"\xff\xda")
        if scans > _MOST_SCANS:
            raise ValueError(f"it has {scans} scans, where no more than {_MOST_SCANS} are decoded")
        if data.count(b"\xff\xff") > _MOST_PADDING:
            raise ValueError(f"it has more than {2 * _MOST_PADDING} bytes of padding")
    elif data.startswith(b"GIF8") and len(data) > _LARGEST_GIF:
        raise ValueError(f"a GIF of {len(data)} bytes, where no more than {_LARGEST_GIF} are read")


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """u8 [H, W, 3] of a picture in any of Pillow's modes.

    16-bit grey is scaled (Pillow's own conversion clips it to white); what is transparent lies on white.

    Raises:
        ValueError: more than LARGEST pixels, or grey levels of no known range.
        OSError, SyntaxError and others: Pillow's, on damaged bytes.
    """
    check_size(image)
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    if image.mode == "F":
        raise ValueError("floating-point grey levels have no known range; save it with 8 or 16 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
