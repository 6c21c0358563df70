"""The worst file of each kind that a stranger could put into a dataset: as large as a reader takes, or small
and claiming to be large. WRITERS has the functions that write them in the place of a sound file.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

PIXELS = (5000, 8000)  # h, w: 40 million, the most that is decoded
ACCEPTED = 39_990  # lines of a list, rows of a table
_MATRIX, _COMPRESSED = 14, 15

Writer = Callable[[Path], object]


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def _matrix(kind: int, dims: tuple[int, ...], body: bytes, name: bytes = b"") -> bytes:
    head = _element(6, struct.pack("<2I", kind, 0)) + _element(5, struct.pack(f"<{len(dims)}i", *dims))
    return _element(_MATRIX, head + _element(1, name) + body)


def _mat(path: Path, variable: bytes) -> None:
    packed = zlib.compress(variable, 1)
    path.write_bytes(bytes(124) + b"\x00\x01IM" + struct.pack("<2I", _COMPRESSED, len(packed)) + packed)


def _name(path: Path) -> bytes:
    """The variable that is read of a .mat: CADs are called by their category, as their file."""
    return b"record" if "Annotations" in path.parts or "annotations" in path.parts else path.stem.encode()


def mat_of_cells(path: Path) -> None:
    """Eight million empty cells in 64 MB, which pack into 64 kB."""
    count = 8 * 2**20 - 100
    _mat(path, _matrix(1, (1, count), struct.pack("<2I", _MATRIX, 0) * count, _name(path)))


def mat_of_numbers(path: Path) -> None:
    """One array of 64 MB in the place of a struct."""
    count = 8 * 2**20 - 100
    _mat(path, _matrix(6, (1, count), _element(9, bytes(8 * count)), _name(path)))


def mat_of_zeros(path: Path) -> None:
    """A gigabyte of zeros in a compressed element of 1 MB."""
    packer = zlib.compressobj(1)
    packed = b"".join([packer.compress(bytes(2**20)) for _ in range(2**10)]) + packer.flush()
    path.write_bytes(bytes(124) + b"\x00\x01IM" + struct.pack("<2I", _COMPRESSED, len(packed)) + packed)


def mat_of_variables(path: Path) -> None:
    """Four hundred variables that unpack to 16 MB each, none of them the one that is read."""
    packed = zlib.compress(_matrix(6, (1, 2**21), _element(9, bytes(2**24)), b"other"), 1)
    variable = struct.pack("<2I", _COMPRESSED, len(packed)) + packed
    path.write_bytes(bytes(124) + b"\x00\x01IM" + variable * 400)


def mat_of_elements(path: Path) -> None:
    """Eight million elements of no type and no bytes."""
    path.write_bytes(bytes(124) + b"\x00\x01IM" + bytes(64 * 2**20 - 1000))


def mat_of_objects(path: Path) -> None:
    """Three thousand objects in one photo, each a sound one."""
    view = {"azimuth": 40.0, "elevation": 10.0, "theta": -5.0, "distance": 6.0}
    view |= {"focal": 1.0, "viewport": 3000.0, "px": 52.25, "py": 38.5}
    fields = {"class": "car", "bbox": np.array([[20.5, 25.0, 80.0, 60.0]]), "viewpoint": view, "cad_index": 1}
    objects = np.zeros((1, 3000), [(name, object) for name in fields])
    for name, value in fields.items():
        objects[name][0, :] = [value] * objects.size
    scipy.io.savemat(path, {"record": {"objects": objects}}, do_compression=True)


def npz_of_members(path: Path) -> None:
    """A million members of no bytes: 100 MB of directory."""
    count = 1_000_000
    name = b"a.npy"
    local = b"PK\3\4" + struct.pack("<5H3I2H", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    entry = b"PK\1\2" + struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
    entry += name
    directory = entry * count
    end = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(directory), len(local))
    at = len(local) + len(directory)
    tail = b"PK\6\6" + end + b"PK\6\7" + struct.pack("<IQI", 0, at, 1)
    tail += b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(local + directory + tail)


def _npz(path: Path, header: bytes, payload: bytes) -> None:
    head = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("occluder_mask", "occ_mask"):
            archive.writestr(f"{name}.npy", head + payload)


def npz_of_steps(path: Path) -> None:
    """A field of one object whose pickle has 45 million steps; there are two such fields."""
    _npz(path, b"{'descr': '|O', 'fortran_order': False, 'shape': ()}\n", b"N" * 45_000_000)


def npz_of_zeros(path: Path) -> None:
    """Two masks that fill what an archive may unpack to."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (5000, 9900)}\n"
    _npz(path, header, bytes(5000 * 9900))


def npz_of_brackets(path: Path) -> None:
    """A header that is Python code, nested as deep as it is long."""
    _npz(path, b"{'descr': '|u1', 'shape': " + b"(" * 4900 + b")" * 4900 + b"}\n", b"")


def npz_of_signs(path: Path) -> None:
    """A header of minus signs, each of which is one level of a syntax tree."""
    _npz(path, b"{'descr': '|u1', 'shape': " + b"-" * 9900 + b"1}\n", b"")


def off_of_triangles(path: Path) -> None:
    """16 MB of the shortest lines that are vertices and faces."""
    count = 1_170_000
    path.write_bytes(b"OFF\n%d %d 0\n" % (count, count) + b"0 0 0\n" * count + b"3 0 1 2\n" * count)


def off_of_one_polygon(path: Path) -> None:
    """One face of eight million corners."""
    count = 8_380_000
    path.write_bytes(b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n%d" % count + b" 0" * count)


def off_of_lines(path: Path) -> None:
    """Sixteen million lines of nothing much."""
    path.write_bytes(b"OFF\n3 1 0\n" + b"\n" * (16 * 2**20 - 20))


def csv_of_columns(path: Path) -> None:
    """A million columns more, and four million rows."""
    header = path.read_bytes().splitlines()[0]
    columns = b"".join(b",%x" % i for i in range(1_000_000))
    path.write_bytes((header + columns + b"\n" + b"a\n" * 2**23)[: 16 * 2**20])


def csv_of_rows(path: Path) -> None:
    """As many rows as a table may have, each of another photo."""
    header, row = path.read_bytes().splitlines()[:2]
    name = next(cell for cell in (b"2008_000001", b"web", b"00001") if cell in row)
    rows = [row.replace(name, b"%05d" % i) for i in range(ACCEPTED)]
    path.write_bytes(b"\n".join([header, *rows]))


def csv_of_short_rows(path: Path) -> None:
    """Eight million rows of one letter."""
    header = path.read_bytes().splitlines()[0]
    path.write_bytes((header + b"\n" + b"a\n" * 2**23)[: 16 * 2**20])


def list_of_names(path: Path) -> None:
    """As many names as a list may have."""
    form = b"n%x 1\n" if "Main" in path.parts or path.stem.startswith("car_") else b"n%x\n"
    form = b"n%x\n" if "imagenet" in path.stem else form
    path.write_bytes(b"".join(form % i for i in range(ACCEPTED)))


def list_of_lines(path: Path) -> None:
    """Eight million lines."""
    path.write_bytes(b"a\n" * 2**23)


def _photo(path: Path, mode: str, form: str, **options: object) -> None:
    """A photo of the most pixels, smooth: noise would take long to write."""
    height, width = PIXELS
    row = (np.arange(width) // 40).astype(np.uint8)
    grey = Image.fromarray(np.broadcast_to(row, (height, width)))
    image = grey.convert("RGB").convert(mode) if mode != "I;16" else Image.new("I;16", (width, height), 9)
    image.save(path, form, **options)


def photo_jpeg(path: Path) -> None:
    """Baseline."""
    _photo(path, "RGB", "JPEG")


def photo_progressive(path: Path) -> None:
    """Progressive, all colours at full resolution: the decoder keeps every coefficient."""
    _photo(path, "RGB", "JPEG", progressive=True, subsampling=0)


def photo_progressive_cmyk(path: Path) -> None:
    """The same with four colours."""
    _photo(path, "CMYK", "JPEG", progressive=True)


def photo_transparent(path: Path) -> None:
    """PNG with transparency."""
    _photo(path, "RGBA", "PNG", compress_level=1)


def photo_palette(path: Path) -> None:
    """GIF with a palette."""
    _photo(path, "P", "GIF")


def photo_deep(path: Path) -> None:
    """PNG of 16 bits."""
    _photo(path, "I;16", "PNG", compress_level=1)


def photo_bmp(path: Path) -> None:
    """BMP."""
    _photo(path, "RGB", "BMP")


def photo_webp(path: Path) -> None:
    """WEBP with transparency."""
    _photo(path, "RGBA", "WEBP", quality=1, method=0)


def photo_of_another_size(path: Path) -> None:
    """A small JPEG that claims 60000 x 60000 pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (100, 80)).save(stream, "JPEG")
    data = stream.getvalue()
    at = data.index(b"\xff\xc0") + 5
    path.write_bytes(data[:at] + struct.pack(">2H", 60000, 60000) + data[at + 4 :])


def photo_of_scans(path: Path) -> None:
    """Progressive, its last scan twenty thousand times: each goes over every coefficient."""
    stream = io.BytesIO()
    Image.new("L", PIXELS[::-1]).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last)
    path.write_bytes(data[:tables] + data[tables:-2] * 20_000 + data[-2:])


def photo_of_padding(path: Path) -> None:
    """JPEG: 30 MB of padding before the first mark."""
    path.write_bytes(b"\xff\xd8" + b"\xff" * 30_000_000)


def photo_of_comments(path: Path) -> None:
    """GIF: 4 MB of comments before the first picture."""
    stream = io.BytesIO()
    Image.new("P", (100, 80)).save(stream, "GIF")
    data = stream.getvalue()
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 13
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 16_000 + b"\0"
    path.write_bytes(data[:start] + comment + data[start:])


def photo_of_junk(path: Path) -> None:
    """JPEG: 30 MB of zeros before the first mark."""
    path.write_bytes(b"\xff\xd8" + bytes(30_000_000))


def photo_of_exif(path: Path) -> None:
    """JPEG: 30 MB of Exif blocks, which are joined."""
    stream = io.BytesIO()
    Image.new("RGB", (100, 80)).save(stream, "JPEG")
    data = stream.getvalue()
    block = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65527)
    path.write_bytes(data[:2] + block * 450 + data[2:])


def photo_of_segments(path: Path) -> None:
    """JPEG: eight million empty comments before the first scan."""
    stream = io.BytesIO()
    Image.new("RGB", (100, 80)).save(stream, "JPEG")
    data = stream.getvalue()
    path.write_bytes(data[:2] + b"\xff\xfe\0\2" * 7_900_000 + data[2:])


def photo_of_resources(path: Path) -> None:
    """JPEG: 30 MB of Photoshop's resources, twelve bytes each."""
    stream = io.BytesIO()
    Image.new("RGB", (100, 80)).save(stream, "JPEG")
    data = stream.getvalue()
    block = b"Photoshop 3.0\0" + b"8BIM\3\xee\0\0\0\0\0\0" * 5400
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    path.write_bytes(data[:2] + segment * 460 + data[2:])


def photo_of_chunks(path: Path) -> None:
    """PNG: two and a half million empty chunks before the pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (100, 80)).save(stream, "PNG")
    data = stream.getvalue()
    chunk = bytes(4) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    path.write_bytes(data[:33] + chunk * 2_600_000 + data[33:])


WRITERS: dict[str, list[Writer]] = {
    "mat": [mat_of_cells, mat_of_numbers, mat_of_zeros, mat_of_variables, mat_of_elements, mat_of_objects],
    "npz": [npz_of_members, npz_of_steps, npz_of_zeros, npz_of_brackets, npz_of_signs],
    "off": [off_of_triangles, off_of_one_polygon, off_of_lines],
    "csv": [csv_of_columns, csv_of_rows, csv_of_short_rows],
    "list": [list_of_names, list_of_lines],
    "photo": [
        photo_jpeg, photo_progressive, photo_progressive_cmyk, photo_transparent, photo_palette, photo_deep,
        photo_bmp, photo_webp, photo_of_another_size, photo_of_scans, photo_of_padding, photo_of_junk,
        photo_of_comments, photo_of_exif, photo_of_segments, photo_of_resources, photo_of_chunks,
    ],
}  # fmt: skip
