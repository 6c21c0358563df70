"""What a category's mesh shows from a camera: the seam between the solver and the methods that render."""

from typing import NamedTuple

from torch import Tensor

from ntdm.ops.rasterize import Fragments


class SurfaceMap(NamedTuple):
    """What a mesh shows on a feature grid."""

    fragments: Fragments
    attributes: Tensor  # template point and local view direction of every vertex [B, V, 6]
    sphere: Tensor  # template point under each cell [B, h, w, 3]; zero outside
    local_view: Tensor  # direction to the camera in (du, dv, n) [B, h, w, 3], near unit length; 0 outside
