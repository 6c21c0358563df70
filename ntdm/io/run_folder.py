"""The run folder: config.json, weights, predictions, errors, sheets of one method (docs/formats.md)."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from ntdm.config.protocol import PASCAL3D_FOCAL_PX

DESCRIPTION: dict[str, type | tuple[type, ...]] = {  # what a run's config.json holds that is read again
    "method": str, "train": dict, "categories": list, "image_size": list, "nominal_focal": (float, int),
    "typical_box": (float, int), "shapes": dict,
}  # fmt: skip


def check_focal(path: Path, focal: float, description: dict[str, Any]) -> None:
    """ValueError where a cache file's nominal focal length, crop pixels, is not that of the run."""
    if not math.isclose(focal, description["nominal_focal"], rel_tol=1e-6):
        raise ValueError(
            f"{path} was prepared at a nominal focal length of {focal:g} pixels, the "
            f"training's caches at {description['nominal_focal']:g}: prepare it with --set "
            f"scale={description['nominal_focal'] / PASCAL3D_FOCAL_PX:g}"
        )


def weights_digest(run_folder: Path) -> str:
    """Hexadecimal digest of a run's weights: predictions remember which they were made with."""
    return hashlib.sha256((run_folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def read_description(path: Path) -> dict[str, Any]:
    """The object in a run's config.json; ValueError where it holds none."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): restore it, or train again with --overwrite"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds {type(content).__name__}, want an object: restore it, or train with --overwrite"
        )
    return content
