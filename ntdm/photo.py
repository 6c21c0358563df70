"""Photos as files hold them, to RGB."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Some of ImageNet's .JPEG are PNGs. Not every format that Pillow knows: some start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
LARGEST = 40_000_000  # pixels: half a gigabyte as float32 RGB


def check_size(image: Image.Image) -> None:
    """ValueError where a picture has more than LARGEST pixels; nothing is decoded for it."""
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {LARGEST}; shrink it")


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """u8 [H, W, 3] of a picture in any of Pillow's modes.

    16-bit grey is scaled (Pillow's own conversion clips it to white); what is transparent lies on white.

    Raises:
        ValueError: more than LARGEST pixels, or grey levels of no known range.
        OSError, SyntaxError and others: Pillow's, on damaged bytes.
    """
    check_size(image)
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    if image.mode == "F":
        raise ValueError("floating-point grey levels have no known range; save it with 8 or 16 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
