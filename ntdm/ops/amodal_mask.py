"""The amodal mask of a crop: the annotated CAD projected with the crop's camera, two-sided.

Every pixel is cut into CELLS x CELLS cells, and is set when a face touches the middle of at least half of
them, a square of two thirds of the cell's side. So fewer parts thinner than a pixel (spokes, masts, chair
legs, plates seen edge-on) fall into pieces; the price is an outline about a tenth of a pixel further out, and
two tenths where it is upright or level.
"""

import numpy as np
from numpy.typing import NDArray

from ntdm.geometry import camera_np
from ntdm.io.cache import Cad
from ntdm.ops import kernels

CELLS = 4  # a side of a pixel
# Part of the digest of a cache's inputs: change it with the rule.
RULE = f"amodal mask: half of {CELLS} x {CELLS} cells touched"


def amodal_mask(
    cad: Cad,
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

    Raises ValueError where a face names a vertex that is not there. Faces that reach behind the camera are
    left out.
    """
    mask = np.zeros(size, bool)
    vertices, faces = cad[0], np.ascontiguousarray(cad[1], np.int64)
    low_face, high_face = (faces.min(), faces.max()) if faces.size else (0, -1)
    if low_face < 0 or high_face >= len(vertices):
        named = low_face if low_face < 0 else high_face
        raise ValueError(f"amodal_mask: faces name vertex {named}, but there are {len(vertices)} vertices")
    vertices_cam = np.ascontiguousarray(camera_np.cam_from_obj(vertices, viewpoint), np.float64)
    # Only the object's box is looked at: the fine grid of a whole crop would be mostly sky.
    ahead = vertices_cam[vertices_cam[:, 2] < -camera_np.NEAR]
    if not len(ahead):
        return mask
    xy = camera_np.project(ahead, focal, principal_point)
    limit = np.array([size[1], size[0]])
    low = np.clip(np.floor(xy.min(0) - 1 / CELLS), 0, limit).astype(int)
    width, height = (np.clip(np.ceil(xy.max(0) + 1 / CELLS), low, limit) - low).astype(int).tolist()
    touched = np.zeros((height * CELLS, width * CELLS), np.uint8)
    centre = (principal_point - low) * CELLS
    kernels.call(
        "amodal_mask", vertices_cam, faces, len(vertices_cam), len(faces), *touched.shape,
        float(focal * CELLS), *centre.tolist(), camera_np.NEAR, touched,
    )  # fmt: skip
    share = touched.reshape(height, CELLS, width, CELLS).sum((1, 3), dtype=np.uint8)
    mask[low[1] : low[1] + height, low[0] : low[0] + width] = 2 * share >= CELLS**2
    return mask
