"""The amodal mask of a crop: the annotated CAD projected with the crop's camera, two-sided, by area.

A pixel is set when at least half of its SAMPLES x SAMPLES sub-pixel centres are covered; one that is just
half covered belongs to the object. Parts about a pixel wide (spokes, masts, chair legs) then fall into fewer
pieces than with one centre a pixel.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ntdm import camera
from ntdm.rasterize import coverage
from ntdm.rasterize_ops import NEAR

SAMPLES = 4  # a side of a pixel
# Part of the digest of a cache's inputs: change it with the rule.
RULE = f"amodal mask: half of {SAMPLES} x {SAMPLES} samples"


def amodal_mask(
    cad: tuple[np.ndarray, np.ndarray],
    viewpoint: np.ndarray,
    focal: float,
    principal_point: np.ndarray,
    size: tuple[int, int],
) -> NDArray[np.bool_]:
    """The mask of a CAD, [H, W].

    Args:
        cad: vertices [V, 3] in the object frame, CAD units, and faces [F, 3].
        viewpoint: f64 [4] azimuth, elevation, theta (radians), distance (CAD units).
        focal: pixels of the crop.
        principal_point: [2] x, y, pixels of the crop.
        size: (H, W).
    """
    mask = np.zeros(size, bool)
    vertices, faces = (torch.from_numpy(array) for array in cad)
    vertices_cam = camera.cam_from_obj(vertices.double(), torch.from_numpy(viewpoint))
    centre = torch.from_numpy(principal_point)
    focal_px = torch.tensor(focal, dtype=torch.float64)
    # Only the object's box is sampled: the fine grid of a whole crop would be mostly sky.
    ahead = vertices_cam[vertices_cam[:, 2] < -NEAR]
    if not len(ahead):
        return mask
    xy, _ = camera.project(ahead, focal_px, centre)
    limit = np.array([size[1], size[0]])
    low = np.clip(np.floor(xy.amin(0).numpy()), 0, limit).astype(int)
    width, height = (np.clip(np.ceil(xy.amax(0).numpy()), low, limit) - low).astype(int).tolist()
    covered = coverage(
        vertices_cam,
        faces.long(),
        focal_px * SAMPLES,
        (centre - torch.from_numpy(low)) * SAMPLES,
        (height * SAMPLES, width * SAMPLES),
    ).numpy()
    share = covered.reshape(height, SAMPLES, width, SAMPLES).mean((1, 3))
    mask[low[1] : low[1] + height, low[0] : low[0] + width] = share >= 0.5
    return mask
