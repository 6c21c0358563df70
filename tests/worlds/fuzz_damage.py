"""Damage to one file of a dataset: bytes, words, values, shapes, or something else in its place."""

import contextlib
import io
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from hostile_files import WRITERS as HOSTILE

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
    if rng.random() < 0.001 and kind in HOSTILE:
        writer = HOSTILE[kind][rng.integers(len(HOSTILE[kind]))]
        with contextlib.suppress(ValueError, IndexError, StopIteration):  # a table of other columns
            writer(path)
            return writer.__name__
    specials = {
        "npz": [_npz_fields, _npz_fields, _zip_entries], "mat": [_mat_values, _mat_tags],
        "photo": [_photo_of_another_kind, _photo_segments],
        "off": [_words, _lines], "csv": [_words, _lines], "list": [_words, _lines],
    }[kind]  # fmt: skip
    special = specials[rng.integers(len(specials))]
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


def _lines(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Lines in another order, doubled, joined, or ended in another way."""
    lines = data.splitlines(keepends=True)
    at, to = (int(n) for n in rng.integers(len(lines), size=2))
    what = str(rng.choice(["swapped", "doubled", "joined", "ends", "gone", "many"]))
    if what == "swapped":
        lines[at], lines[to] = lines[to], lines[at]
    elif what == "doubled":
        lines.insert(to, lines[at])
    elif what == "joined":
        lines[at] = lines[at].rstrip(b"\r\n")
    elif what == "ends":
        ends = [b"\r", b"\r\n", b"\n\n", b"\x0b", "\u2028".encode(), b"\0\n", b" \t\n"]
        end = ends[rng.integers(len(ends))]
        lines = [line.rstrip(b"\r\n") + end for line in lines]
    elif what == "gone":
        del lines[at]
    else:
        lines[at:at] = [lines[at]] * int(rng.choice([10, 1000, 5000]))
    return b"".join(lines)[: 2**20], f"lines {what}"


def _mat_tags(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Another number in a tag or a header of an element, wherever it is nested; packed anew now and then."""
    tags: list[int] = []

    def walk(at: int, end: int) -> None:
        while at + 8 <= end:
            tags.append(at)
            kind, count = struct.unpack_from("<2I", data, at)
            if kind >> 16:
                at += 8
                continue
            if kind == 14 and count:
                walk(at + 8, min(end, at + 8 + count))
            at += 8 + count + -count % 8

    walk(128, len(data))
    content, done = bytearray(data), []
    for place in rng.choice(tags, int(rng.choice([1, 1, 2, 4]))):
        # The tag itself, or what lies behind it: flags, dimensions, the length of field names.
        at = int(place) + 4 * int(rng.integers(5))
        number = int(
            rng.choice([0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 14, 15, 16, 17, 18, 255, 2**16, 2**31, 2**32 - 1])
        )
        if rng.random() < 0.3 and at + 4 <= len(data):
            number = (struct.unpack_from("<I", content, at)[0] + int(rng.choice([-8, -1, 1, 8]))) % 2**32
        content[at : at + 4] = struct.pack("<I", number)
        done.append(f"tag at {at}: {number}")
    if rng.random() < 0.3:
        packed = zlib.compress(bytes(content[128:]))
        content[128:] = struct.pack("<2I", 15, len(packed)) + packed
    return bytes(content), ", ".join(done)


def _zip_entries(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """An archive whose entries contradict each other: names, sizes, methods, flags, places."""
    content = bytearray(data)
    marks = (b"PK\3\4", b"PK\1\2", b"PK\5\6")
    places = [match.start() for mark in marks for match in re.finditer(re.escape(mark), data)]
    place = places[rng.integers(len(places))]
    what = str(rng.choice(["field", "field", "field", "name", "again"]))
    if what == "field":
        form, value = str(rng.choice(["<H", "<I"])), NUMBERS[rng.integers(13)]
        at = place + 4 + 2 * int(rng.integers(21))
        content[at : at + struct.calcsize(form)] = struct.pack(
            form, int(value) % 2 ** (8 * struct.calcsize(form))
        )
        return bytes(content), f"zip field at {at - place}: {value}"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = int(rng.integers(len(members)))
    name, body = members[at]
    names = [
        "../../outside.npy",
        "/etc/passwd.npy",
        ".npy",
        "a" * 60000 + ".npy",
        "x\0.npy",
        name.upper(),
        "é.npy",
    ]
    if what == "name":
        members[at] = (names[rng.integers(len(names))], body)
    else:
        members += [(name, members[rng.integers(len(members))][1])] * int(rng.choice([1, 2, 1500]))
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for member, packed in members:
            archive.writestr(member, packed)
    return stream.getvalue(), f"zip {what}"


def _photo_segments(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """JPEG: a segment doubled, gone, moved, cut, of another mark, or with other tables."""
    segments, at = [], 2
    while data[at : at + 2] != b"\xff\xda":
        length = 2 + struct.unpack_from(">H", data, at + 2)[0]
        segments.append(bytearray(data[at : at + length]))
        at += length
    rest = data[at:]
    place = int(rng.integers(len(segments)))
    segment = segments[place]
    what = str(rng.choice(["doubled", "gone", "moved", "mark", "length", "bytes", "scan again"]))
    if what == "doubled":
        segments[place:place] = [segment] * int(rng.choice([1, 2, 500]))
    elif what == "gone":
        del segments[place]
    elif what == "moved":
        segments.insert(int(rng.integers(len(segments))), segments.pop(place))
    elif what == "mark":
        segment[1] = int(rng.integers(0xC0, 0xFF))
    elif what == "length":
        segment[2:4] = struct.pack(">H", int(rng.choice([0, 1, 2, 3, 8, 17, 255, 65535])))
    elif what == "bytes":
        for index in rng.integers(4, len(segment), 2):
            segment[index] = int(rng.integers(256))
    else:
        rest = rest[:-2] * int(rng.choice([2, 10, 200])) + rest[-2:]
    return data[:2] + b"".join(bytes(s) for s in segments) + rest, f"segment {place} {what}"


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
