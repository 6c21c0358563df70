"""examples/lift_photo.py on a cache and a shape of the tests' tiny world."""

import runpy
from pathlib import Path

import numpy as np
from PIL import Image


def test_texels_that_the_photo_shows_are_lifted_and_the_others_grey(
    checkout: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    lift = runpy.run_path(str(checkout / "examples" / "lift_photo.py"))["lift"]
    cache = sorted((tiny_folder / "cache" / "pascal3d" / "train").glob("*.h5"))[0]
    out = lift(cache, 0, tiny_folder / "shapes" / f"{cache.stem}.safetensors", tmp_path / "lifted.obj")
    assert out == tmp_path / "lifted.obj" and out.is_file() and out.with_suffix(".mtl").is_file()
    texture = np.asarray(Image.open(out.with_suffix(".png")))
    grey = (texture == 128).all(-1)  # half of 255, rounded to even
    assert 0.2 < grey.mean() < 0.98
