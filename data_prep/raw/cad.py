"""The CAD models of a category: our own OFF reader, which refuses what others read as an empty mesh.

Release 1.0 of PASCAL3D+ ships them as MATLAB files, one a category.
"""

import codecs
import re
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ntdm.config.protocol import CATEGORIES
from ntdm.data_prep.raw import polygons
from ntdm.data_prep.raw.files import LARGEST_TEXT, read_bytes
from ntdm.data_prep.raw.mat import read_mat
from ntdm.io.cache import Cad
from ntdm.io.progress import say
from ntdm.io.untrusted import reason

_LARGEST = 10.0  # CAD units from the origin, where a model's diagonal is 1
_MOST_CORNERS = 1000  # of a face

# "01.off" is a model, "01_left_wing.off" one of its anchor points.
_MODEL = re.compile(r"\d\d\.off")


def read_off(path: Path) -> Cad:
    """Vertices f32 [V, 3] (object frame, CAD units) and triangles i32 [F, 3] (0-based) of an OFF file.

    The counts may follow `OFF` on its line or on the next; `#` starts a comment; colours after a face are
    ignored; convex polygons are cut into fans, others into ears.

    Raises:
        ValueError: names the file and what is wrong in it: no OFF header, too short, a number that is none
            or not finite, no vertices, no faces, a face of fewer than 3 or more than 1000 corners, of an
            unknown vertex, or one that crosses itself.
    """
    text = read_bytes(path, LARGEST_TEXT).removeprefix(codecs.BOM_UTF8).decode("ascii", errors="replace")
    # A line without a comment stays the string that it is: there can be millions.
    lines = [line.split("#", 1)[0] if "#" in line else line for line in text.splitlines()]
    lines = [line for line in lines if line and not line.isspace()]
    if not lines or not re.match(r"\s*OFF(\s|\d|$)", lines[0]):
        raise ValueError(f"{path} is not an OFF file: its first line is {''.join(lines[:1])[:40]!r}")
    lines[0] = lines[0].strip()[len("OFF") :]
    if not lines[0].strip():
        lines = lines[1:]
    try:
        counts = [int(word) for word in lines[0].split()] if lines else []
        if len(counts) not in (2, 3) or min(counts) < 0:
            raise ValueError(f"its counts are {' '.join(lines[:1])[:40]!r}, want 'vertices faces edges'")
        number, faces = counts[:2]
        if number == 0 or faces == 0:
            raise ValueError(f"it has {number} vertices and {faces} faces")
        if len(lines) < 1 + number + faces:
            raise ValueError(
                f"it is cut short: {len(lines) - 1} lines for {number} vertices and {faces} faces"
            )
        vertices = _vertices(lines[1 : 1 + number])
        triangles = _triangles(lines[1 + number : 1 + number + faces], vertices)
    except (ValueError, OverflowError) as error:  # the latter of numbers that no int64 holds
        raise ValueError(f"{path} is not a usable OFF file: {reason(error)}") from None
    wrong = triangles[(triangles < 0) | (triangles >= number)]
    if len(wrong):
        raise ValueError(f"{path}: a face names vertex {wrong[0]}, there are {number}, counted from 0")
    return vertices, triangles.astype(np.int32)


class CategoryCads(NamedTuple):
    """The models of one category.

    Attributes:
        models: usable models by cad_index (NN - 1, ascending, gaps allowed).
        broken: for each file that could not be used the sentence that says why.
        missing: why none can be used, where none can.
    """

    models: dict[int, Cad]
    broken: dict[int, str]
    missing: str | None = None


def cads_of(root: Path, categories: Iterable[str]) -> dict[str, CategoryCads]:
    """The CAD models of several categories; ValueError where no category has one."""
    assert set(categories) <= set(CATEGORIES)
    cads: dict[str, CategoryCads] = {}
    for category in dict.fromkeys(categories):
        try:
            cads[category] = read_cads(root, category)
        except ValueError as error:
            cads[category] = CategoryCads({}, {}, str(error))
    reasons = [each.missing for each in cads.values() if each.missing is not None]
    if reasons and len(reasons) == len(cads):
        raise ValueError(reasons[0])
    return cads


def read_cads(root: Path, category: str) -> CategoryCads:
    """The models of `<root>/CAD/<category>/NN.off`, or of `<root>/CAD/<category>.mat` where no OFF is there.

    Raises:
        ValueError: there is neither, the MATLAB file cannot be read, or no model is usable.
    """
    folder = root / "CAD" / category
    matlab = folder.with_suffix(".mat")
    paths = sorted(p for p in folder.glob("*.off") if _MODEL.fullmatch(p.name) and p.name != "00.off")
    cads: dict[int, Cad] = {}
    broken: dict[int, str] = {}
    if paths:
        for path in paths:
            try:
                cads[int(path.stem) - 1] = read_off(path)
            except ValueError as error:
                broken[int(path.stem) - 1] = str(error)
    elif matlab.is_file():
        cads, broken = _read_mat(matlab, category)
    else:
        raise ValueError(f"no CAD model of {category}: expected {folder}/01.off, 02.off, ... or {matlab}")
    if not cads:
        text = next(iter(broken.values()), f"{matlab} holds an empty struct array")
        raise ValueError(f"no usable CAD model of {category}: {text}")
    return CategoryCads(cads, broken)


def find_cads(root: Path) -> dict[str, Callable[[], dict[int, Cad]]]:
    """Category -> what reads its models, for every category below `<root>/CAD`; unusable ones are told of.

    Raises ValueError where there is no category.
    """
    folder = root / "CAD"
    names = {path.parent.name for path in folder.glob("[!.]*/[!.]*.off")}
    names |= {path.stem for path in folder.glob("[!.]*.mat")}
    if not names:
        raise ValueError(f"no CAD model below {folder}: expected <category>/01.off or <category>.mat")

    def read(category: str) -> dict[int, Cad]:
        models, broken, _ = read_cads(root, category)
        for text in broken.values():
            say(f"left out: {text}")
        if broken:
            say(f"{category}: {len(broken)} of {len(models) + len(broken)} CADs left out")
        return models

    return {name: partial(read, name) for name in sorted(names)}


def read_anchors(root: Path, category: str) -> dict[int, dict[str, np.ndarray]]:
    """Named points of the models of `<root>/CAD/<category>.mat`: cad_index -> name -> f64 [3], object frame.

    A model lacks the points it has no part for. ValueError when the file cannot be read or names none.
    """
    path = root / "CAD" / f"{category}.mat"
    models = read_mat(path, category)
    if not isinstance(models, np.ndarray) or "pnames" not in (models.dtype.names or ()):
        raise ValueError(f"{path} holds no struct array {category} with pnames")
    anchors: dict[int, dict[str, np.ndarray]] = {}
    for index, model in enumerate(models.reshape(-1)):
        names = [str(np.asarray(name).item()) for name in model["pnames"].reshape(-1)]
        points = {name: np.asarray(model[name], np.float64).reshape(-1) for name in names}
        anchors[index] = {n: p for n, p in points.items() if p.shape == (3,) and np.isfinite(p).all()}
    return anchors


def _read_mat(path: Path, category: str) -> tuple[dict[int, Cad], dict[int, str]]:
    """The models of a MATLAB file, as :func:`read_cads`: a struct array whose faces count from 1."""
    models = read_mat(path, category)
    names = models.dtype.names or () if isinstance(models, np.ndarray) else ()
    if not {"vertices", "faces"} <= set(names):
        raise ValueError(f"{path} holds no struct array {category} with vertices and faces")
    cads: dict[int, Cad] = {}
    broken: dict[int, str] = {}
    for index, model in enumerate(models.reshape(-1)):
        vertices, faces = (np.asarray(model[name]) for name in ("vertices", "faces"))
        fault = _fault(vertices, faces)
        if fault:
            broken[index] = f"{path}, model {index + 1:02d}: {fault}"
        else:
            cads[index] = vertices.astype(np.float32), faces.astype(np.int32) - 1
    return cads, broken


def _fault(vertices: np.ndarray, faces: np.ndarray) -> str | None:
    """What makes a model of a MATLAB file unusable."""
    for name, array in (("vertices", vertices), ("faces", faces)):
        if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 3 or not len(array):
            return f"{name} are {array.dtype} {array.shape}, want numbers of shape (N, 3)"
    fault = _vertex_fault(vertices)
    if fault:
        return fault
    wrong = faces[~((faces >= 1) & (faces <= len(vertices)))]
    if len(wrong):
        return f"a face names vertex {wrong[0]}, there are {len(vertices)}, counted from 1"
    return None


def _vertices(lines: list[str]) -> np.ndarray:
    try:
        vertices = np.loadtxt(lines, np.float64, comments=None, usecols=(0, 1, 2), ndmin=2)
    except ValueError as error:
        if "column index" in str(error):
            raise ValueError("a vertex has fewer than 3 coordinates") from None
        raise
    fault = _vertex_fault(vertices)
    if fault:
        raise ValueError(fault)
    return vertices.astype(np.float32)


def _vertex_fault(vertices: np.ndarray) -> str | None:
    """What makes vertices [V, 3] unusable."""
    if not np.isfinite(vertices).all():
        return "a vertex is not finite"
    farthest = float(np.abs(vertices).max())
    if farthest > _LARGEST:
        return f"a coordinate is {farthest:g}, where a model's diagonal is 1: divide them by the diagonal"
    return None


def _triangles(lines: list[str], vertices: np.ndarray) -> np.ndarray:
    """i64 [F, 3]: triangles of each face, in the faces' order. Faces of as many corners are read together."""
    corners = np.array([_corners(line) for line in lines])
    of_face, fans = [], []
    for count in np.unique(corners):
        places = np.flatnonzero(corners == count)
        try:
            with warnings.catch_warnings():
                # What NumPy before 2.4 says of "1.5", which it takes for 1.
                warnings.simplefilter("error", DeprecationWarning)
                named = np.loadtxt(
                    [lines[i] for i in places], np.int64, comments=None, usecols=range(1, count + 1), ndmin=2
                )
        except DeprecationWarning:
            raise ValueError("a face names a vertex by a number with a fraction") from None
        except ValueError as error:
            if "column index" in str(error):
                raise ValueError(f"a face of {count} corners has not the corners it says") from None
            raise
        fan = np.stack([named[:, [0, i, i + 1]] for i in range(1, count - 1)], 1)
        if count > 3 and (named >= 0).all() and (named < len(vertices)).all():
            for face in np.flatnonzero(~polygons.are_convex(vertices[named])):
                fan[face] = named[face][polygons.ears(vertices[named[face]])]
        fans.append(fan.reshape(-1, 3))
        of_face.append(places.repeat(count - 2))
    return np.concatenate(fans)[np.argsort(np.concatenate(of_face), kind="stable")]


def _corners(line: str) -> int:
    """How many corners the line of a face says it has."""
    count = int(line.split(None, 1)[0])
    if not 3 <= count <= _MOST_CORNERS:
        raise ValueError(f"face {line.strip()[:40]!r} has fewer than 3 corners, or more than {_MOST_CORNERS}")
    return count
