"""The camera of camera.py on NumPy arrays, for what runs without torch: prep-data, scoring, reports.

The workers of prep-data are processes that would otherwise each wait a second for torch, which they have no
other use for. A test holds this file against its twin.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntdm.geometry.metrics import Array

# A face with a corner nearer than this to the camera's plane is dropped (the vertices' unit).
NEAR = 1e-3


def rotation(angles: ArrayLike) -> Array:
    """Rotation of ``cam_from_obj``: the numpy twin of :func:`ntdm.geometry.camera.rotation`.

    Args:
        angles: [..., 3] or more columns, azimuth, elevation, theta first; radians.

    Returns:
        R [..., 3, 3]; NaN where an angle is not finite.
    """
    angles = np.asarray(angles, dtype=np.float64)
    if angles.ndim == 0 or angles.shape[-1] < 3:
        raise ValueError(
            f"angles have shape {angles.shape}: want [..., 3], azimuth, elevation, theta in radians"
        )
    angles = np.where(np.isfinite(angles), angles, np.nan)
    (ca, ce, ct), (sa, se, st) = (np.moveaxis(f(angles[..., :3]), -1, 0) for f in (np.cos, np.sin))
    right = np.stack([ca, sa, np.zeros_like(ca)], -1)
    up = np.stack([-se * sa, se * ca, ce], -1)
    back = np.stack([ce * sa, -ce * ca, se], -1)
    ct, st = ct[..., None], st[..., None]
    return np.stack([ct * right - st * up, st * right + ct * up, back], -2)


def cam_from_obj(points: NDArray[np.floating], viewpoint: NDArray[np.float64]) -> NDArray[np.float64]:
    """Object points [V, 3] in the frame of one camera, f64, as camera.cam_from_obj; viewpoint [4]."""
    # Not @, for which a BLAS may start threads.
    moved = np.einsum("vk,ik->vi", points.astype(np.float64), rotation(viewpoint))
    return moved - np.array([0.0, 0.0, viewpoint[3]])


def project(
    points_cam: NDArray[np.float64], focal: float, principal_point: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pixels [V, 2] of points [V, 3] in front of one camera, as camera.project; principal_point [2]."""
    scale = focal / -points_cam[:, 2:]
    return principal_point + scale * points_cam[:, :2] * [1, -1]
