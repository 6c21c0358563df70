"""PASCAL3D+: what the protocol keeps is exact, from every release and part of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.raw.annotation import object_pose, read_objects
from ntdm.data_prep.raw.cad import read_off
from ntdm.geometry import camera
from ntdm.io.cache import CacheFile
from pascal3d_tree import CONFIG, annotation, dropped, photo, prepare
from raw_trees import EMPTY, annotated, write_photo, write_record


@pytest.fixture
def root(tmp_path) -> Path:
    return raw.write_pascal3d(tmp_path / "PASCAL3D+_release1.1")


def test_files_and_fields(root):
    report = prepare(root, splits=None)
    assert [file.key for file in report.files] == ["pascal3d/train/car", "pascal3d/val/car"]
    assert report.paths == [root.parent / "cache" / f"{file.key}.h5" for file in report.files]
    assert "pascal3d/train/car        6  -" in report.table()
    with CacheFile(report.paths[0]) as file:
        assert (file.dataset, file.split, file.category) == ("pascal3d", "train", "car")
        assert file["name"] == [f"n0_{i}_00" for i in range(6)]
        assert file["source"][2] == "Images/car_imagenet/n0_2.JPEG"
        want = [math.radians(120), math.radians(10), math.radians(-5), 5.5]
        np.testing.assert_allclose(file["viewpoint"][2], want, rtol=1e-14)
        np.testing.assert_allclose(file["focal"], 3000 * 0.3 * file["viewpoint"][:, 3] / 5)
        assert (file["principal_point"] == [48, 32]).all()
        zoom = 0.3 * 5.5 / 5
        left = 48 + zoom * (20.5 - 52.25)  # the bbox and px are in one frame: the half-pixel cancels
        assert file["bbox"][2, 0] == pytest.approx(left)
        assert file["cad_index"].tolist() == [0, 1] * 3 and list(file.cads()) == [0, 1]
        assert (file["visible_mask"] == file["amodal_mask"]).all() and file["amodal_mask"].any((1, 2)).all()
        assert file["images"].any((1, 2, 3)).all()
        assert "occluder_mask" not in file and "source_mask" not in file


def test_a_point_of_the_object_is_where_the_crops_camera_sees_it(root):
    """Half-pixels end to end: a spot painted where the photo's camera sees a point is found in the crop."""
    viewpoint = torch.tensor([math.radians(40), math.radians(10), math.radians(-5), 6.0]).double()
    point = torch.tensor([[0.03, -0.06, 0.04]]).double()
    points_cam = camera.cam_from_obj(point, viewpoint)
    # In MATLAB's frame, where the annotation is written, the first pixel's centre is (1, 1).
    matlab_xy, _ = camera.project(
        points_cam, torch.tensor(3000.0).double(), torch.tensor([152.25, 138.5]).double()
    )
    y, x = np.mgrid[1:301, 1:401]
    spot = 255 * np.exp(-((x - matlab_xy[0, 0].item()) ** 2 + (y - matlab_xy[0, 1].item()) ** 2) / (2 * 6**2))
    Image.fromarray(np.rint(spot).astype(np.uint8)).save(photo(root).with_suffix(".png"))
    photo(root).unlink()
    write_record(annotation(root), [annotated({"px": 152.25, "py": 138.5})], (300, 400))
    with CacheFile(prepare(root, PrepConfig(image_size=(96, 128), scale=0.4)).paths[0]) as file:
        crop = file.read("images", 0).astype(np.float64).mean(-1)
        focal, principal = torch.tensor(file["focal"][0]), torch.from_numpy(file["principal_point"][0])
    want, _ = camera.project(points_cam, focal, principal)
    y, x = np.mgrid[: crop.shape[0], : crop.shape[1]] + 0.5
    found = [(crop * x).sum() / crop.sum(), (crop * y).sum() / crop.sum()]
    assert found == pytest.approx(want[0].tolist(), abs=0.03)  # 8-bit grey levels: 0.01 was seen


def test_any_number_of_workers_gives_the_same_bytes(root):
    one = prepare(root, splits=None).paths
    bytes_one = [path.read_bytes() for path in one]
    many = raw.write_pascal3d(root.parent / "again", train=20)
    serial = prep_data.run("pascal3d", many, root.parent / "serial", CONFIG, workers=1).paths
    parallel = prep_data.run("pascal3d", many, root.parent / "parallel", CONFIG, workers=2).paths
    assert [p.read_bytes() for p in serial] == [p.read_bytes() for p in parallel]
    assert [p.read_bytes() for p in prepare(root, splits=None, overwrite=True).paths] == bytes_one


def test_finished_files_are_kept_and_other_configs_refused(root):
    path = prepare(root).paths[0]
    before = path.stat().st_mtime_ns
    report = prepare(root)
    assert report.files[0].kept and path.stat().st_mtime_ns == before
    other = PrepConfig(image_size=(64, 64), scale=0.3)
    with pytest.raises(ValueError, match=r"image_size: \[64, 96\] -> \[64, 64\].*--overwrite"):
        prepare(root, other)
    assert prepare(root, other, overwrite=True).files[0].samples == 6


def test_interrupted_run_leaves_nothing_and_resumes(root, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ntdm.io.cache.CacheWriter.add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(root)
    assert not list((root.parent / "cache").rglob("*.h5"))
    assert prepare(root).files[0].samples == 6


def test_matlabs_integers_and_unfitted_angles(root):
    view = {"azimuth": EMPTY, "elevation": np.int8(-7), "theta": np.uint8(200), "distance": np.uint8(7)}
    view |= {"px": np.uint8(50), "py": np.uint16(40)}
    write_record(annotation(root), [annotated(view, bbox=np.uint16([[20, 25, 80, 60]]))])
    with CacheFile(prepare(root).paths[0]) as file:
        degrees = np.degrees(file["viewpoint"][0, :3])
        np.testing.assert_allclose(degrees, [30, -7, -160])  # azimuth_coarse; theta wrapped to +-180
        assert file["viewpoint"][0, 3] == 7
        zoom = 0.3 * 7 / 5
        np.testing.assert_allclose(
            file["bbox"][0], [48 - 30 * zoom, 32 - 15 * zoom, 48 + 30 * zoom, 32 + 20 * zoom]
        )


def test_every_object_on_request(root):
    person = annotated(EMPTY, **{"class": "person"})
    write_record(annotation(root), [person, annotated(), annotated(EMPTY), annotated({"px": 30.0})])
    assert dropped(root) == {"other_class": 1}
    report = prepare(root, PrepConfig(image_size=(64, 96), scale=0.3, objects="all"), overwrite=True)
    assert (report.files[0].samples, report.files[0].dropped) == (7, {"no_pose": 1})
    with CacheFile(report.paths[0]) as file:
        assert file["name"][:3] == ["n0_0_01", "n0_0_03", "n0_1_00"]


@pytest.mark.parametrize("distance", [99.99999, 7.6e-13])
def test_distances_nobody_stands_at(root, distance):
    """A failed fit left next to nothing: the box says how far, and the mask shows the object whole."""
    write_record(annotation(root), [annotated({"distance": distance})])
    with CacheFile(prepare(root).paths[0]) as file:
        want = distance if distance > 1 else 5 / 0.3 * min(96 / 59.5, 64 / 35)
        assert len(file) == 6 and file["viewpoint"][0, 3] == pytest.approx(want, rel=1e-14)
        assert file["focal"][0] == pytest.approx(3000 * 0.3 * want / 5)
        mask = file.read("amodal_mask", 0)
        assert file.read("images", 0).any() and 0.05 < mask.mean() < 0.6


def test_principal_point_outside_the_photo(root):
    write_record(annotation(root), [annotated({"px": -900.0, "py": 4000.0})])
    with CacheFile(prepare(root).paths[0]) as file:
        assert len(file) == 6 and not file.read("images", 0).any() and file.read("amodal_mask", 0).any()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_photos(root, mode):
    with Image.open(photo(root)) as image:
        image.convert(mode).save(photo(root), quality=95)
    with CacheFile(prepare(root).paths[0]) as file:
        assert len(file) == 6
        shown = file.read("images", 0).reshape(-1, 3).astype(int)
    assert shown.any() and (mode == "CMYK" or (shown == shown[:, :1]).all())


def test_a_category_with_one_cad(tmp_path):
    root = raw.write_pascal3d(tmp_path / "p", cads=1)
    with CacheFile(prepare(root).paths[0]) as file:
        assert list(file.cads()) == [0] and len(file) == 6


def test_the_voc_part_by_the_lists_of_voc(root):
    """VOC's records hold every object of the photo, its lists every photo with a label."""
    person = annotated(EMPTY, cad_index=EMPTY, **{"class": "person"})
    del person["anchors"], person["cad_index"]  # VOC's objects of other classes carry no 3-D fields at all
    photos = {
        "2008_000001": [annotated()],
        "2008_000002": [person, annotated()],
        "2008_000003": [annotated()],
    }
    for name, objects in photos.items():
        write_photo(root / "Images" / "car_pascal" / f"{name}.jpg")
        write_record(root / "Annotations" / "car_pascal" / f"{name}.mat", objects)
    path = root / "PASCAL" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "car_val.txt"
    path.parent.mkdir(parents=True)
    path.write_text("2008_000001  1\n2008_000002  1\n2008_000003  0\n2008_000004 -1\n")
    (file,) = prepare(root, splits=["voc_val"]).files
    assert (file.key, file.samples, file.dropped) == ("pascal3d/voc_val/car", 1, {"other_class": 1})
    every = PrepConfig(image_size=(64, 96), scale=0.3, objects="all")
    with CacheFile(prepare(root, every, splits=["voc_val"], overwrite=True).paths[0]) as cached:
        assert cached["name"] == ["2008_000001_00", "2008_000002_01"]
        assert cached["source"][0] == "Images/car_pascal/2008_000001.jpg"
    with pytest.raises(ValueError, match=r"holds no list: expected .*Main/<category>_train\.txt"):
        prepare(root, splits=["voc_train"])
    path.write_text("2008_000001 yes\n")
    with pytest.raises(ValueError, match=r"car_val\.txt: line '2008_000001 yes' is not '<name> <label>'"):
        prepare(root, splits=["voc_val"])


def test_release_1_0_with_cads_in_matlab_files(root):
    from_off = prepare(root).paths[0]
    cads = {k: read_off(root / "CAD" / "car" / f"{k + 1:02d}.off") for k in (0, 1)}
    raw.write_mat_cads(root / "CAD" / "car.mat", [(v, (f + 1).astype(np.uint8)) for v, f in cads.values()])
    for path in (root / "CAD" / "car").glob("*.off"):
        path.unlink()
    from_mat = prep_data.run("pascal3d", root, root.parent / "mat", CONFIG, splits=["train"]).paths[0]
    assert from_mat.read_bytes() == from_off.read_bytes()


def test_exif_rotation_is_ignored(root):
    """MATLAB ignored it when the poses were annotated."""
    before = prepare(root).paths[0].read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    data = photo(root).read_bytes()
    # Behind the start mark, so that the pixels' bytes stay as they are.
    block = exif.tobytes()
    photo(root).write_bytes(data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:])
    with Image.open(photo(root)) as image:
        assert image.getexif()[0x0112] == 6
    assert prepare(root, overwrite=True).paths[0].read_bytes() == before


def test_one_photo_in_the_folders_of_two_categories(root):
    """VOC photos come once for each category in them, each with its own objects annotated."""
    raw.write_pascal3d(root, "bus")
    report = prepare(root, splits=["train"])
    names = []
    for path in report.paths:
        with CacheFile(path) as file:
            names.append((file.category, file["name"]))
    assert names == [(c, [f"n0_{i}_00" for i in range(6)]) for c in ("bus", "car")]


def test_real_aeroplanes(real_data, tmp_path):
    root = real_data / "PASCAL3D+_release1.1"
    config = PrepConfig(image_size=(64, 136))
    report = prep_data.run("pascal3d", root, tmp_path, config, categories=["aeroplane"], splits=["val"])
    assert [(file.key, file.samples, file.dropped) for file in report.files] == [
        ("pascal3d/val/aeroplane", 122, {})
    ]
    with CacheFile(report.paths[0]) as file:
        masks, boxes = file["amodal_mask"].astype(bool), file["bbox"]
    y, x = np.mgrid[:64, :136] + 0.5
    inside = (x >= boxes[:, 0, None, None]) & (x < boxes[:, 2, None, None])
    inside &= (y >= boxes[:, 1, None, None]) & (y < boxes[:, 3, None, None])
    share = (masks & inside).sum((1, 2)) / masks.sum((1, 2))
    assert np.median(share) > 0.95  # the projected CAD lies in the annotated box


def test_a_real_record_with_empty_angles(real_data):
    """An ObjectNet3D-style file: unfitted angles are empty beside the coarse ones, the viewport is 2000."""
    (fields,) = read_objects(real_data / "ObjectNet3D_style_mat" / "demo.mat")
    pose = object_pose(fields, "demo.mat")
    want = [math.radians(358), math.radians(16), math.radians(-0.52092), 3.59376356]
    np.testing.assert_allclose(pose.viewpoint, want, rtol=1e-5)
    assert pose.focal_px == 2000
