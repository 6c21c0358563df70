"""Inference on any photo: `ntdm infer`. One folder a photo; the estimate itself is ntdm/estimator.py.

<out>/<photo>/result.json   class, pose, camera of the photo, shape latent, losses of all classes
              amodal.png    the object's whole silhouette, photo resolution, 0/255
              visible.png   its visible part
              mesh.obj (.mtl, .png)  the fitted mesh: visible blue, occluded orange, unseen grey
              overlay.png   the mesh over the photo
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntdm.config.stages import InferConfig
from ntdm.estimator import Box, Estimator, check_result_folder, checked_box
from ntdm.io.outputs import sweep, up_to_date
from ntdm.io.photo import read_photo
from ntdm.io.progress import track


def run(
    images: Sequence[Path],
    run_folder: Path,
    out: Path,
    bbox: Box | None,
    config: InferConfig,
    overwrite: bool = False,
    device: str = "cpu",
) -> Path:
    """Infer photos and write one folder each.

    Args:
        images: the photos; no two of one name.
        run_folder: as `ntdm train` wrote it.
        out: folder of the results.
        bbox: x0, y0, x1, y1 in photo pixels (corner-origin) of the object; None is the whole photo.
        config: of the inference.
        overwrite: replace results that were made otherwise.
        device: "cpu" or "cuda", where photos are fitted.

    Returns:
        `out`. A photo whose result is there, made with the same config, weights and box, is skipped.

    Raises:
        ValueError: an unreadable photo, a box that misses the photo, a run of a method without meshes, a
            result made otherwise without `overwrite`, a folder of that name that holds other files.
    """
    sweep(out)
    estimator = Estimator(run_folder, config, device)
    stems = [path.stem for path in images]
    if {"", ".", ".."} & set(stems):
        raise ValueError("a photo's name is made of dots only: its result would have no folder; rename it")
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(
            f"two photos are called {twice[0]}: their results would share a folder; infer them apart"
        )
    todo = []
    for path in images:  # all are looked at before the first is worked on
        photo = read_photo(path)
        made_with = estimator.made_with(photo, checked_box(bbox, photo, str(path)))
        if not _finished(out / path.stem, made_with, overwrite):
            todo.append(path)
    for path in track(todo, "infer"):
        estimator(path, bbox).save(out / path.stem, overwrite=True)
    return out


def _finished(folder: Path, made_with: dict[str, Any], overwrite: bool) -> bool:
    """Whether `folder` holds this very result; ValueError when it holds what must not be replaced."""
    check_result_folder(folder)
    if overwrite or not (folder / "result.json").exists():
        return False
    try:
        before = json.loads((folder / "result.json").read_text(encoding="utf-8"))["made_with"]
        if not isinstance(before, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / 'result.json'} is damaged: pass --overwrite to make it again") from None
    return up_to_date(folder, before, made_with, overwrite)
