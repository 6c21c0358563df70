"""The camera: every convention of ntdm in one place.

Frames
    obj  the object's frame: +z up, the front of the object looks along -y (PASCAL3D+).
    cam  x right, y up, z back: a point in front of the camera has z < 0, its depth is -z.
    pixel corner-origin: the centre of the first pixel is (0.5, 0.5); x right, y down.

A viewpoint is (azimuth, elevation, theta, distance): radians and CAD units. Azimuth 0 sees the object's
front, azimuth 90 degrees stands on +x; elevation > 0 looks from above; theta > 0 turns the object
counter-clockwise in the picture. The camera centre is distance * (cos e sin a, -cos e cos a, sin e).

``cam_from_obj`` names a pose: x_cam = R x_obj + t, with t = (0, 0, -distance).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Of the conventions, and so here too.
from ntdm.config.protocol import NOMINAL_DISTANCE as NOMINAL_DISTANCE
from ntdm.config.protocol import PASCAL3D_FOCAL_PX as PASCAL3D_FOCAL_PX


class Pinhole(NamedTuple):
    """Intrinsics of B cameras with one picture size; ``rasterize(vertices_cam, faces, *camera)`` takes it."""

    focal: Tensor  # [B] pixels
    principal_point: Tensor  # [B, 2] pixels, corner-origin frame
    size: tuple[int, int]  # (H, W)

    def scaled(self, factor: float) -> "Pinhole":
        """The cameras of the same pictures, `factor` times as wide and high in pixels, or in cells.

        Nothing shifts, as pixel frames are corner-origin; a part of a cell at the border is left out.
        """
        height, width = self.size
        size = (math.floor(height * factor + 1e-9), math.floor(width * factor + 1e-9))  # 49 * (1 / 49) < 1
        return Pinhole(self.focal * factor, self.principal_point * factor, size)


def rotation(angles: Tensor) -> Tensor:
    """Rotation of ``cam_from_obj`` from azimuth, elevation, theta.

    Args:
        angles: [..., 3] or [..., 4] (a viewpoint; its distance is ignored), radians.

    Returns:
        R [..., 3, 3]; rows are right, up, back after the in-plane rotation: Rz(theta) Rx(e - pi/2) Rz(-a).
    """
    a, e, t = angles[..., 0], angles[..., 1], angles[..., 2]
    ca, sa, ce, se, ct, st = a.cos(), a.sin(), e.cos(), e.sin(), t.cos(), t.sin()
    right = torch.stack([ca, sa, torch.zeros_like(a)], -1)
    up = torch.stack([-se * sa, se * ca, ce], -1)
    back = torch.stack([ce * sa, -ce * ca, se], -1)
    ct, st = ct[..., None], st[..., None]
    return torch.stack([ct * right - st * up, st * right + ct * up, back], -2)


def angles_from_rotation(R: Tensor) -> Tensor:
    """Inverse of :func:`rotation`: [..., 3, 3] -> azimuth in [0, 2 pi), elevation, theta [..., 3].

    At the poles (elevation +-pi/2) azimuth and theta are not separable; azimuth is what atan2(0, 0) gives, 0.
    """
    azimuth = torch.atan2(R[..., 2, 0], -R[..., 2, 1]) % (2 * math.pi)
    elevation = torch.asin(R[..., 2, 2].clamp(-1, 1))
    theta = torch.atan2(-R[..., 0, 2], R[..., 1, 2])
    return torch.stack([azimuth, elevation, theta], -1)


def viewpoints_at(directions: np.ndarray, distance: float) -> Tensor:
    """Viewpoints f32 [N, 4] of upright cameras that stand in unit directions [N, 3] of the object frame."""
    angles = [(math.atan2(x, -y), math.asin(z), 0.0, distance) for x, y, z in directions.tolist()]
    return torch.tensor(angles)


def cam_from_obj(points: Tensor, viewpoint: Tensor) -> Tensor:
    """Object points in the camera frame.

    Args:
        points: [..., V, 3] in the object frame.
        viewpoint: [..., 4] azimuth, elevation, theta, distance.

    Returns:
        [..., V, 3]; z < 0 in front of the camera.
    """
    moved = points @ rotation(viewpoint).transpose(-1, -2)
    shift = torch.zeros_like(viewpoint[..., :3])
    shift = torch.cat([shift[..., :2], -viewpoint[..., 3:4]], -1)
    return moved + shift[..., None, :]


def project(points_cam: Tensor, focal: Tensor, principal_point: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective projection.

    Args:
        points_cam: [..., V, 3] in the camera frame.
        focal: [...] pixels.
        principal_point: [..., 2] pixels, corner-origin frame.

    Returns:
        xy [..., V, 2] in pixels and depth [..., V] (positive in front).
    """
    depth = -points_cam[..., 2]
    scale = focal[..., None] / depth
    x = principal_point[..., None, 0] + scale * points_cam[..., 0]
    y = principal_point[..., None, 1] - scale * points_cam[..., 1]
    return torch.stack([x, y], -1), depth


def mirror_viewpoint(viewpoint: Tensor) -> Tensor:
    """The viewpoint [..., 4] of the left-right mirrored photo of a left-right symmetric object."""
    azimuth, elevation, theta, distance = viewpoint.unbind(-1)
    return torch.stack([(-azimuth) % (2 * math.pi), elevation, -theta, distance], -1)


def camera_centre(viewpoint: Tensor) -> Tensor:
    """Camera centre [..., 3] in the object frame: distance * (cos e sin a, -cos e cos a, sin e)."""
    a, e, d = viewpoint[..., 0], viewpoint[..., 1], viewpoint[..., 3]
    return d[..., None] * torch.stack([e.cos() * a.sin(), -e.cos() * a.cos(), e.sin()], -1)
