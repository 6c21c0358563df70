"""Damage to one file of a dataset: bytes, words, values, shapes, or something else in its place."""

import contextlib
import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

NUMBERS = (
    0, 1, -1, 2, 127, 255, 256, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 1e-9, 1e-300, 5e-324, 0.3, 1e5,
    1e30, 1e308, -1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
WORDS = (
    "", "nan", "inf", "-inf", "1e308", "-1", "1e-9", "99999999999999999999", "9" * 5000, "0x10", "1_0",
    "../../outside", "/etc/passwd", "..", "a" * 5000, "\x00", "\x1b[2J", "é", "\ufeff", '"', ",", "3", "0",
    "n0_0", "a/../../b",
)  # fmt: skip
KINDS = {
    ".off": "off", ".mat": "mat", ".npz": "npz", ".csv": "csv", ".txt": "list", ".JPEG": "photo",
    ".jpg": "photo", ".h5": "cache",
}  # fmt: skip


class Opener:
    """What a pickle could do when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return (os.mkdir, ("pickle_was_run",))


def damage(rng: np.random.Generator, path: Path, kin: list[Path], outside: Path) -> str:
    """Damage one file in place, `kin` being files of its kind to splice from; returns what was done."""
    if rng.random() < 0.01:
        return _replaced(rng, path, outside)
    data, kind = path.read_bytes(), KINDS[path.suffix]
    special = {
        "npz": _npz_fields, "mat": _mat_values, "photo": _photo_of_another_kind,
        "off": _words, "csv": _words, "list": _words,
    }[kind]  # fmt: skip
    words = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        # On sound data alone: the libraries that take a file apart may crash on a damaged one.
        if not words and rng.random() < 0.4:
            with contextlib.suppress(ValueError, TypeError, OverflowError, OSError, KeyError):  # unwritable
                data, done = special(rng, data)
                words.append(done)
                continue
        data, done = _bytes(rng, data, kin)
        words.append(done)
    path.write_bytes(data)
    return ", ".join(words)


def _replaced(rng: np.random.Generator, path: Path, outside: Path) -> str:
    path.unlink()
    what = rng.choice(["link out", "link to itself", "pipe", "folder", "nothing", "empty"])
    if what == "link out":
        path.symlink_to(outside)
    elif what == "link to itself":
        path.symlink_to(path)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "empty":
        path.write_bytes(b"")
    return str(what)


def _bytes(rng: np.random.Generator, data: bytes, kin: list[Path]) -> tuple[bytes, str]:
    content = bytearray(data)
    at, end = sorted(int(n) for n in rng.integers(0, len(content) + 1, 2))
    what = rng.choice(["flip", "flip", "number", "number", "cut", "delete", "repeat", "splice", "noise"])
    if what == "flip" and content:
        for place in rng.integers(0, len(content), rng.choice([1, 1, 2, 8])):
            content[place] ^= 1 << int(rng.integers(8))
    elif what == "number":
        number = NUMBERS[rng.integers(len(NUMBERS))]
        at -= at % int(rng.choice([1, 4, 8]))
        form = str(rng.choice(["<d", ">d", "<f", "<I", ">I", "<H", ">H", "<Q"]))
        whole = int(number) % 2 ** (8 * struct.calcsize(form)) if math.isfinite(number) else 0
        with np.errstate(over="ignore"):
            single = float(np.float32(number))
        packed = struct.pack(form, {"d": number, "f": single}.get(form[1], whole))
        content[at : at + len(packed)] = packed
    elif what == "cut":
        del content[at:]
    elif what == "delete":
        del content[at:end]
    elif what == "repeat":
        content[end:end] = content[at:end] * int(rng.choice([1, 1, 3, 50]))
    elif what == "splice":
        other = kin[rng.integers(len(kin))].read_bytes()
        content[at:end] = other[at:end]
    else:
        content[at:at] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(content[: 2**20]), str(what)


def _words(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    parts = re.split(rb"([\s,]+)", data)
    place, word = int(rng.integers(len(parts))), WORDS[rng.integers(len(WORDS))]
    parts[place] = word.encode()
    return b"".join(parts), f"word {word[:20]!r}"


def _npz_fields(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Absurd values, shapes and objects in a sound archive; or damage within a member, its checksum right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[rng.integers(len(members))]
    if rng.random() < 0.4:
        members[name], done = _bytes(rng, members[name], []) if rng.random() < 0.9 else (b"", "emptied")
    elif rng.random() < 0.3:
        shape = tuple(int(n) for n in rng.choice([0, 1, 3, 10**5, 2**31, 2**62, -1], rng.integers(0, 4)))
        kind = str(
            rng.choice(["<f8", "|u1", "|b1", "|O", "<U0", "|S0", "<U1000000", "|V8", "<M8[s]", "<c16"])
        )
        header = {"descr": kind, "fortran_order": bool(rng.integers(2)), "shape": shape}
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, header)
        members[name], done = (
            stream.getvalue() + rng.bytes(int(rng.choice([0, 8, 64]))),
            f"claims {kind} {shape}",
        )
    else:
        value: object = NUMBERS[rng.integers(len(NUMBERS))]
        if rng.random() < 0.3:
            choice = [
                np.array(Opener(), object),
                np.array([None, Opener()], object),
                "car",
                np.full(6, value),
                b"x",
            ]
            value = choice[rng.integers(len(choice))]
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.asanyarray(value))
        members[name], done = stream.getvalue(), f"{name} = {value!r}"[:80]
    stream = io.BytesIO()
    method = int(
        rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    )
    with zipfile.ZipFile(stream, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return stream.getvalue(), done


def _mat_values(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Absurd values in a sound file; or damage within a variable that is packed anew."""
    if rng.random() < 0.3:
        body, done = _bytes(rng, data[128:], []) if rng.random() < 0.9 else (bytes(2**20), "zeros")
        packed = zlib.compress(body)
        return data[:128] + struct.pack("<2I", 15, len(packed)) + packed, f"packed: {done}"
    variables = {k: v for k, v in scipy.io.loadmat(io.BytesIO(data)).items() if not k.startswith("__")}
    name = next(iter(variables))
    place, field = variables[name], name
    while isinstance(place, np.ndarray) and place.dtype.names and place.size:
        element = place.reshape(-1)[rng.integers(place.size)]
        field = str(rng.choice(place.dtype.names))
        parent, place = element, element[field]
    number = NUMBERS[rng.integers(len(NUMBERS))]
    shapes: list[object] = [
        np.array([[number]]), np.array([[number]]), np.full((1, 4), number), np.zeros((0, 0)), "text",
        np.full((2, 2, 2), number), np.uint8([[7]]), np.array([[1 + 2j]]), np.array([["cell"]], object),
        {"a": 1.0},
    ]  # fmt: skip
    parent[field] = shapes[rng.integers(len(shapes))]
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=bool(rng.integers(2)))
    return stream.getvalue(), f"{field} = {parent[field]!r}"[:80]


def _photo_of_another_kind(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """The photo in another mode and format, or with another size in its header."""
    if rng.random() < 0.3:
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        if at > 0:
            size = struct.pack(">2H", *(int(n) for n in rng.choice([0, 1, 8000, 65535], 2)))
            return data[: at + 5] + size + data[at + 9 :], "another size in the header"
    with Image.open(io.BytesIO(data)) as image:
        mode = str(rng.choice(["L", "CMYK", "RGBA", "P", "1", "I;16", "LA", "RGB"]))
        image = image.convert(mode)
    form = str(rng.choice(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "EPS"]))
    stream = io.BytesIO()
    image.save(stream, form, **({"progressive": True} if form == "JPEG" and rng.integers(2) else {}))
    return stream.getvalue(), f"{form} {mode}"
