"""The library face: a run is loaded and asked about photos; `ntdm infer` is the same call."""

import json
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

import ntdm
from ntdm import infer
from ntdm.estimator import FILES, Estimator

BOX = (10.0, 5.0, 80.0, 60.0)


@pytest.fixture(scope="module")
def photo(tiny, tmp_path_factory) -> Path:
    """A photo of a painted ellipsoid, 90 x 70."""
    import torch

    path = tmp_path_factory.mktemp("photos") / "holiday.png"
    pixels, _ = tiny.render("car", torch.tensor([0.6, 0.3, 0.0, 5.0]), torch.Generator().manual_seed(0))
    Image.fromarray(pixels).resize((90, 70)).save(path)
    return path


@pytest.fixture(scope="module")
def estimator(tiny, tiny_folder) -> Estimator:
    return ntdm.load(tiny_folder / "ntdm", "cpu", tiny.INFER)


@pytest.fixture(scope="module")
def estimate(estimator, photo) -> ntdm.Estimate:
    return estimator(photo, BOX)


def test_its_files_are_those_of_infer_byte_for_byte(tiny, tiny_folder, photo, estimate, tmp_path):
    infer.run([photo], tiny_folder / "ntdm", tmp_path / "inferred", BOX, tiny.INFER)
    saved = estimate.save(tmp_path / "saved")
    assert {path.name for path in saved.iterdir()} == set(FILES)
    for name in FILES:
        assert (saved / name).read_bytes() == (tmp_path / "inferred/holiday" / name).read_bytes(), name


def test_its_fields_agree_with_one_another(estimate):
    assert estimate.category == max(estimate.scores, key=estimate.scores.get)
    assert estimate.score == estimate.scores[estimate.category]
    assert estimate.amodal.shape == estimate.visible.shape == (70, 90)
    assert estimate.amodal.any() and not (estimate.visible & ~estimate.amodal).any()
    # The mesh under the estimate's own camera covers the amodal mask.
    points = estimate.mesh.vertices @ estimate.cam_from_obj[:, :3].T + estimate.cam_from_obj[:, 3]
    x = estimate.principal_point[0] - estimate.focal * points[:, 0] / points[:, 2]
    y = estimate.principal_point[1] + estimate.focal * points[:, 1] / points[:, 2]
    rows, columns = estimate.amodal.nonzero()
    inside = (x >= 0) & (x < 90) & (y >= 0) & (y < 70)
    assert abs(x[inside].min() - columns.min()) < 2 and abs(x[inside].max() - columns.max() - 1) < 2
    assert abs(y[inside].min() - rows.min()) < 2 and abs(y[inside].max() - rows.max() - 1) < 2
    np.testing.assert_allclose(np.linalg.norm(estimate.cam_from_obj[:, 3]), estimate.viewpoint[3])
    assert estimate.mesh.uv.shape == (len(estimate.mesh.vertices), 2)
    assert estimate.mesh.faces.max() < len(estimate.mesh.vertices)


def test_path_image_and_array_are_one_photo(estimator, photo, estimate):
    with Image.open(photo) as image:
        others = [estimator(image, BOX), estimator(np.asarray(image), BOX), estimator(str(photo), BOX)]
    for other in others:
        assert (other.viewpoint == estimate.viewpoint).all() and other.losses == estimate.losses
        assert (other.amodal == estimate.amodal).all()
    assert [other.name for other in others] == [None, None, "holiday.png"]


def test_a_list_is_a_batch(estimator, photo, estimate):
    whole, boxed = estimator([photo, photo], [None, BOX])
    assert whole.bbox == (0, 0, 90, 70) and boxed.bbox == BOX
    assert boxed.category == estimate.category
    # Products of another batch size round otherwise.
    assert boxed.score == pytest.approx(estimate.score, abs=1e-3)
    assert estimator([]) == []


def test_plot_and_notebook_show_the_photo(estimate):
    figure = estimate.plot()
    assert isinstance(figure, matplotlib.figure.Figure) and len(figure.axes) == 4
    assert estimate.category in figure.get_suptitle()
    assert estimate._repr_png_().startswith(b"\x89PNG")


def test_a_result_is_replaced_when_that_is_asked_for(estimate, tmp_path):
    folder = estimate.save(tmp_path / "out")
    with pytest.raises(ValueError, match="holds a result already: pass overwrite=True"):
        estimate.save(folder)
    estimate.save(folder, overwrite=True)
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds more than a result"):
        estimate.save(folder, overwrite=True)
    assert (folder / "diary.txt").read_text() == "mine"
    assert json.loads((folder / "result.json").read_text())["category"] == estimate.category


@pytest.mark.parametrize(
    ("photo", "box", "message"),
    [
        ("nowhere.png", None, "photo nowhere.png does not exist"),
        (7, None, "the photo is int: want a path, a PIL image or a uint8 array"),
        (np.zeros((4, 4), np.uint8), None, r"the photo is uint8 \(4, 4\): want uint8 \[H, W, 3\]"),
        (np.zeros((4, 4, 3)), None, r"the photo is float64 \(4, 4, 3\)"),
        (np.zeros((4, 0, 3), np.uint8), None, r"the photo is uint8 \(4, 0, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), (9, 9, 12, 12), "misses photo given, which is 4 x 4"),
        (np.zeros((4, 4, 3), np.uint8), (0, 0, 4), "want x0,y0,x1,y1, four numbers"),
        (np.zeros((4, 4, 3), np.uint8), (0, 0, float("nan"), 4), "want x0,y0,x1,y1 in pixels"),
        ([np.zeros((4, 4, 3), np.uint8)], [None, None], "1 photos and 2 boxes"),
    ],
)
def test_what_is_no_photo_or_box(estimator, photo, box, message):
    with pytest.raises(ValueError, match=message):
        estimator(photo, box)


def test_what_is_no_run(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=r"is not a run folder: config\.json is missing"):
        ntdm.load(tmp_path)
    with pytest.raises(ValueError, match="holds method 'pose-classifier', which fits no mesh"):
        ntdm.load(tiny_folder / "classifier")
    with pytest.raises(ValueError, match="want tiny, paper, or a TOML file"):
        ntdm.load(tiny_folder / "ntdm", config="huge")
