"""Pictures of predictions: which samples they show, the three colours of a mesh, and who has none."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ntdm import evaluate
from ntdm.evaluation import sheets
from ntdm.io.cache_split import find
from ntdm.methods import load
from ntdm.viz import pictures

SPLITS = {"L0": "pascal3d/val", "L1": "occluded_pascal3d/L1"}


@pytest.fixture(scope="module")
def runs(tiny, tiny_folder, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sheets")
    copies = {name: shutil.copytree(tiny_folder / name, folder / name) for name in ("ntdm", "classifier")}
    for run in copies.values():
        evaluate.run(run, tiny_folder / "cache", list(SPLITS.values()), tiny.INFER)
    return copies


def test_pictures_of_the_runs_that_fit_meshes(runs, tiny_folder, tmp_path, capsys):
    described = runs["ntdm"] / "config.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"method": "NTDM of today"}))
    written = sheets.run(
        list(runs.values()), tiny_folder / "cache", SPLITS | {"L2": "occluded_pascal3d/L2"}, tmp_path
    )
    assert [path.name for path, _ in written] == ["ntdm_examples.png", "ntdm_L0.png", "ntdm_L1.png"]
    assert "fits no mesh" in capsys.readouterr().err
    for path, caption in written:
        assert caption.startswith("NTDM of today"), "the name of the table's row"
        with Image.open(path) as image:
            assert min(image.size) > 150


def test_an_imported_run_has_no_pictures(tmp_path, capsys):
    (tmp_path / "run" / "errors").mkdir(parents=True)
    assert sheets.run([tmp_path / "run"], tmp_path, SPLITS, tmp_path / "out") == []
    assert "no model or no errors" in capsys.readouterr().err


def test_a_model_that_fits_no_mesh_is_not_built(runs, tiny_folder, tmp_path):
    """It may need a package that is not there, as mask-rcnn does."""
    run = shutil.copytree(runs["classifier"], tmp_path / "run")
    (run / "model.safetensors").write_bytes(b"")
    assert sheets.run([run], tiny_folder / "cache", SPLITS, tmp_path / "out") == []


def test_fits_are_those_of_the_rows_asked_for(runs, tiny_folder):
    model, _ = load.load(runs["ntdm"])
    split = SPLITS["L0"]
    with (runs["ntdm"] / "errors" / f"{split}.csv").open(newline="") as file:
        errors = list(csv.DictReader(file))
    paths = find(tiny_folder / "cache", split)
    fits = sheets.read_fits(model, runs["ntdm"], split, paths, [4, 0, 4])
    for fit, row in zip(fits, (4, 0, 4), strict=True):
        assert fit.caption.startswith(f"{errors[row]['name']}\nclass ")
        assert f"pose error {math.degrees(float(errors[row]['rotation_error'])):.1f}°" in fit.caption
        assert fit.photo.shape == (*fit.amodal.shape, 3) and fit.vertices.shape[0] == 1
    with pytest.raises(ValueError, match=r"has no sample \('sofa', 'unseen_1'\), which .* predicted"):
        sheets.read_fits(model, runs["ntdm"], split, paths[:1], [4])


@pytest.mark.parametrize("shown", ["nothing", "left", "all"])
def test_the_three_colours_of_a_mesh(runs, tiny_folder, shown):
    """Half of a mesh is never seen; of the other half, what the visible mask holds is blue."""
    model, description = load.load(runs["ntdm"])
    paths = find(tiny_folder / "cache", SPLITS["L0"])
    (fit,) = sheets.read_fits(model, runs["ntdm"], SPLITS["L0"], paths, [0])
    visible = np.zeros_like(fit.visible)
    if shown != "nothing":
        visible[:, : visible.shape[1] // (2 if shown == "left" else 1)] = 1
    fit = sheets.Fit(fit.photo, fit.amodal, visible, fit.vertices, torch.tensor([[1.0, 0.1, 0.0, 5.0]]), "")
    drawn = sheets.coloured_mesh(model, description["nominal_focal"], fit).reshape(-1, 3).astype(int)
    inside = drawn[(drawn != 255).any(1)]
    assert len(inside) > 0.1 * len(drawn), "as large as the picture allows"
    blue = inside[:, 2] > inside[:, 0] + 20
    orange = inside[:, 0] > inside[:, 2] + 20
    grey = np.ptp(inside, 1) == 0
    assert (blue | orange | grey).mean() > 0.98
    assert grey.mean() > 0.05
    assert blue.any() == (shown != "nothing") and orange.any() == (shown != "all")
    assert pictures.VISIBLE_COLOUR[2] > pictures.VISIBLE_COLOUR[0]
