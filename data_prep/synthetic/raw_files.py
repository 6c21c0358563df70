"""The synthetic datasets' raw files: OFF, MATLAB records, JPEG."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from ntdm.data_prep.synthetic.solids import Cad
from ntdm.io.outputs import atomic_path

JPEG_QUALITY = 92

# The flags of a real array of an integer class, between their own tag and that of the array's shape.
_INTEGER_CLASS = re.compile(rb"(\x06\0\0\0\x08\0\0\0)[\x08-\x0d](\0{7}\x05\0\0\0)")
_DOUBLE_CLASS = b"\x06"


def off_text(cad: Cad) -> str:
    """The model as the text of a PASCAL3D+ OFF file: five decimals, 0-based triangles."""
    lines = ["OFF", f"{len(cad.vertices)} {len(cad.faces)} 0"]
    lines += [f"{x:.5f} {y:.5f} {z:.5f}" for x, y, z in cad.vertices.tolist()]
    lines += [f"3 {i} {j} {k}" for i, j, k in cad.faces.tolist()]
    return "\n".join(lines) + "\n"


def mat_bytes(category: str, cads: Sequence[Cad | None]) -> bytes:
    """CAD/<category>.mat: a 1 x M struct array named like the category; what is absent is empty."""
    names = sorted({name for cad in cads if cad for name in cad.anchors})
    fields = ["vertices", "faces", "pnames", "azimuth_extent", *names, "azimuth", "elevation", "visibility"]
    models = np.empty((1, len(cads)), dtype=[(name, object) for name in fields])
    nothing = np.zeros((0, 0))
    pnames = np.empty((1, len(names)), dtype=object)
    pnames[0, :] = names
    for name in fields:
        for model in models[0]:
            model[name] = nothing
    for model, cad in zip(models[0], cads, strict=True):
        if cad is None:
            continue
        model["vertices"], model["faces"], model["pnames"] = cad.vertices, _stored(cad.faces + 1), pnames
        model["azimuth"], model["elevation"] = np.arange(0.0, 360, 5)[None], np.arange(-90, 91, 2.5)[None]
        for name, anchor in cad.anchors.items():
            model[name] = anchor[None]
    return mat_file(category, models)


def mat_file(variable: str, value: object) -> bytes:
    """A MATLAB 5 file of one variable; the same bytes at any time, where scipy's header holds the date.

    As MATLAB does it, whole numbers are of class double, so that Octave reads them as such, and stored as
    integers of few bytes, which is what scipy makes of them.
    """
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {variable: _stored(value)}, format="5", long_field_names=True)
    data = _INTEGER_CLASS.sub(lambda match: match[1] + _DOUBLE_CLASS + match[2], buffer.getvalue())
    return b"MATLAB 5.0 MAT-file, written by ntdm make-data".ljust(116) + data[116:]


def _stored(value: object) -> object:
    """Whole numbers, also those in dictionaries, as the smallest integers that hold them."""
    if isinstance(value, dict):
        return {name: _stored(inner) for name, inner in value.items()}
    array = np.asarray(value)
    if array.dtype.kind in "fi" and array.size and np.array_equal(array, np.rint(array)):
        for kind in (np.uint8, np.uint16, np.int16, np.uint32, np.int32):
            if np.iinfo(kind).min <= array.min() and array.max() <= np.iinfo(kind).max:
                return array.astype(kind)
    return value


def write_bytes(path: Path, data: bytes) -> None:
    """A file, whole or not at all, in folders made where they are missing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, "JPEG", quality=JPEG_QUALITY)
