"""Built-in CAD models for synthetic data: solids, their assembly from named parts, and the files they go to.

Every model follows PASCAL3D+: +z up, front at -y, bounding-box centre at the origin, bounding-box diagonal 1;
"left" anchors lie at -x, as the camera in front of the object sees them. All models mirror onto themselves
about x = 0. A model's parts carry a material (paint, glass, tyre, ...) so that a renderer can colour them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull

Solid = tuple[NDArray[np.float64], NDArray[np.int64]]  # vertices [V, 3], faces [F, 3], 0-based, outward

Station = tuple[float, float, float, float]  # of a hull: y, half width, lowest z, highest z

# OFF files of the release carry five decimals; models are rounded to them so that file and memory agree.
OFF_DECIMALS = 5
OUTLINE_AS_IT_IS = 4000  # vertices that are projected sooner than a hull of them is made
CREASE_COSINE = 0.55  # faces that meet at a sharper angle than ~57 degrees are shaded apart


@dataclass(frozen=True)
class Band:
    """A material over a model's paint between two heights: windows and labels that are no faces."""

    material: str
    low: float  # z, object frame
    high: float
    steepest: float  # largest |z| of a unit normal: windows stand, roofs lie


@dataclass(frozen=True)
class Cad:
    """One model: vertices [V, 3], faces [F, 3], the material of each face, and 3-D anchors by name."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    face_material: NDArray[np.int64]  # [F], index into `materials`
    materials: tuple[str, ...]
    anchors: dict[str, NDArray[np.float64]]
    corner_normals: NDArray[np.float32] = field(repr=False)  # [F, 3, 3] unit, for shading
    bands: tuple[Band, ...] = ()

    @cached_property
    def outline(self) -> NDArray[np.float64]:
        """Vertices [K, 3] that bound the model's picture from everywhere: of many, the convex hull's."""
        used = self.vertices[np.unique(self.faces)]
        return used[ConvexHull(used, qhull_options="QJ").vertices] if len(used) > OUTLINE_AS_IT_IS else used


def loft(rings: ArrayLike) -> Solid:
    """Closed solid through S closed rings of P points each, rings [S, P, 3]; both ends are capped by fans."""
    points = np.asarray(rings, float)
    sections, sides, _ = points.shape
    caps = points[[0, -1]].mean(1)
    vertices = np.concatenate([points.reshape(-1, 3), caps])
    here = np.arange(sides)
    there = (here + 1) % sides
    faces = []
    for s in range(sections - 1):
        a, b = s * sides + here, s * sides + there
        faces += [np.stack([a, b, a + sides], 1), np.stack([b, b + sides, a + sides], 1)]
    last = (sections - 1) * sides
    first_cap = np.full(sides, sections * sides)
    faces += [np.stack([there, here, first_cap], 1), np.stack([last + here, last + there, first_cap + 1], 1)]
    return _outward(vertices, np.concatenate(faces))


def hull(
    stations: Sequence[Station],
    exponent: float = 2.0,
    taper: float = 0.0,
    sides: int = 20,
) -> Solid:
    """Solid of superellipse sections along y.

    Args:
        stations: the sections, in order of y.
        exponent: 2 is an ellipse, large is a box with rounded edges.
        taper: share of the width that is gone at the top of each section.
        sides: points of a section; a multiple of 4 keeps the solid symmetric about x = 0.
    """
    angle = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / exponent)
    z = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / exponent)
    x = x * (1 - taper * (z + 1) / 2)
    rings = [
        np.stack([half * x, np.full(sides, y), (low + high) / 2 + (high - low) / 2 * z], 1)
        for y, half, low, high in stations
    ]
    return loft(rings)


def band(stations: Sequence[Station], y0: float, y1: float, grow: float) -> list[Station]:
    """The part of a hull from y0 to y1, larger by `grow`: a band painted over it."""
    ys = [y0, *(s[0] for s in stations if y0 < s[0] < y1), y1]
    columns = np.array(stations, float).T
    half, low, high = (np.interp(ys, columns[0], column) for column in columns[1:])
    return [(y, w + grow, z0 - grow, z1 + grow) for y, w, z0, z1 in zip(ys, half, low, high, strict=True)]


def box(low: ArrayLike, high: ArrayLike, top: float = 1.0) -> Solid:
    """Axis-aligned box; its upper face is scaled by `top` about the box's vertical axis."""
    lo, hi = np.asarray(low, float), np.asarray(high, float)
    centre, half = (lo + hi) / 2, (hi - lo) / 2
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half[:2]
    floor = np.column_stack([square + centre[:2], np.full(4, lo[2])])
    ceiling = np.column_stack([square * top + centre[:2], np.full(4, hi[2])])
    return loft([floor, ceiling])


def tube(path: ArrayLike, radius: float | Sequence[float], sides: int = 12) -> Solid:
    """Round bar along a polyline, path [S, 3], with one radius or one for each point."""
    points = np.asarray(path, float)
    radii = np.broadcast_to(np.asarray(radius, float), len(points))
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # any vector that no tangent is parallel to: the axis the path moves along least
    helper = np.eye(3)[np.abs(tangent).max(0).argmin()]
    first = np.cross(tangent, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)
    angle = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    circle = np.cos(angle)[:, None] * first[:, None] + np.sin(angle)[:, None] * second[:, None]
    return loft(points[:, None] + radii[:, None, None] * circle)


def blade(root: ArrayLike, tip: ArrayLike, thickness: tuple[float, float], across: int) -> Solid:
    """Wing, fin or propeller blade.

    Args:
        root: [2, 3], leading and trailing point of the end at the body.
        tip: [2, 3], the same of the other end.
        thickness: of the root and of the tip.
        across: axis of the thickness: 2 for wings, 0 for fins.
    """
    rings = []
    for ends, thick in zip((root, tip), thickness, strict=True):
        lead, trail = np.asarray(ends, float)
        bulge = np.eye(3)[across] * thick / 2
        middle = lead + 0.35 * (trail - lead)
        rings.append([lead, middle + bulge, trail, middle - bulge])
    return loft(rings)


class Assembly:
    """Collects solids with their material, and anchors; `finish` normalises them into a :class:`Cad`."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, Solid]] = []
        self._anchors: dict[str, NDArray[np.float64]] = {}

    def add(self, material: str, *solids: Solid) -> None:
        self._parts += [(material, solid) for solid in solids]

    def add_pair(self, material: str, *solids: Solid) -> None:
        """The solids and their mirror images about x = 0."""
        for vertices, faces in solids:
            self.add(material, (vertices, faces), (vertices * [-1, 1, 1], faces[:, ::-1]))

    def anchor(self, name: str, point: ArrayLike) -> None:
        """An anchor; for a name with '{}' both sides, 'right' at the given x > 0 and 'left' at -x."""
        position = np.asarray(point, float)
        if "{}" in name:
            self._anchors[name.format("right")] = position
            self._anchors[name.format("left")] = position * [-1, 1, 1]
        else:
            self._anchors[name] = position

    def finish(self) -> Cad:
        materials = tuple(sorted({material for material, _ in self._parts}))
        vertices, faces, owner, normals, offset = [], [], [], [], 0
        for material, (points, triangles) in self._parts:
            edges = points[triangles]
            area = np.linalg.norm(np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0]), axis=1)
            triangles = triangles[area > 1e-9 * area.max()]  # a section that shrinks to a line leaves slivers
            vertices.append(points)
            faces.append(triangles + offset)
            owner.append(np.full(len(triangles), materials.index(material)))
            normals.append(crease_normals(points, triangles))
            offset += len(points)
        joined = np.concatenate(vertices)
        low, high = joined.min(0), joined.max(0)
        centre, diagonal = (low + high) / 2, np.linalg.norm(high - low)
        anchors = {name: (point - centre) / diagonal for name, point in self._anchors.items()}
        return Cad(
            vertices=np.round((joined - centre) / diagonal, OFF_DECIMALS),
            faces=np.concatenate(faces),
            face_material=np.concatenate(owner),
            materials=materials,
            anchors=anchors,
            corner_normals=np.concatenate(normals).astype(np.float32),
        )


Recipe = Callable[[Assembly], None]


def _outward(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Solid:
    """Flips a closed solid's winding where its signed volume is negative."""
    a, b, c = np.moveaxis(vertices[faces] - vertices.mean(0), 1, 0)
    if np.einsum("fi,fi->", a, np.cross(b, c)) < 0:
        faces = faces[:, ::-1]
    return vertices, np.ascontiguousarray(faces)


def crease_normals(vertices: NDArray[np.floating], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Area-weighted normals [F, 3, 3] at each face's corners, over the neighbours this side of the crease."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    area = np.cross(b - a, c - a)
    unit = area / np.linalg.norm(area, axis=1, keepdims=True)
    result = np.empty((len(faces), 3, 3))
    for vertex in range(len(vertices)):
        face, corner = np.nonzero(faces == vertex)
        near = (unit[face] @ unit[face].T > CREASE_COSINE) @ area[face]
        result[face, corner] = near / np.linalg.norm(near, axis=1, keepdims=True)
    return result
