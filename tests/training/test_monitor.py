"""Watching a training: it changes nothing, shows what the model sees, and warns of what looks wrong."""

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ntdm import train
from ntdm.data.dataset import SampleDataset
from ntdm.io.cache_split import find
from ntdm.methods import load
from ntdm.training import monitor
from ntdm.training.monitor import TrainingMonitor, Validation


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The tiny world's caches and shapes, in a folder for runs."""
    folder = tmp_path_factory.mktemp("watched")
    for name in ("cache", "shapes"):
        (folder / name).symlink_to(tiny_folder / name)
    return folder


@pytest.mark.parametrize("method", ["ntdm", "pose-classifier"])
def test_a_watched_training_is_the_same(tiny, folder, method):
    config = tiny.training(method, epochs=3, patches=0.5, augment=0.4)
    plain, watched = folder / method / "plain", folder / method / "watched"
    train.run(config, folder / "cache", folder / "shapes", plain)
    validation = Validation(find(folder / "cache", "pascal3d/val"), tiny.INFER)
    train.run(config, folder / "cache", folder / "shapes", watched, watch_every=2, validate=validation)
    assert (watched / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    sheets = sorted(path.name for path in watched.glob("sheets/train/*"))
    assert sheets == (["epoch_0002.png", "epoch_0003.png"] if method == "ntdm" else [])
    rows = list(csv.DictReader((watched / "train.csv").open()))
    found = [row["val_pose_acc_pi_6"] for row in rows]
    assert found[0] == "" and all(0 <= float(value) <= 100 for value in found[1:])
    assert "val_pose_acc_pi_6" not in next(csv.reader((plain / "train.csv").open()))


def test_the_sheet_shows_object_features_and_texture(tiny, folder):
    config = replace(tiny.TRAIN, epochs=1)
    run = train.run(config, folder / "cache", folder / "shapes", folder / "sheet", watch_every=1)
    with Image.open(run / "sheets/train/epoch_0001.png") as image:
        pixels = np.asarray(image)
    tile = 160
    # Left to right: photo, mask (black and white), features in colour, texture, likeness.
    columns = [pixels[20 : 20 + tile, 5 + (tile + 5) * i :][:, :tile].reshape(-1, 3) for i in range(5)]
    for colour in (0, 255):
        assert (columns[1] == colour).all(1).mean() > 0.1, "object and background"
    assert len(np.unique(columns[2], axis=0)) > 50
    assert (columns[3] == 90).all(1).mean() > 0.2, "outside the mesh"
    assert (columns[4] == 128).all(1).mean() > 0.2


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("pascal3d/train", {}, "6 samples are trained on, such as car/photo_0"),
        ("pascal3d/val", {"categories": ["sofa"]}, "is of a category that is not trained"),
    ],
)
def test_photos_that_cannot_be_tried_are_refused_before_anything_is_lost(
    tiny, folder, tmp_path, key, change, message
):
    run = train.run(replace(tiny.TRAIN, epochs=1), folder / "cache", folder / "shapes", tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    validation = Validation(find(folder / "cache", key, ["car"]), tiny.INFER)
    with pytest.raises(ValueError, match=message):
        train.run(
            replace(tiny.TRAIN, epochs=2), folder / "cache", folder / "shapes", run,
            overwrite=True, watch_every=1, validate=validation, **change,
        )  # fmt: skip
    assert (run / "model.safetensors").read_bytes() == before


def test_warnings(tiny, folder, capsys, monkeypatch):
    run = train.run(replace(tiny.TRAIN, epochs=1), folder / "cache", folder / "shapes", folder / "warned")
    model, description = load.load(run)
    data = SampleDataset(find(folder / "cache", "pascal3d/train"))
    watched = TrainingMonitor(data, folder / "out", 1, description["nominal_focal"], None)
    watched.seen = Counter({"car": 4})
    one_way = torch.ones(1, 16, 16, tiny.TRAIN.feature_dim) / tiny.TRAIN.feature_dim**0.5
    monkeypatch.setattr(model, "features", lambda photo: one_way.expand(len(photo), -1, -1, -1))
    monkeypatch.setattr(monitor, "draw_sheet", lambda *_: None)
    watched.after({"epoch": 1, "step": 2, "seconds": 0.1, "loss": 1.0}, 1, model)
    said = capsys.readouterr().err
    assert "1 epochs saw no photo of sofa" in said
    assert "all features point one way (length of their mean 1.000)" in said
    assert "no photo of car" not in said
