"""`ntdm export`: what other tools read back is what the cache and the predictions say."""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from ntdm import evaluate, export
from ntdm.cli import app
from ntdm.evaluation import ood_cv_challenge
from ntdm.geometry import camera
from ntdm.io import cache, cache_split
from ntdm.io.error_table import read_errors
from ntdm.io.prediction_writer import write_predictions
from ntdm.io.predictions import DenseOutputs, Prediction

SPLITS = ("occluded_pascal3d/L1", "pascal3d/val")
COUNT = 3

# pycocotools 2.0.11 under numpy 2: its masks say so each time they are read.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def caches(tiny, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("export")
    for split in SPLITS:
        tiny.write_cache(root, split, count=COUNT, latents=False)
    for path in root.rglob("*.h5"):
        with h5py.File(
            path, "r+"
        ) as file:  # cameras as they are in a real cache: focal = 3000 s distance / 5
            file["viewpoint"][:, 3] = np.arange(4.0, 4.0 + COUNT)
            file["focal"][:] = 300.0 * np.arange(4.0, 4.0 + COUNT) / 5
    return root


@pytest.fixture(scope="module")
def perfect(caches, tmp_path_factory) -> Path:
    """A run that predicts the truth: angles and masks; the distance as seen by the nominal camera."""
    run = tmp_path_factory.mktemp("runs") / "perfect"
    for split in SPLITS:
        rows, amodal, visible = [], [], []
        for path in cache_split.find(caches, split):
            with cache.CacheFile(path) as file:
                for name, view in zip(file["name"], file["viewpoint"].tolist(), strict=True):
                    rows.append(
                        Prediction(*split.split("/"), file.category, name, "sofa", *view[:3], 5.0, 0.5, 0.1)
                    )
                amodal.append(file["amodal_mask"])
                visible.append(file["visible_mask"])
        geometry = DenseOutputs(np.concatenate(amodal), np.concatenate(visible))
        write_predictions(run / "predictions" / f"{split}.csv", rows, geometry)
    return run


def ntdm(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def everything(caches: Path) -> list[Path]:
    return [path for split in SPLITS for path in cache_split.find(caches, split)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def replaced(run: Path, folder: Path, old: str, new: str, split: str = SPLITS[1]) -> Path:
    """A copy of a run's table of one split, without masks, some text of it replaced."""
    table = folder / "run" / "predictions" / f"{split}.csv"
    table.parent.mkdir(parents=True)
    text = (run / "predictions" / f"{split}.csv").read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    return folder / "run"


def test_coco_truth_and_predictions_score_perfect(caches, perfect, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is the extra `export`")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    paths = everything(caches)
    truth = coco.COCO(export.coco(paths, None, tmp_path / "truth.json"))
    found = truth.loadRes(str(export.coco(paths, perfect, tmp_path / "found.json")))
    image_id = 0
    for path in paths:
        with cache.CacheFile(path) as file:
            for i, name in enumerate(file["name"]):
                image_id += 1
                image = truth.loadImgs([image_id])[0]
                assert image["file_name"] == f"{file.dataset}/{file.split}/{file.category}/{name}.png"
                assert (image["height"], image["width"]) == file.image_size
                for side in (truth, found):
                    (annotation,) = side.loadAnns(side.getAnnIds([image_id]))
                    assert truth.loadCats([annotation["category_id"]])[0]["name"] == file.category
                    assert (side.annToMask(annotation) == file.read("amodal_mask", i)).all()
                    if side is found or "occluder_mask" in file:
                        visible = side.annToMask({**annotation, "segmentation": annotation["visible_mask"]})
                        assert (visible == file.read("visible_mask", i)).all()
                    else:
                        assert "visible_mask" not in annotation
    assert len(truth.anns) == len(found.anns) == image_id == 4 * COUNT
    scores = evaluation.COCOeval(truth, found, "segm")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    assert scores.stats[0] == pytest.approx(1.0)


def test_coco_box_and_area_are_the_masks(caches, tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools is the extra `export`")
    path = caches / "pascal3d" / "val" / "car.h5"
    dataset = json.loads(export.coco([path], None, tmp_path / "truth.json").read_text())
    with cache.CacheFile(path) as file:
        for annotation, mask in zip(dataset["annotations"], file["amodal_mask"], strict=True):
            rows, columns = mask.nonzero()
            x, y = columns.min(), rows.min()
            assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0


def bop_poses(path: Path) -> list[tuple[tuple[int, int, int], np.ndarray, np.ndarray]]:
    """As the challenge describes it: a header, then seven cells a line, R row-wise, t in millimetres."""
    header, *lines = path.read_text().splitlines()
    assert header == "scene_id,im_id,obj_id,score,R,t,time"
    poses = []
    for line in lines:
        scene, image, thing, score, R, t, seconds = line.split(",")
        assert math.isfinite(float(score)) and (float(seconds) == -1 or float(seconds) > 0)
        poses.append(((int(scene), int(image), int(thing)), np.array(R.split(), float).reshape(3, 3),
                      np.array(t.split(), float)))  # fmt: skip
    return poses


@pytest.mark.parametrize("predicted", [False, True])
def test_bop_poses_project_as_the_cache_does(caches, perfect, tmp_path, predicted):
    paths = everything(caches)
    out = export.bop(paths, perfect if predicted else None, tmp_path / "ntdm_val.csv")
    poses, images = bop_poses(out), rows_of(tmp_path / "ntdm_val_images.csv")
    assert len(poses) == len(images) == 4 * COUNT
    opened = [cache.CacheFile(path) for path in paths]
    for (ids, R, t), image in zip(poses, images, strict=True):
        scene, i, category_id = ids
        file = opened[scene - 1]
        assert ids == tuple(int(image[column]) for column in ("scene_id", "im_id", "obj_id"))
        assert (image["category"], image["name"]) == (file.category, file["name"][i])
        assert category_id == {"car": 6, "sofa": 10}[file.category]
        assert np.allclose(R @ R.T, np.eye(3)) and np.linalg.det(R) == pytest.approx(1)
        vertices, _ = file.cads()[0]
        # OpenCV: x right, y down, z forward.
        moved = 1000.0 * vertices.astype(np.float64) @ R.T + t
        xy = float(image["focal"]) * moved[:, :2] / moved[:, 2:] + [float(image["cx"]), float(image["cy"])]
        viewpoint, focal, centre = (
            torch.as_tensor(file[name][i], dtype=torch.float64)
            for name in ("viewpoint", "focal", "principal_point")
        )
        cam = camera.cam_from_obj(torch.from_numpy(vertices).double(), viewpoint)
        expected, depth = camera.project(cam, focal, centre)
        assert xy == pytest.approx(expected.numpy(), abs=1e-6)
        assert moved[:, 2] == pytest.approx(1000 * depth.numpy())
    for file in opened:
        file.close()


def test_bop_toolkit_reads_the_bop_csv(caches, perfect, tmp_path):
    inout = pytest.importorskip(
        "bop_toolkit_lib.inout", reason="bop_toolkit is installed from its repository, thodan/bop_toolkit"
    )
    out = export.bop(everything(caches), perfect, tmp_path / "ntdm_val.csv")
    assert inout.check_bop_results(str(out)) == (True, "OK")
    read = inout.load_bop_results(str(out), version="bop19")
    ours = bop_poses(out)
    assert len(read) == len(ours) == 4 * COUNT
    for theirs, (ids, R, t) in zip(read, ours, strict=True):
        assert (theirs["scene_id"], theirs["im_id"], theirs["obj_id"]) == ids
        np.testing.assert_array_equal(theirs["R"], R)
        np.testing.assert_array_equal(theirs["t"][:, 0], t)
        assert theirs["score"] == 0.5


def test_the_exact_camera_keeps_the_plane_through_the_centre(caches, perfect):
    """The run predicts distance 5 in the nominal camera; what lies off the plane shifts."""
    flat = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.1, 0.0], [-0.2, 0.4, 0.0]], dtype=torch.float64)
    for record in export.records(cache_split.find(caches, SPLITS[1]), perfect):
        exact = torch.from_numpy(record.viewpoint)
        nominal = torch.cat([exact[:3], exact.new_tensor([5.0])])
        centre, shift = torch.from_numpy(record.principal_point), []
        for lifted in (0.0, 0.3):  # towards the camera, CAD units
            facing = flat + exact.new_tensor([0.0, 0.0, lifted])
            points = facing @ camera.rotation(exact)
            seen, _ = camera.project(camera.cam_from_obj(points, nominal), exact.new_tensor(300.0), centre)
            kept, _ = camera.project(
                camera.cam_from_obj(points, exact), exact.new_tensor(record.focal), centre
            )
            shift.append(float((seen - kept).norm(dim=-1).max()))
        assert shift[0] < 1e-9
        assert (shift[1] > 0.1) == (abs(record.viewpoint[3] - 5) > 1e-9)


@pytest.mark.parametrize("predicted", [False, True])
def test_ood_cv_angles_are_degrees(caches, perfect, tmp_path, predicted):
    path = caches / "pascal3d" / "val" / "car.h5"
    rows = rows_of(export.ood_cv([path], perfect if predicted else None, tmp_path / "pose.csv"))
    assert tuple(rows[0]) == ("imgs", "labels", "azimuth", "elevation", "theta", "distance")
    with cache.CacheFile(path) as file:
        viewpoint = file["viewpoint"]
    for i, row in enumerate(rows):
        assert row["imgs"] == f"collection_car_photo_{i}.jpg"
        angles = np.radians([float(row[name]) for name in ("azimuth", "elevation", "theta")])
        assert angles == pytest.approx(viewpoint[i, :3])
        assert float(row["distance"]) == pytest.approx(viewpoint[i, 3])


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("n02690373_10203_01", "imagenet_aeroplane_n02690373_10203_1.jpg"),
        ("2008_001719_00", "pascal_aeroplane_2008_001719_0.jpg"),
        ("aeroplane_+_indoor_google_0022_00", "collection_aeroplane_aeroplane_+_indoor_google_0022_0.jpg"),
    ],
)
def test_ood_cv_names_are_the_challenges(name, image):
    assert f"{ood_cv_challenge.challenge_name('aeroplane', name)}.jpg" == image
    with pytest.raises(ValueError, match="'photo' of car is not <image>_<object>"):
        ood_cv_challenge.challenge_name("car", "photo")


def test_ood_cv_takes_the_rows_of_the_challenge(caches, tmp_path, capsys):
    order = tmp_path / "labels.csv"
    wanted = [f"collection_car_photo_{i}.jpg" for i in (2, 7, 0, 2)]
    order.write_text("\ufeffimgs,labels,azimuth\n" + "".join(f"{name},car,1\n" for name in wanted))
    path = caches / "pascal3d" / "val" / "car.h5"
    result = ntdm("ood-cv", "--cache", path, "--out", tmp_path / "pose.csv", "--order", order)
    rows = rows_of(tmp_path / "pose.csv")
    assert [row["imgs"] for row in rows] == wanted
    assert rows[0] == rows[3]
    assert rows[1] == dict(zip(rows[1], [wanted[1], "car", *["nan"] * 4], strict=True))
    assert "1 of 4 rows" in result.stderr and "1 of 3 samples" in result.stderr
    order.write_text("imgs,labels\nother.jpg,car\n")
    with pytest.raises(ValueError, match="names none of the samples"):
        export.ood_cv([path], None, tmp_path / "pose.csv", order)
    order.write_text("image\nother.jpg\n")
    with pytest.raises(ValueError, match="line 1: missing column 'imgs'; want imgs,labels; found image"):
        export.ood_cv([path], None, tmp_path / "pose.csv", order)


def test_ood_cv_takes_an_order_that_other_programs_wrote(caches, tmp_path):
    """A mark and DOS line ends, folders with backslashes, and another source than the name lets guess."""
    cells = [rf"Images\car\imagenet_car_photo_{i}.jpg,car" for i in (2, 0)]
    order = tmp_path / "labels.csv"
    order.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["imgs,labels", *cells, ""]).encode())
    path = caches / "pascal3d" / "val" / "car.h5"
    rows = rows_of(export.ood_cv([path], None, tmp_path / "pose.csv", order))
    whole = rows_of(export.ood_cv([path], None, tmp_path / "whole.csv"))
    assert [f"{row['imgs']},{row['labels']}" for row in rows] == cells, "spelt as in the order"
    assert [row["azimuth"] for row in rows] == [whole[2]["azimuth"], whole[0]["azimuth"]]


def test_a_failed_prediction_is_left_out_and_said_but_keeps_its_row_in_ood_cv(caches, perfect, tmp_path):
    with cache.CacheFile(caches / "pascal3d" / "val" / "car.h5") as file:
        azimuth, elevation, theta = map(repr, file["viewpoint"][1, :3].tolist())
    run = replaced(perfect, tmp_path, f"{azimuth},{elevation},{theta},5.0", "nan,nan,nan,nan")
    arguments = ("--run", run, "--cache", caches, "--splits", SPLITS[1], "--out", tmp_path / "out.csv")
    result = ntdm("bop", *arguments)
    assert result.exit_code == 0, result.output
    assert "1 of 6 predictions failed" in result.stderr
    assert [ids[:2] for ids, _, _ in bop_poses(tmp_path / "out.csv")] == [
        (1, 0),
        (1, 2),
        (2, 0),
        (2, 1),
        (2, 2),
    ]
    assert ntdm("ood-cv", *arguments).exit_code == 0
    assert [math.isnan(float(row["azimuth"])) for row in rows_of(tmp_path / "out.csv")] == [
        False, True, False, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("form", export.FORMATS)
def test_the_same_input_gives_the_same_bytes(caches, perfect, tmp_path, form):
    if form == "coco":
        pytest.importorskip("pycocotools", reason="pycocotools is the extra `export`")
    made = [export.FORMATS[form](everything(caches), perfect, tmp_path / f"{i}" / "a") for i in (0, 1)]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("coco", "--splits", "pascal3d/val"), "sample photo_0 of pascal3d/val has no mask in"),
        (("bop", "--splits", "occluded_pascal3d/L1"), "L1.csv does not exist: run evaluate on"),
        (("ood-cv", "--splits", "pascal3d/test"), "no cache file in"),
    ],
)
def test_what_is_missing_is_named(caches, perfect, tmp_path, arguments, message):
    if arguments[0] == "coco":
        pytest.importorskip("pycocotools", reason="pycocotools is the extra `export`")
    run, out = replaced(perfect, tmp_path, "0.5", "0.5"), tmp_path / "out"
    result = ntdm(*arguments, "--run", run, "--cache", caches, "--out", out)
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_poses_without_distance_have_no_translation(caches, perfect, tmp_path):
    run = replaced(perfect, tmp_path, ",5.0,", ",,")
    paths = cache_split.find(caches, SPLITS[1])
    with pytest.raises(ValueError, match="predicts no distance"):
        export.bop(paths, run, tmp_path / "out.csv")
    assert {row["distance"] for row in rows_of(export.ood_cv(paths, run, tmp_path / "out.csv"))} == {""}


def test_a_sample_that_was_not_predicted_is_named(caches, perfect, tmp_path):
    run = replaced(perfect, tmp_path, "photo_1", "photo_9")
    with pytest.raises(ValueError, match=r"no prediction for 1 of the 3 samples of .*photo_1"):
        export.ood_cv(cache_split.find(caches, SPLITS[1]), run, tmp_path / "out.csv")


def test_coco_without_pycocotools_says_how_to_get_it(caches, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    result = ntdm("coco", "--cache", caches, "--out", tmp_path / "truth.json")
    assert result.exit_code == 1
    assert "pip install 'ntdm[export]'" in result.stderr


def test_coco_of_samples_without_cad_is_refused(caches, tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools is the extra `export`")
    path = tmp_path / "car.h5"
    path.write_bytes((caches / "pascal3d" / "val" / "car.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["cad_index"][1] = -1
    with pytest.raises(ValueError, match="sample photo_1 of pascal3d/val has no CAD"):
        export.coco([path], None, tmp_path / "truth.json")
    assert not (tmp_path / "truth.json").exists()


def test_order_belongs_to_ood_cv(caches, tmp_path):
    result = ntdm("bop", "--cache", caches, "--out", tmp_path / "out", "--order", tmp_path / "labels.csv")
    assert result.exit_code == 2
    assert "--order" in result.stderr


def test_exports_of_a_run_agree_with_its_errors(tiny, tiny_folder, tmp_path):
    """The rotation between exported truth and prediction is the error file's."""
    run = shutil.copytree(tiny_folder / "ntdm", tmp_path / "run")
    evaluate.run(run, tiny_folder / "cache", ["pascal3d/val"], tiny.INFER)
    paths = cache_split.find(tiny_folder / "cache", "pascal3d/val")
    truth, found = (bop_poses(export.bop(paths, source, tmp_path / "bop.csv")) for source in (None, run))
    errors = read_errors(run / "errors" / "pascal3d" / "val.csv")["rotation_error"]
    for (_, true, _), (_, predicted, _), error in zip(truth, found, errors, strict=True):
        cosine = (np.trace(predicted.T @ true) - 1) / 2
        assert math.cos(error) == pytest.approx(cosine)
