"""Triangle meshes: the icosphere template, its seam-safe texture coordinates, normals, sampling, boxes.

Meshes are in the object frame of camera.py (+z up, front at -y). Texture coordinates belong to the
*template*: each vertex of a deformed mesh keeps its point of the unit sphere, the rasterizer interpolates
sphere points, and (u, v) is computed from them per pixel (:func:`sphere_uv`; section 3.1 of arXiv
2306.00118). Interpolated u would smear the whole texture across the triangles that cross u = 0.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntdm.io.cache import Cad

# Closer to the axis than this the longitude of a unit vector is rounding noise.
POLE_RADIUS = 1e-6


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: [V, 3] float32, object frame, CAD units.
        faces: [F, 3] int64 vertex numbers, counter-clockwise seen from outside.
    """

    vertices: Tensor
    faces: Tensor

    def __post_init__(self) -> None:
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"mesh vertices have shape {tuple(self.vertices.shape)}: want [V, 3]")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or self.faces.dtype != torch.int64:
            raise ValueError(
                f"mesh faces are {self.faces.dtype} {tuple(self.faces.shape)}: want int64 [F, 3]"
            )


def icosphere(subdivisions: int) -> Mesh:
    """The unit icosphere: 10 * 4^n + 2 vertices and 20 * 4^n faces, wound outwards.

    It is symmetric in the three coordinate planes, so a left-right symmetric object (x -> -x) has mirrored
    vertices; from one subdivision on both poles are vertices. The vertices of a coarser sphere come first.

    Args:
        subdivisions: n, 0 to 7.
    """
    if not 0 <= subdivisions <= 7:
        raise ValueError(f"icosphere subdivisions is {subdivisions}: want 0 to 7")
    g = (1 + math.sqrt(5)) / 2
    corners = [(0, a, b) for a in (-1, 1) for b in (-g, g)]
    points = np.array([np.roll(c, k) for k in range(3) for c in corners])
    # The faces of the icosahedron are the triples whose three edges all have its edge length, 2.
    near = np.abs(np.linalg.norm(points[:, None] - points[None], axis=-1) - 2) < 1e-6
    triples = [
        (i, j, k)
        for i in range(12)
        for j in range(i)
        for k in range(j)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    faces = np.array(triples)
    a, b, c = points[faces].transpose(1, 0, 2)
    inward = np.einsum("fc,fc->f", np.cross(b - a, c - a), a + b + c) < 0
    faces[inward] = faces[inward][:, ::-1]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for _ in range(subdivisions):
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        unique, number = np.unique(edges, axis=0, return_inverse=True)
        middle = points[unique].sum(1)
        ab, bc, ca = (len(points) + number.reshape(3, -1)).astype(np.int64)
        a, b, c = faces.T
        points = np.concatenate([points, middle / np.linalg.norm(middle, axis=1, keepdims=True)])
        faces = np.concatenate(
            [np.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))]
        )
    return Mesh(torch.from_numpy(points).float(), torch.from_numpy(faces).long().contiguous())


def sphere_uv(points: Tensor) -> Tensor:
    """Texture coordinates of points on the template sphere.

    v = arccos(z) / pi runs from 0 at the top to 1 at the bottom, u = atan2(y, x) / 2 pi mod 1 is the
    longitude: the left side of an object (+x) is at u = 0, its front (-y) at u = 0.75.

    Args:
        points: [..., 3]; any length but zero, as rasterized sphere points are shorter than 1.

    Returns:
        uv [..., 2], u in [0, 1), v in [0, 1]. Differentiable; at the poles u is 0 and its derivative 0.
    """
    x, y, z = points.unbind(-1)
    radius = (x * x + y * y).clamp_min(POLE_RADIUS**2).sqrt()
    # The radius is constant where it is clamped, so that v has derivative 0 there instead of 0 / 0.
    v = torch.atan2(radius, z) / math.pi
    pole = x * x + y * y < POLE_RADIUS**2
    u = torch.atan2(torch.where(pole, 0.0, y), torch.where(pole, 1.0, x)) / (2 * math.pi)
    # u of a tiny negative angle rounds to 1.0, which is 0.
    u = u - u.detach().floor()
    return torch.stack([torch.where(u >= 1, u - 1, u), v], -1)


def sphere_tangents(points: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors along which u and v grow on the template sphere.

    Args:
        points: [..., 3], any length but zero.

    Returns:
        du (eastwards) and dv (towards the lower pole), both [..., 3]; du x dv points inwards. At the poles
        the meridian u = 0 stands in for the missing longitude.
    """
    x, y, z = torch.nn.functional.normalize(points, dim=-1).unbind(-1)
    pole = x * x + y * y < POLE_RADIUS**2
    x, y = torch.where(pole, 1.0, x), torch.where(pole, 0.0, y)
    radius = (x * x + y * y).sqrt()
    cosine, sine = x / radius, y / radius
    lateral = torch.where(pole, 0.0, radius)
    du = torch.stack([-sine, cosine, torch.zeros_like(z)], -1)
    return du, torch.stack([z * cosine, z * sine, -lateral], -1)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals of faces, as long as twice their area, differentiable.

    Args:
        vertices: [B, V, 3].
        faces: [F, 3] int64.

    Returns:
        [B, F, 3].
    """
    # index_select: its backward is one index_add, advanced indexing's is an accumulate ten times slower.
    a, b, c = (vertices.index_select(1, faces[:, k]) for k in range(3))
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted vertex normals, differentiable.

    Args:
        vertices: [B, V, 3] object frame.
        faces: [F, 3] int64; outward normals where the winding is counter-clockwise seen from outside.

    Returns:
        unit [B, V, 3]; zero for a vertex without a face.
    """
    # Vertex-major, so that each row moved by index_add is one contiguous run over the batch.
    per_face = face_normals(vertices, faces).transpose(0, 1)
    sums = torch.zeros_like(vertices).transpose(0, 1).contiguous()
    for k in range(3):
        sums = sums.index_add(0, faces[:, k], per_face)
    return torch.nn.functional.normalize(sums.transpose(0, 1), dim=-1)


def face_neighbours(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Edges of a closed mesh and the two faces at each.

    Args:
        faces: [F, 3] int64.

    Returns:
        edges [E, 2] as vertex numbers, and face numbers [E, 2].
    """
    directed = torch.cat([faces[:, :2], faces[:, 1:], faces[:, ::2]]).sort(1).values
    order = (directed[:, 0] * (int(faces.max()) + 1) + directed[:, 1]).argsort(stable=True)
    return directed[order][::2], (order % len(faces)).reshape(-1, 2)


def sample_surface(
    vertices: Tensor, faces: Tensor, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """Points uniform by area.

    Args:
        vertices: [V, 3].
        faces: [F, 3] int64.
        n: number of points.
        generator: of the random numbers.

    Returns:
        points [n, 3], differentiable with respect to vertices.

    Raises:
        ValueError: the surface has no area.
    """
    areas = torch.linalg.norm(face_normals(vertices.detach()[None], faces)[0].double(), dim=-1)
    total = areas.cumsum(0)
    if len(faces) == 0 or not total[-1] > 0:
        raise ValueError(f"cannot sample a surface of {len(faces)} faces and no area")
    draw = torch.rand(n, generator=generator, dtype=torch.float64, device=vertices.device) * total[-1]
    # multinomial refuses more than 2^24 faces. right=True: a face of no area is never drawn.
    face = torch.searchsorted(total, draw, right=True).clamp_max(len(faces) - 1)
    r, s = torch.rand(2, n, 1, generator=generator, dtype=vertices.dtype, device=vertices.device)
    r = r.sqrt()
    a, b, c = (vertices.index_select(0, faces[face, k]) for k in range(3))
    return (1 - r) * a + r * (1 - s) * b + r * s * c


def as_mesh(cad: Cad) -> Mesh:
    """A CAD's arrays as a mesh of tensors."""
    vertices, faces = cad
    return Mesh(
        torch.from_numpy(np.asarray(vertices, np.float32)), torch.from_numpy(np.asarray(faces, np.int64))
    )


def bounding_box(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Least and greatest corner [3] of the box around the vertices that faces use; others do not count."""
    corners = mesh.vertices[mesh.faces.reshape(-1)]
    return corners.amin(0), corners.amax(0)


def box_centre(mesh: Mesh) -> Tensor:
    """[3]: the middle of the :func:`bounding_box`."""
    low, high = bounding_box(mesh)
    return (low + high) / 2
