"""The example program and the notebook, on a run of the tests' tiny world."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def photo(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "n1_1000001.JPEG"
    pixels, _ = tiny.render("car", torch.tensor([0.6, 0.3, 0.0, 5.0]), torch.Generator().manual_seed(0))
    Image.fromarray(pixels).save(path)
    return path


def test_program(checkout, tiny_folder, photo, tmp_path, capsys):
    main = runpy.run_path(str(checkout / "examples" / "one_photo.py"))["main"]
    main(str(tiny_folder / "ntdm"), str(photo), str(tmp_path / "out"), "4", "4", "60", "60")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "out") and "azimuth" in lines[1]
    assert (tmp_path / "out" / "result.json").exists() and (tmp_path / "out.png").stat().st_size > 1000


def test_notebook(checkout, tiny_folder, photo):
    """Every code cell runs in order; the paths of the second are those of the tiny world."""
    cells = json.loads((checkout / "examples" / "one_photo.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in cells), "stored outputs go stale"
    names: dict[str, object] = {}
    exec(code[0], names)
    names |= {"run": tiny_folder / "ntdm", "photo": photo}
    for cell in code[1:]:
        exec(cell, names)
    assert names["estimate"].category in ("car", "sofa")
    x = names["xy"][:, 0]
    assert np.isfinite(x).all() and abs(x.min() - names["columns"].min()) < 3
