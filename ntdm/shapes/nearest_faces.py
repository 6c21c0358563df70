"""Exact nearest faces of triangle meshes: by open3d's BVH on the CPU, by Kaolin on CUDA.

Both give the nearest face and the barycentric weights of the foot point on it, without gradient. The
distance is then computed from the face's corners (:func:`points_on_faces`), so that value and derivative are
the same on either device; Kaolin's own distance is not used.

Written against Kaolin 0.18's ``kaolin.metrics.trianglemesh.point_to_mesh_distance(points [B, P, 3],
face_vertices [B, F, 3, 3]) -> (squared distance [B, P], face [B, P] int64, type [B, P] int32)``. It tries
every face for every point. A face without area has a distance that is not a number there, and hides other
faces; such a face is put out of reach first.
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import open3d
import torch
from torch import Tensor

from ntdm.ops.rasterize_kaolin import import_failure

SPACING = 4.0  # between meshes that share one BVH, in sizes of a mesh: points find none but their own
FLAT = 1e-6  # height by length of a face under which float32 cannot tell it from a line
OUT_OF_REACH = ((1e4, 0.0, 0.0), (1e4 + 10, 0.0, 0.0), (1e4, 10.0, 0.0))


class NearestFaces(Protocol):
    """A query structure of K meshes."""

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest faces of points.

        Args:
            points: [K, P, 3]; row k is asked of mesh k.

        Returns:
            face [K, P] int64, barycentric weights [K, P, 3] and foot point [K, P, 3].
        """


def nearest_faces(meshes: Sequence[tuple[Tensor, Tensor]], unit: float) -> NearestFaces:
    """The nearest faces of K meshes at once, on the device that they lie on.

    Args:
        meshes: vertices [V, 3] and faces [F, 3] of each.
        unit: no mesh is longer, CAD units.

    Raises:
        ValueError: they lie on CUDA, and Kaolin is missing.
    """
    device = meshes[0][0].device
    check(device)
    return _Bvh(meshes, unit) if device.type == "cpu" else _Kaolin(meshes)


def points_on_faces(vertices: Tensor, faces: Tensor, weights: Tensor) -> Tensor:
    """Points on faces by their barycentric weights, differentiable with respect to the vertices.

    Args:
        vertices: [K, V, 3].
        faces: [K, P, 3] the corners' numbers of each point's face.
        weights: [K, P, 3].

    Returns:
        [K, P, 3].
    """
    K, V, _ = vertices.shape
    number = faces + V * torch.arange(K, device=faces.device)[:, None, None]
    corners = vertices.reshape(-1, 3).index_select(0, number.reshape(-1)).reshape(*faces.shape, 3)
    return (corners * weights[..., None]).sum(-2)


def foot_weights(points: Tensor, corners: Tensor) -> Tensor:
    """Barycentric weights of the nearest point of a triangle, computed in double.

    A triangle without area is the longest of its edges.

    Args:
        points: [..., 3].
        corners: [..., 3, 3] of each point's triangle.

    Returns:
        [..., 3].
    """
    corner, point = corners.double(), points.double()[..., None, :]
    side = corner.roll(-1, -2) - corner  # from corner k to k + 1
    along = ((point - corner) * side).sum(-1) / side.square().sum(-1).clamp_min(1e-300)
    share = along.clamp(0, 1)
    square = (point - corner - share[..., None] * side).square().sum(-1)
    edge = torch.nn.functional.one_hot(square.argmin(-1), 3).to(corner.dtype)
    on_edge = edge * (1 - share) + (edge * share).roll(1, -1)
    # Twice the signed areas of the triangles that the foot in the plane makes with the sides.
    normal = torch.linalg.cross(side[..., 0, :], side[..., 1, :])[..., None, :]
    opposite = (torch.linalg.cross(side, point - corner) * normal).sum(-1).roll(-1, -1)
    inside = (opposite > 0).all(-1, keepdim=True)
    in_plane = opposite / torch.where(inside, opposite.sum(-1, keepdim=True), 1.0)
    return torch.where(inside, in_plane, on_edge).to(points.dtype)


def check(device: str | torch.device) -> None:
    """ValueError where distances cannot be had on the device."""
    if torch.device(device).type != "cpu" and (reason := missing()):
        raise ValueError(
            "distances to meshes on CUDA are Kaolin's, which cannot be used here "
            f"({reason}): use --device cpu"
        )


@functools.cache
def missing() -> str | None:
    """Why Kaolin's distances cannot be used here, or None if they can."""
    return import_failure(_metrics, "point_to_mesh_distance")


class _Bvh:
    """open3d's: one BVH over the K meshes, SPACING * unit apart along x."""

    def __init__(self, meshes: Sequence[tuple[Tensor, Tensor]], unit: float) -> None:
        arrays = [(vertices.numpy(), faces.numpy()) for vertices, faces in meshes]
        counts = [len(vertices) for vertices, _ in arrays]
        self._shift = np.zeros((len(arrays), 1, 3), np.float32)
        self._shift[:, 0, 0] = SPACING * unit * np.arange(len(arrays))
        vertices = np.concatenate([v + s for (v, _), s in zip(arrays, self._shift, strict=True)])
        first = np.cumsum([0, *counts[:-1]])
        faces = np.concatenate([f + n for (_, f), n in zip(arrays, first, strict=True)])
        self._scene = bvh(vertices, faces)
        self._first_face = np.cumsum([0, *(len(f) for _, f in arrays[:-1])])

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = points.shape[:2]
        query = (points.detach().numpy() + self._shift).reshape(-1, 3)
        closest = self._scene.compute_closest_points(as_o3d(query))
        face = closest["primitive_ids"].numpy().astype(np.int64).reshape(shape) - self._first_face[:, None]
        uv = closest["primitive_uvs"].numpy().reshape(*shape, 2)
        weights = np.concatenate([1 - uv.sum(-1, keepdims=True), uv], -1)
        foot = closest["points"].numpy().reshape(*shape, 3) - self._shift
        return torch.from_numpy(face), torch.from_numpy(weights), torch.from_numpy(foot)


class _Kaolin:
    """Kaolin's: one call a mesh, as their numbers of faces differ."""

    def __init__(self, meshes: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._corners = [vertices.detach()[faces].contiguous() for vertices, faces in meshes]
        self._reachable = [_without_lines(corners) for corners in self._corners]

    @torch.no_grad()
    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points = points.detach().contiguous()
        distance_to = _metrics().point_to_mesh_distance
        face = torch.cat(
            [distance_to(p, r[None])[1] for p, r in zip(points.split(1), self._reachable, strict=True)]
        )
        corners = torch.stack([c[f] for c, f in zip(self._corners, face, strict=True)])
        weights = foot_weights(points, corners)
        return face, weights, (corners * weights[..., None]).sum(-2)


def bvh(vertices: np.ndarray, faces: np.ndarray) -> Any:
    """open3d's scene of the triangles faces [F, 3] of vertices [V, 3]."""
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(as_o3d(vertices), open3d.core.Tensor(np.ascontiguousarray(faces, np.uint32)))
    return scene


def as_o3d(array: np.ndarray) -> Any:
    """An array as open3d's float32 tensor."""
    return open3d.core.Tensor(np.ascontiguousarray(array, np.float32))


def _without_lines(corners: Tensor) -> Tensor:
    """Triangles [F, 3, 3], each one without area replaced by OUT_OF_REACH."""
    side = corners.roll(-1, 1) - corners
    area = torch.linalg.cross(side[:, 0], side[:, 1]).norm(dim=-1)
    solid = area > FLAT * side.square().sum(-1).amax(-1)
    return torch.where(solid[:, None, None], corners, corners.new_tensor(OUT_OF_REACH))


def _metrics() -> ModuleType:
    from kaolin.metrics import trianglemesh

    return trianglemesh
