"""The visible surface of a CAD: what is seen from outside, by open3d's rays.

CADs are open, wound at random, and full of seats and engines: a fit to all faces would be pulled inwards.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d
import torch
from torch import Tensor

from ntdm.geometry.mesh import Mesh, bounding_box, face_normals, sample_surface
from ntdm.io.cache import Cad, Cads
from ntdm.io.progress import track
from ntdm.shapes.nearest_faces import as_o3d, bvh

VIEWS, GRID = 60, 128  # directions of parallel rays that look for faces, rays along a side of each bundle
PROBES, OPEN_SHARE = 48, 0.06  # rays from a point, share of them that must leave the object
POOL = 20000  # points of a visible surface, from which fitting draws
FEWEST_FACES, MOST_FACES = 4, 2_000_000  # of a CAD; ten million would take more than 4 GB
SMALLEST, LARGEST = 0.1, 10.0  # diagonal in CAD units; PASCAL3D+ has 1, and cameras stand 5 away
FARTHEST = 0.5  # centre from the origin, in diagonals: poses turn the object about its origin


@dataclass(frozen=True, eq=False)
class Surface:
    """The part of a CAD that is seen from outside.

    Attributes:
        vertices: [V, 3] float32, object frame, CAD units.
        faces: [F, 3] int64, the faces of which something is seen.
        all_faces: [G, 3] those of the whole CAD.
        points: [P, 3] visible points, uniform by area.
        normals: [P, 3] their unit normals, on the side they are seen from.
        corners: [Q, 3] the visible vertices.
        diagonal: of the bounding box, CAD units.
    """

    vertices: Tensor
    faces: Tensor
    all_faces: Tensor
    points: Tensor
    normals: Tensor
    corners: Tensor
    diagonal: float

    @property
    def whole(self) -> Mesh:
        """The whole CAD."""
        return Mesh(self.vertices, self.all_faces)


def directions(n: int) -> np.ndarray:
    """n unit vectors [n, 3] float32 spread evenly over the sphere (Fibonacci lattice)."""
    z = 1 - (2 * np.arange(n) + 1) / n
    longitude, radius = np.arange(n) * math.pi * (3 - math.sqrt(5)), np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(longitude), radius * np.sin(longitude), z], 1).astype(np.float32)


def visible_surface(cad: Cad, generator: torch.Generator, name: str = "CAD") -> Surface:
    """The part of a CAD that is seen from outside.

    A face is visible when a parallel ray from one of VIEWS directions meets it first; a point on it when
    enough of PROBES rays from it leave the object, which refuses seats seen through a window.

    Args:
        cad: the mesh.
        generator: of the points.
        name: of the CAD, for errors.

    Raises:
        ValueError: no faces or too many, a face of another number of corners or that names no vertex, not
            finite, no area, a size or a place that no camera of the datasets fits.
    """
    vertices, faces = np.asarray(cad[0], np.float32), np.asarray(cad[1], np.int64)
    if len(faces) > MOST_FACES:
        raise ValueError(f"{name} has {len(faces)} faces: reduce it to at most {MOST_FACES}")
    if len(faces) and (faces.ndim != 2 or faces.shape[1] != 3):
        raise ValueError(f"{name} has faces of shape {faces.shape}: want triangles (F, 3)")
    if len(faces) == 0 or len(vertices) == 0:
        raise ValueError(f"{name} has {len(vertices)} vertices and {len(faces)} faces: nothing to fit")
    wrong = faces[(faces < 0) | (faces >= len(vertices))]
    if len(wrong):
        raise ValueError(f"{name} has a face that names vertex {wrong[0]} of {len(vertices)}")
    if not np.isfinite(vertices[faces.reshape(-1)]).all():
        raise ValueError(f"{name} has vertices that are not finite numbers")
    cloud = torch.from_numpy(vertices)
    low, high = (corner.numpy() for corner in bounding_box(Mesh(cloud, torch.from_numpy(faces))))
    centre, diagonal = (low + high) / 2, float(np.linalg.norm(high - low))
    if diagonal and not SMALLEST <= diagonal <= LARGEST:
        unit = " (is it in millimetres?)" if diagonal > LARGEST else ""
        raise ValueError(
            f"{name} has a diagonal of {diagonal:.4g} units: want about 1{unit}; "
            f"divide its vertices by {diagonal:.4g}"
        )
    if np.linalg.norm(centre) > FARTHEST * diagonal > 0:
        x, y, z = centre
        raise ValueError(
            f"{name} has its centre at ({x:.4g}, {y:.4g}, {z:.4g}), more than {FARTHEST} of its diagonal "
            "from the origin, about which poses turn: subtract the centre from its vertices"
        )
    if not diagonal > 0 or not face_normals(cloud[None], torch.from_numpy(faces)).any():
        raise ValueError(f"{name} has faces without area: nothing to fit")
    if len(faces) < FEWEST_FACES:
        raise ValueError(f"{name} has {len(faces)} of the {FEWEST_FACES} faces that the simplest solid has")
    scene = bvh(vertices, faces)
    hit = np.zeros(len(faces), bool)
    for direction in directions(VIEWS):
        hit[_first_hits(scene, centre, diagonal, direction)] = True
    visible = torch.from_numpy(faces[hit])
    points = sample_surface(cloud, visible, 2 * POOL, generator)
    points, outward = _escaping(scene, points, diagonal)
    corners, _ = _escaping(scene, cloud[visible.unique()], diagonal)
    if len(points) < 100:
        raise ValueError(f"{name} has no surface that can be seen from outside")
    points, outward = points[:POOL], outward[:POOL]
    face = scene.compute_closest_points(as_o3d(points.numpy()))["primitive_ids"].numpy().astype(np.int64)
    normals = torch.nn.functional.normalize(
        face_normals(cloud[None], torch.from_numpy(faces[face]))[0], dim=1
    )
    # The normal points to the side from which the point is seen: winding says nothing in these CADs.
    normals *= torch.where((normals * outward).sum(1, keepdim=True) < 0, -1.0, 1.0)
    corners = corners if len(corners) else points
    return Surface(cloud, visible, torch.from_numpy(faces), points, normals, corners, diagonal)


def visible_surfaces(category: str, cads: Cads, seed: int) -> list[Surface]:
    """The visible surfaces of a category's CADs, in their order; errors as :func:`visible_surface`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        visible_surface(cad, generator, f"CAD {k + 1:02d} of {category}")
        for k, cad in track(cads.items(), f"{category}: visible surfaces", len(cads))
    ]


def crossing_faces(mesh: Cad) -> np.ndarray:
    """Numbers of the faces of a mesh that meet another with which they share no vertex: [N], ascending."""
    soup = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(np.asarray(mesh[0], np.float64)),
        open3d.utility.Vector3iVector(np.asarray(mesh[1], np.int32)),
    )
    return np.unique(np.asarray(soup.get_self_intersecting_triangles()))


def _first_hits(scene: Any, centre: np.ndarray, diagonal: float, direction: np.ndarray) -> np.ndarray:
    """Faces met first by a GRID x GRID bundle of parallel rays that comes from `direction`."""
    side = np.cross(direction, [1, 0, 0] if abs(direction[0]) < 0.6 else [0, 1, 0])
    side /= np.linalg.norm(side)
    steps = (np.arange(GRID) + 0.5) / GRID - 0.5
    a, b = (g.reshape(-1, 1) for g in np.meshgrid(steps, steps))
    start = centre + diagonal * (direction + a * side + b * np.cross(direction, side))
    rays = np.concatenate([start, np.broadcast_to(-direction, start.shape)], 1)
    face = scene.cast_rays(as_o3d(rays))["primitive_ids"].numpy()
    return face[face != scene.INVALID_ID]


def _escaping(scene: Any, points: Tensor, diagonal: float) -> tuple[Tensor, Tensor]:
    """The points of [P, 3] from which enough PROBES leave the object; the sum of these directions of each."""
    start = points.numpy()
    free, outward = np.zeros(len(start)), np.zeros_like(start)
    for d in directions(PROBES):
        # Rays start a little off the surface, or each would meet its own face.
        rays = np.concatenate([start + 1e-4 * diagonal * d, np.broadcast_to(d, start.shape)], 1)
        out = ~scene.test_occlusions(as_o3d(rays)).numpy()
        free += out
        outward += out[:, None] * d
    keep = torch.from_numpy(free >= OPEN_SHARE * PROBES)
    return points[keep], torch.from_numpy(outward)[keep]
