"""Evaluation of the tiny run: files, columns, going on where it stopped, and what is refused."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from ntdm import evaluate
from ntdm.geometry import camera_np, metrics
from ntdm.io.cache import CacheFile
from ntdm.io.error_table import read_errors
from ntdm.io.prediction_writer import PredictionWriter
from ntdm.io.predictions import PREDICTION_COLUMNS, read_geometry, read_predictions

SPLITS = ("pascal3d/val", "occluded_pascal3d/L1")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def untimed(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(path)]


@pytest.fixture(scope="module")
def evaluated(tiny, tiny_folder, tmp_path_factory) -> Path:
    run = shutil.copytree(tiny_folder / "ntdm", tmp_path_factory.mktemp("evaluated") / "run")
    written = evaluate.run(run, tiny_folder / "cache", SPLITS, tiny.INFER)
    assert written == [run / "errors" / f"{split}.csv" for split in SPLITS]
    return run


@pytest.fixture
def copied(tiny_folder, tmp_path) -> Path:
    """The run, not evaluated, in a place to write to."""
    return shutil.copytree(tiny_folder / "ntdm", tmp_path / "run")


def test_files_and_columns(evaluated):
    for split, count in zip(SPLITS, (6, 4), strict=True):
        predictions = rows_of(evaluated / "predictions" / f"{split}.csv")
        assert tuple(predictions[0]) == PREDICTION_COLUMNS
        errors = rows_of(evaluated / "errors" / f"{split}.csv")
        assert tuple(errors[0]) == (
            "dataset", "split", "category", "name", "rotation_error", "amodal_iou", "visible_iou",
            "class_correct", "seconds", "rotation_error_free", "amodal_iou_free",
        )  # fmt: skip
        assert len(predictions) == len(errors) == count
        assert {f"{row['dataset']}/{row['split']}" for row in errors} == {split}
        assert all(0 <= float(row["rotation_error"]) <= 3.1416 for row in errors)
        assert all(0 <= float(row["amodal_iou"]) <= 1 for row in errors)
        assert {row["predicted_category"] for row in predictions} <= {"car", "sofa"}
        assert not list((evaluated / "predictions").rglob("*.part*"))
        with Image.open(evaluated / "sheets" / f"{split}.png") as sheet:
            assert min(sheet.size) > 64


def test_visible_iou_only_where_occluders_are_known(evaluated):
    empty, measured = (rows_of(evaluated / "errors" / f"{split}.csv") for split in SPLITS)
    assert {row["visible_iou"] for row in empty} == {""}
    assert all(0 <= float(row["visible_iou"]) <= 1 for row in measured)


def test_errors_are_those_of_the_predictions(evaluated, tiny_folder):
    path = evaluated / "predictions" / "occluded_pascal3d" / "L1.csv"
    table, errors = read_predictions(path), read_errors(evaluated / "errors" / "occluded_pascal3d" / "L1.csv")
    geometry = read_geometry(path, table.keys())
    assert errors.keys() == table.keys()
    for i, (category, name) in enumerate(table.keys()):
        with CacheFile(tiny_folder / "cache" / "occluded_pascal3d" / "L1" / f"{category}.h5") as file:
            j = file["name"].index(name)
            truth = camera_np.rotation(file["viewpoint"][j])
            amodal, visible = file.read("amodal_mask", j), file.read("visible_mask", j)
        angles = np.array([table[k][i] for k in ("azimuth", "elevation", "theta")])
        error = metrics.rotation_error(camera_np.rotation(angles), truth)
        assert errors["rotation_error"][i] == pytest.approx(float(error), abs=1e-6)
        for column, mask, want in (
            ("amodal_iou", geometry.amodal[i], amodal),
            ("visible_iou", geometry.visible[i], visible),
        ):
            union = np.sum((mask > 0) | (want > 0))
            assert errors[column][i] == pytest.approx(np.sum((mask > 0) & (want > 0)) / union, abs=1e-6)
        assert not np.any(geometry.visible[i] & ~geometry.amodal[i])
        assert errors["class_correct"][i] == (table["predicted_category"][i] == category)
        if table["predicted_category"][i] == category:
            assert errors["rotation_error_free"][i] == pytest.approx(errors["rotation_error"][i], abs=1e-6)
            assert errors["amodal_iou_free"][i] == pytest.approx(errors["amodal_iou"][i], abs=1e-6)


def test_geometry_file(evaluated, tiny):
    with h5py.File(evaluated / "predictions" / "pascal3d" / "val.h5") as file:
        for name in ("amodal", "visible", "amodal_free"):
            assert file[name].shape == (6, *tiny.SIZE)
            assert set(np.unique(file[name][:])) <= {0, 1}
        assert file["latent"].shape == (6, tiny.NUM_CADS)
        assert (file["scale"][:] > 0).all()


class Stopped(Exception):  # noqa: N818
    """Stands for Ctrl-C."""


def test_interrupted_evaluation_ends_as_if_it_had_not_been(evaluated, tiny, tiny_folder, copied, monkeypatch):
    add, batches = PredictionWriter.add, []

    def add_two(self, rows, geometry=None):
        if len(batches) == 2:
            raise Stopped
        batches.append(len(rows))
        add(self, rows, geometry)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionWriter, "add", add_two)
        with pytest.raises(Stopped):
            evaluate.run(copied, tiny_folder / "cache", SPLITS[:1], tiny.INFER)
    assert batches == [2, 2]
    final = copied / "predictions" / "pascal3d" / "val.csv"
    assert not final.exists()
    with pytest.raises(ValueError, match="another config"):
        evaluate.run(copied, tiny_folder / "cache", SPLITS[:1], replace(tiny.INFER, steps=4))
    evaluate.run(copied, tiny_folder / "cache", SPLITS[:1], tiny.INFER)
    assert untimed(final) == untimed(evaluated / "predictions" / "pascal3d" / "val.csv")
    errors = Path("errors", "pascal3d", "val.csv")
    assert untimed(copied / errors) == untimed(evaluated / errors)
    with (
        h5py.File(final.with_suffix(".h5")) as a,
        h5py.File(evaluated / "predictions" / "pascal3d" / "val.h5") as b,
    ):
        for name in ("amodal", "visible", "latent", "scale"):
            np.testing.assert_array_equal(a[name][:], b[name][:])


def test_finished_predictions_are_kept_or_refused(evaluated, tiny, tiny_folder, tmp_path):
    run = shutil.copytree(evaluated, tmp_path / "run")
    table = run / "predictions" / "pascal3d" / "val.csv"
    before = table.stat().st_mtime_ns
    (run / "errors" / "pascal3d" / "val.csv").unlink()
    evaluate.run(run, tiny_folder / "cache", SPLITS[:1], tiny.INFER)
    assert table.stat().st_mtime_ns == before
    assert (run / "errors" / "pascal3d" / "val.csv").exists()
    changed = replace(tiny.INFER, steps=2)
    with pytest.raises(ValueError, match=r"steps: 3 -> 2") as refused:
        evaluate.run(run, tiny_folder / "cache", SPLITS[:1], changed)
    assert "azimuths" not in str(refused.value)  # only what differs is named
    evaluate.run(run, tiny_folder / "cache", SPLITS[:1], changed, overwrite=True)
    assert table.stat().st_mtime_ns != before


def test_training_samples_are_refused(tiny, tiny_folder, copied):
    with pytest.raises(ValueError, match=r"was trained on 12 samples of .*such as car/photo_0"):
        evaluate.run(copied, tiny_folder / "cache", ["pascal3d/train"], tiny.INFER)
    assert not (copied / "predictions").exists()


def test_unknown_category_is_refused(tiny, copied, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.HALVES, "boat", (0.1, 0.4, 0.1))
    tiny.write_cache(tmp_path / "cache", "pascal3d/val", ("boat",), latents=False)
    with pytest.raises(ValueError, match=r"category 'boat' is unknown to .*trained on car, sofa"):
        evaluate.run(copied, tmp_path / "cache", ["pascal3d/val"], tiny.INFER)


def test_another_image_size_is_refused(tiny, copied, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.write_cache.__globals__, "SIZE", (64, 80))
    tiny.write_cache(tmp_path / "cache", "pascal3d/val", seed=1, prefix="unseen", latents=False)
    with pytest.raises(ValueError, match=r"has images of \(64, 80\), .*trained on \(64, 64\)"):
        evaluate.run(copied, tmp_path / "cache", ["pascal3d/val"], tiny.INFER)


def test_another_scale_is_refused(tiny, copied, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.write_cache.__globals__, "SCALE", 2 * tiny.SCALE)
    tiny.write_cache(tmp_path / "cache", "pascal3d/val", seed=1, prefix="unseen", latents=False)
    with pytest.raises(ValueError, match=rf"nominal focal length of {2 * tiny.FOCAL:g} .* at {tiny.FOCAL:g}"):
        evaluate.run(copied, tmp_path / "cache", ["pascal3d/val"], tiny.INFER)


def test_a_principal_point_that_no_file_would_hold_is_not_refined(tiny, tiny_folder, copied):
    with pytest.raises(ValueError, match="predictions hold no principal point"):
        evaluate.run(copied, tiny_folder / "cache", SPLITS, replace(tiny.INFER, refine_principal_point=True))


def test_missing_split_and_run_are_refused(tiny, tiny_folder, copied, tmp_path):
    with pytest.raises(ValueError, match=r"no cache file in .*L9"):
        evaluate.run(copied, tiny_folder / "cache", ["occluded_pascal3d/L9"], tiny.INFER)
    with pytest.raises(ValueError, match="is not a run folder"):
        evaluate.run(tmp_path / "nothing", tiny_folder / "cache", SPLITS, tiny.INFER)


def test_pose_classifier_is_evaluated_without_masks(tiny, tiny_folder, tmp_path):
    run = shutil.copytree(tiny_folder / "classifier", tmp_path / "run")
    evaluate.run(run, tiny_folder / "cache", SPLITS, tiny.INFER)
    assert json.loads((run / "config.json").read_text())["method"] == "pose-classifier"
    for split in SPLITS:
        rows = rows_of(run / "errors" / f"{split}.csv")
        assert {row["amodal_iou"] for row in rows} == {row["visible_iou"] for row in rows} == {""}
        assert all(float(row["rotation_error"]) == float(row["rotation_error_free"]) for row in rows)
        assert {row["class_correct"] for row in rows} <= {"0", "1"}
