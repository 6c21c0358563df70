"""PASCAL3D+ annotations: one `record` of a .mat file, read by field name and distrusted throughout.

MATLAB's habits that this file absorbs: integral scalars are stored in any integer type, scalars are (1, 1),
a missing struct is a (0, 0) array of numbers, an unfitted angle is an empty array beside its `_coarse` one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntdm.data_prep.raw.mat import read_mat
from ntdm.geometry.crop import DEGENERATE_DISTANCE

# Beyond these a number is a fault of the file, whichever dataset says it. PASCAL3D+'s fit kept distances
# below 100 and its nearest object is 0.63 away; a distance of next to nothing is a failed fit (crop.py).
_TURNS = 10.0  # an angle, either way
_NEAREST, _FARTHEST = 0.5, 1000.0  # CAD units: nearer, the camera would stand inside an object of diagonal 1
_FOCAL_PX = (1.0, 1e6)
_FARTHEST_PX = 1e6  # of principal point and box from the photo's corner

_VIEW = ("azimuth", "elevation", "theta", "distance", "focal", "viewport", "px", "py")


class SampleError(Exception):
    """A sample that cannot be made: `reason` is what it is counted under, `text` names file and fault."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason, self.text = reason, text


def pixels_from_matlab(values: np.ndarray) -> np.ndarray:
    """Annotated pixel positions (bbox, px, py) in the corner-origin frame of camera.py.

    MATLAB's imshow frame puts the centre of the first pixel at (1, 1); ours at (0.5, 0.5). This is the only
    place where the two meet.
    """
    return np.asarray(values, np.float64) - 0.5


@dataclass(frozen=True)
class ObjectPose:
    """The annotated camera of one object, in the photo's corner-origin frame.

    Attributes:
        viewpoint: azimuth in [0, 2 pi), elevation, theta in (-pi, pi], radians; distance, CAD units, > 0.
        focal_px: focal * viewport, photo pixels.
        principal_point: (x, y) of the projection of the CAD's origin.
        bbox: x0, y0, x1, y1.
        cad_index: CAD file number - 1; -1 where nothing says which.
    """

    viewpoint: np.ndarray
    focal_px: float
    principal_point: np.ndarray
    bbox: np.ndarray
    cad_index: int


class Record(NamedTuple):
    """An annotation file: its objects, undecoded, and the photo's size (h, w), None where it says none."""

    objects: list[Any]
    size: tuple[int, int] | None


def read_objects(path: Path) -> list[Any]:
    """The objects of an annotation file; errors as :func:`read_record`."""
    return read_record(path).objects


def read_record(path: Path) -> Record:
    """An annotation file; its objects are for :func:`object_pose`.

    Raises SampleError: annotation_missing, annotation_unreadable.
    """
    if not path.is_file():
        raise SampleError("annotation_missing", f"{path} does not exist")
    try:
        record = read_mat(path, "record")
    except ValueError as error:
        raise SampleError("annotation_unreadable", str(error)) from None
    fields = _struct(record)
    if fields is None or "objects" not in fields.dtype.names:
        raise SampleError("annotation_unreadable", f"{path} holds no record with objects")
    objects = fields["objects"]
    if not isinstance(objects, np.ndarray) or objects.dtype.names is None:
        return Record([], None)
    size = np.asarray(fields["imgsize"] if "imgsize" in fields.dtype.names else []).reshape(-1)
    known = size.size >= 2 and size.dtype.kind in "fiu" and bool(np.isfinite(size[:2].astype(float)).all())
    # MATLAB's size is [w h d].
    return Record(list(objects.reshape(-1)), (int(size[1]), int(size[0])) if known else None)


def object_class(fields: Any) -> str:
    """The class of an object of :func:`read_objects`; empty where it has none."""
    value = np.asarray(fields["class"] if "class" in fields.dtype.names else "")
    return str(value.reshape(-1)[0]) if value.size else ""


def object_cad(fields: Any) -> int:
    """CAD file number - 1 of an object of :func:`read_objects`; -1 where it names none."""
    number = _number(fields, "cad_index")
    return int(number) - 1 if number is not None and 1 <= number <= 2**15 else -1


def object_pose(fields: Any, where: str) -> ObjectPose:
    """Decode one object of :func:`read_objects`; `where` names it in messages.

    Raises SampleError: no_pose (no viewpoint, or a field of it missing, empty or not finite), no_bbox,
    no_cad_index, and as :func:`viewpoint_of`.
    """
    view = _struct(fields["viewpoint"]) if "viewpoint" in fields.dtype.names else None
    if view is None:
        raise SampleError("no_pose", f"{where} has no viewpoint")
    fitted = {name: _number(view, name) for name in _VIEW}
    for name in ("azimuth", "elevation", "theta"):
        if fitted[name] is None:
            fitted[name] = _number(view, f"{name}_coarse")
    numbers = {name: value for name, value in fitted.items() if value is not None}
    # Coarse-only viewpoints carry distance 0 and often nothing else: that is the reason worth counting.
    if numbers.get("distance", 1.0) <= 0:
        raise SampleError("distance_not_positive", f"{where}: distance is {numbers['distance']}")
    lacking = [name for name in _VIEW if name not in numbers]
    if lacking:
        raise SampleError("no_pose", f"{where}: {lacking[0]} is missing, empty or not a number")
    focal_px = numbers["focal"] * numbers["viewport"]
    if focal_px <= 0:
        raise SampleError("no_pose", f"{where}: focal times viewport is {focal_px}")
    cad_index = object_cad(fields)
    if cad_index < 0:
        raise SampleError("no_cad_index", f"{where} names no CAD model")
    bbox = np.asarray(fields["bbox"] if "bbox" in fields.dtype.names else [])
    if bbox.size != 4 or bbox.dtype.kind not in "fiu" or not np.isfinite(bbox).all():
        raise SampleError("no_bbox", f"{where} has no bbox of four numbers")
    angles = [math.radians(numbers[name]) for name in ("azimuth", "elevation", "theta")]
    return ObjectPose(
        viewpoint=viewpoint_of(angles, numbers["distance"], where),
        focal_px=focal_px,
        principal_point=pixels_from_matlab(np.array([numbers["px"], numbers["py"]])),
        bbox=pixels_from_matlab(bbox.reshape(4)),
        cad_index=cad_index,
    )


def viewpoint_of(angles: Sequence[float], distance: float, where: str) -> np.ndarray:
    """`viewpoint` of an :class:`ObjectPose`; `angles` are azimuth, elevation, theta, radians, in any turn.

    Raises SampleError: no_pose (a number that is not finite), distance_not_positive, elevation_out_of_range,
    number_absurd.
    """
    azimuth, elevation, theta = angles
    if not all(map(math.isfinite, (*angles, distance))):
        raise SampleError("no_pose", f"{where}: an angle or the distance is missing or not a number")
    if distance <= 0:
        raise SampleError("distance_not_positive", f"{where}: distance is {distance}")
    if DEGENERATE_DISTANCE < distance < _NEAREST or distance > _FARTHEST:
        raise SampleError("number_absurd", f"{where}: distance is {distance:g} CAD units")
    for name, angle in (("azimuth", azimuth), ("elevation", elevation), ("theta", theta)):
        if abs(angle) > 2 * math.pi * _TURNS:
            raise SampleError("number_absurd", f"{where}: {name} is {math.degrees(angle):g} degrees")
    if abs(elevation) > math.pi / 2:
        text = f"{where}: elevation is {math.degrees(elevation):g} degrees"
        raise SampleError("elevation_out_of_range", text)
    # The outer % takes care of a tiny negative angle, whose remainder rounds up to 2 pi itself.
    azimuth = azimuth % (2 * math.pi) % (2 * math.pi)
    theta = -((-theta + math.pi) % (2 * math.pi) - math.pi)
    return np.array([azimuth, elevation, theta, distance])


def refuse_absurd(pose: ObjectPose, where: str) -> None:
    """Raises SampleError, number_absurd: a focal length, principal point or box of no photo."""
    low, high = _FOCAL_PX
    if not low <= pose.focal_px <= high:
        raise SampleError("number_absurd", f"{where}: the focal length is {pose.focal_px:g} pixels")
    for name, values in (("principal point", pose.principal_point), ("bbox", pose.bbox)):
        if not (np.abs(values) <= _FARTHEST_PX).all():
            text = ", ".join(f"{value:g}" for value in values)
            raise SampleError("number_absurd", f"{where}: the {name} is {text} pixels")


def _struct(value: Any) -> Any:
    """The first element of a struct array, or None where there is no struct."""
    if not isinstance(value, np.ndarray) or value.dtype.names is None or value.size == 0:
        return None
    return value.reshape(-1)[0]


def _number(fields: Any, name: str) -> float | None:
    """A numeric scalar field as a float; None where it is missing, empty, not a number, or not finite."""
    if name not in fields.dtype.names:
        return None
    value = np.asarray(fields[name])
    if value.size == 0 or value.dtype.kind not in "fiub":
        return None
    number = float(value.reshape(-1)[0])
    return number if math.isfinite(number) else None
