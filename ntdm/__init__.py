"""Neural Textured Deformable Meshes (arXiv 2306.00118): one photo to pose, shape, masks and class.

    import ntdm
    estimate = ntdm.load("runs/ntdm")("photo.jpg", bbox=(40, 25, 310, 190))
    estimate.category, estimate.viewpoint, estimate.amodal, estimate.mesh

Names are imported at first use (PEP 562): `import ntdm` itself costs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it; a module itself stands for itself.
_HOMES = {
    "load": "ntdm.estimator",
    "Estimator": "ntdm.estimator",
    "Estimate": "ntdm.estimate",
    "FittedMesh": "ntdm.estimate",
    "rasterize": "ntdm.ops.rasterize",
    "interpolate": "ntdm.ops.interpolate",
    "Fragments": "ntdm.ops.fragments",
    "soft_silhouette": "ntdm.ops.soft_silhouette",
    "Silhouette": "ntdm.ops.soft_silhouette",
    "uv_scatter": "ntdm.ops.uv_scatter",
    "texture_lookup": "ntdm.ops.texture_lookup",
    "texture_similarity": "ntdm.ops.texture_lookup",
    "Pinhole": "ntdm.geometry.camera",
    "CacheFile": "ntdm.io.cache",
    "read_predictions": "ntdm.io.predictions",
    "read_geometry": "ntdm.io.predictions",
    "read_errors": "ntdm.io.error_table",
    "camera": "ntdm.geometry",
    "mesh": "ntdm.geometry",
    "metrics": "ntdm.geometry",
    "reports": "ntdm",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from ntdm import reports as reports
    from ntdm.estimate import Estimate as Estimate
    from ntdm.estimate import FittedMesh as FittedMesh
    from ntdm.estimator import Estimator as Estimator
    from ntdm.estimator import load as load
    from ntdm.geometry import camera as camera
    from ntdm.geometry import mesh as mesh
    from ntdm.geometry import metrics as metrics
    from ntdm.geometry.camera import Pinhole as Pinhole
    from ntdm.io.cache import CacheFile as CacheFile
    from ntdm.io.error_table import read_errors as read_errors
    from ntdm.io.predictions import read_geometry as read_geometry
    from ntdm.io.predictions import read_predictions as read_predictions
    from ntdm.ops.fragments import Fragments as Fragments
    from ntdm.ops.interpolate import interpolate as interpolate
    from ntdm.ops.rasterize import rasterize as rasterize
    from ntdm.ops.soft_silhouette import Silhouette as Silhouette
    from ntdm.ops.soft_silhouette import soft_silhouette as soft_silhouette
    from ntdm.ops.texture_lookup import texture_lookup as texture_lookup
    from ntdm.ops.texture_lookup import texture_similarity as texture_similarity
    from ntdm.ops.uv_scatter import uv_scatter as uv_scatter


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ntdm' has no attribute {name!r}")
    if home in ("ntdm", "ntdm.geometry"):
        value = importlib.import_module(f"{home}.{name}")
    else:
        value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
