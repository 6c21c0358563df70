"""RGB pixels of photos: of files, of Pillow images, of arrays."""

import functools
import io
import re
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ntdm.io.untrusted import reason

# Some of ImageNet's .JPEG are PNGs. Not every format that Pillow knows: some start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_HEIC = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
)  # brands of the container
LARGEST_FILE = 32 * 2**20  # bytes: Pillow goes over what precedes the pixels byte by byte
LARGEST = 40_000_000  # pixels: half a gigabyte as float32 RGB
_MOST_SCANS = 50  # of a progressive JPEG; what cameras and programs write has ten
_MOST_BLOCKS = 20_000  # segments of a JPEG, chunks of a PNG, which Pillow goes over one by one
_MOST_PADDING = 2**19  # pairs of bytes, and these too
_LARGEST_GIF = 4 * 2**20  # bytes: Pillow joins a file's comments one by one, in the square of their length

_PNG = b"\x89PNG\r\n\x1a\n"
# A JPEG's marks that have a length, and its end. In a scan's own data 255 goes before 0 or a restart mark.
_MARK = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_END, _SCAN = 0xD9, 0xDA
_REMARKS = frozenset(range(0xE1, 0xFF)) - {0xEE}  # 0xE0 and 0xEE say what the colours mean
# How metadata begins that can say which way is up: of Exif and XMP in a JPEG, in a PNG.
_TURNED_JPEG = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
_TURNED_PNG = (b"eXIf", b"iTXtXML:com.adobe.xmp\0", b"zTXtRaw profile type exif\0")


def check_size(image: Image.Image) -> None:
    """Refuse an image of more than LARGEST pixels, before anything is decoded.

    Raises:
        ValueError: it has more.
    """
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {LARGEST}; shrink it")


def essential(data: bytes) -> bytes:
    """A photo's file without the metadata of a JPEG or PNG, but for what decides pixels and orientation.

    Pillow parses metadata piece by piece before it decodes anything: seconds, and more memory than the photo,
    for a file of nothing else.

    Raises:
        ValueError: what is left would keep a decoder busy for long, however few its pixels.
    """
    if data.startswith(b"\xff\xd8"):
        if data.count(b"\xff\xff") > _MOST_PADDING:
            raise ValueError(f"it has more than {2 * _MOST_PADDING} bytes of padding")
        return _essential_jpeg(data)
    if data.startswith(_PNG):
        return _essential_png(data)
    if data.startswith(b"GIF8") and len(data) > _LARGEST_GIF:
        raise ValueError(f"a GIF of {len(data)} bytes, where no more than {_LARGEST_GIF} are read")
    return data


def _essential_jpeg(data: bytes) -> bytes:
    """Segments are found as libjpeg finds them: by their length, whatever lies between them."""
    kept, at, scans, turned = [data[:2]], 2, 0, set(_TURNED_JPEG)
    for _ in range(_MOST_BLOCKS):
        mark = _MARK.search(data, at)
        if mark is None or mark[0][1] == _END:
            kept.append(data[at : mark.end() if mark else None])
            return b"".join(kept)
        code, start = mark[0][1], mark.end()
        stop = start + max(2, int.from_bytes(data[start : start + 2]))
        first = {begin for begin in turned if data.startswith(begin, start + 2)}
        turned -= first
        if first or code not in _REMARKS:
            kept.append(data[at:stop])
        scans += code == _SCAN
        if scans > _MOST_SCANS:  # the decoder goes over the whole photo for each
            raise ValueError(f"it has more than {_MOST_SCANS} scans")
        at = stop
    raise ValueError(f"it has more than {_MOST_BLOCKS} segments")


def _essential_png(data: bytes) -> bytes:
    kept, at, turned = [_PNG], len(_PNG), set(_TURNED_PNG)
    for _ in range(_MOST_BLOCKS):
        name = data[at + 4 : at + 8]
        stop = at + 12 + int.from_bytes(data[at : at + 4])
        if name == b"IEND" or stop >= len(data):
            kept.append(data[at:stop])
            return b"".join(kept)
        first = {begin for begin in turned if data.startswith(begin, at + 4)}
        turned -= first
        # An ancillary chunk begins with a small letter; that of the transparent colour counts.
        if first or name == b"tRNS" or not (name.isalpha() and name[:1].islower()):
            kept.append(data[at:stop])
        at = stop
    raise ValueError(f"it has more than {_MOST_BLOCKS} chunks")


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


def photo_from_image(image: Image.Image) -> NDArray[np.uint8]:
    """RGB u8 [H, W, 3] of a Pillow image, EXIF orientation applied; ValueError as :func:`to_rgb`."""
    try:
        check_size(image)  # turning it decodes it
        return to_rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged bytes.
    except Exception as error:
        raise ValueError(f"the photo cannot be read as an image: {reason(error)}") from None


def photo_from_array(photo: object) -> NDArray[np.uint8]:
    """The array itself where it is u8 [H, W, 3]; ValueError says what else it is."""
    if not isinstance(photo, np.ndarray):
        raise ValueError(f"the photo is {type(photo).__name__}: want a path, a PIL image or a uint8 array")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ValueError(f"the photo is {photo.dtype} {photo.shape}: want uint8 [H, W, 3], RGB")
    if photo.shape[0] * photo.shape[1] > LARGEST:
        raise ValueError(
            f"the photo has {photo.shape[0] * photo.shape[1]} pixels, more than {LARGEST}; shrink it"
        )
    return np.ascontiguousarray(photo)


def decode(data: bytes, upright: bool) -> NDArray[np.uint8]:
    """RGB u8 [H, W, 3] of a photo's file.

    Args:
        data: the file's bytes.
        upright: apply the EXIF orientation; else the pixels stay as the file has them.

    Raises:
        ValueError: not an image that is read, damaged, or too large; what it is, without the file's name.
    """
    try:
        with warnings.catch_warnings(), _opened(essential(data)) as image:
            warnings.simplefilter("ignore")  # of oddities in the file; what matters raises an error
            check_size(image)  # turning it decodes it
            return to_rgb(ImageOps.exif_transpose(image) if upright else image)
    except UnidentifiedImageError:
        kind = "damaged HEIC" if _is_heic(data) else f"none of {', '.join(FORMATS)}"
        raise ValueError(f"it is {kind}") from None
    except MemoryError:  # no fault of the file
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged bytes.
    except Exception as error:
        raise ValueError(reason(error)) from None


def read_photo(path: Path) -> NDArray[np.uint8]:
    """RGB u8 [H, W, 3], EXIF orientation applied; ValueError where it is no readable image of a sane size."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} bytes")
        return decode(path.read_bytes(), upright=True)
    except FileNotFoundError:
        raise ValueError(f"photo {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"photo {path} cannot be read as an image: {reason(error)}") from None


def _opened(data: bytes) -> Image.Image:
    """The image of a file's bytes, not decoded yet; HEIC where pillow-heif is installed."""
    if not _is_heic(data):
        return Image.open(io.BytesIO(data), formats=FORMATS)
    if not _reads_heic():
        remedy = "`pip install pillow-heif`, or save it as JPEG"
        raise ValueError(f"it is HEIC, as phones write: {remedy} (it is none of {', '.join(FORMATS)})")
    return Image.open(io.BytesIO(data), formats=("HEIF",))


def _is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC


@functools.cache
def _reads_heic() -> bool:
    """Whether Pillow reads HEIC here, through pillow-heif."""
    try:
        import pillow_heif
    except (ImportError, OSError):  # the latter where its library does not load
        return False
    pillow_heif.register_heif_opener()
    return True
