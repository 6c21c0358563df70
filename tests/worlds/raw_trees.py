"""Small raw datasets for the readers' tests, written as MATLAB and the datasets' authors write them."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

EMPTY = np.zeros((0, 0))
VIEW = {
    "azimuth_coarse": np.int16(30), "elevation_coarse": np.int16(0), "azimuth": 40.0, "elevation": 10.0,
    "distance": 6.0, "focal": np.uint8(1), "px": 52.25, "py": 38.5, "theta": -5.0,
    "viewport": np.uint16(3000),
}  # fmt: skip
PHOTO_SIZE = (80, 100)  # h, w


def annotated(view: Any = None, **changes: Any) -> dict[str, Any]:
    """One element of `objects`; `view` changes fields of VIEW, or replaces it where it is no dict."""
    fields = {
        "class": "car",
        "bbox": np.array([[20.5, 25.0, 80.0, 60.0]]),
        "anchors": EMPTY,
        "viewpoint": VIEW | (view or {}) if view is None or isinstance(view, dict) else view,
        "cad_index": np.uint8(2),
        "truncated": np.uint8(0),
    }
    return fields | changes


def write_record(path: Path, objects: list[dict[str, Any]], size: tuple[int, int] = (80, 100)) -> None:
    """A `record` .mat of these objects, of a photo of `size` (h, w)."""
    names = sorted({name for fields in objects for name in fields})
    array = np.zeros((1, len(objects)), [(name, object) for name in names])
    for i, fields in enumerate(objects):
        for name in names:
            array[name][0, i] = fields.get(name, EMPTY)
    record = {
        "filename": f"{path.stem}.JPEG",
        "objects": array if objects else EMPTY,
        "imgsize": np.uint16([[size[1], size[0], 3]]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"record": record})


def write_photo(path: Path, seed: int = 0) -> None:
    """A photo of PHOTO_SIZE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 10, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(PHOTO_SIZE[::-1]).save(path, format="JPEG", quality=95)


def write_cad(path: Path, half: tuple[float, float, float] = (0.1, 0.25, 0.08)) -> None:
    """A box as OFF: quads, as a person would write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    quads = ["0 1 3 2", "4 5 7 6", "0 1 5 4", "2 3 7 6", "0 2 6 4", "1 3 7 5"]
    lines = ["OFF", "8 6 0"]
    lines += [" ".join(f"{c * h:.5f}" for c, h in zip(corner, half, strict=True)) for corner in corners]
    path.write_text("\n".join(lines + [f"4 {quad}" for quad in quads]) + "\n")


def write_mat_cads(path: Path, models: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """CAD models (vertices, faces counted from 1) in one MATLAB file, as release 1.0 ships them."""
    array = np.zeros((1, len(models)), [(name, object) for name in ("vertices", "faces", "pnames", "tail")])
    for i, (vertices, faces) in enumerate(models):
        array["vertices"][0, i], array["faces"][0, i] = vertices, faces
        array["pnames"][0, i], array["tail"][0, i] = np.array([["tail"]], object), EMPTY
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {path.stem: array})


def write_pascal3d(root: Path, category: str = "car", train: int = 6, val: int = 3, cads: int = 2) -> Path:
    """PASCAL3D+ of one category: photos n0_0.. in train, n1_0.. in val, each of one object."""
    for k in range(cads):
        write_cad(root / "CAD" / category / f"{k + 1:02d}.off", (0.1, 0.25, 0.05 + 0.03 * k))
    write_cad(root / "CAD" / category / "01_left_wheel.off")  # an anchor, not a model
    for number, (split, count) in enumerate({"train": train, "val": val}.items()):
        names = [f"n{number}_{i}" for i in range(count)]
        for i, name in enumerate(names):
            write_photo(root / "Images" / f"{category}_imagenet" / f"{name}.JPEG", seed=10 * number + i)
            view = {"azimuth": 360.0 * i / count, "distance": 5.0 + i / 4}
            fields = annotated(view, **{"class": category, "cad_index": np.uint8(1 + i % cads)})
            write_record(root / "Annotations" / f"{category}_imagenet" / f"{name}.mat", [fields])
        path = root / "Image_sets" / f"{category}_imagenet_{split}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(names))
    return root
