"""NeMo-prepared trees: every form gives the camera that made the photo; no pickle is run."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.listing import Item
from ntdm.data_prep.raw.annotation import SampleError, object_pose, read_objects
from ntdm.data_prep.readers import nemo_prepared
from ntdm.io.cache import CacheFile
from raw_trees import PHOTO_SIZE, annotated, write_record

CONFIG = PrepConfig(image_size=(64, 96), scale=0.3)
VIEW = {"azimuth": 300.0, "elevation": 10.0, "theta": -5.0, "distance": 6.0, "px": 52.25, "py": 38.5}
BBOX = np.array([20.5, 25.0, 80.0, 60.0])
NONE = np.array(None)
OUT = (150, 250)  # h, w of a prepared photo


class Opener:
    """What a pickle could do when it is loaded."""

    def __reduce__(self):
        return (Path.touch, (Path("pickle_was_run"),))


def crop(photo: Image.Image, form: str) -> tuple[np.ndarray, dict]:
    """A photo prepared as NeMo's scripts do, and what their .npz says of the crop."""
    height, width = OUT
    principal = np.array([VIEW["px"], VIEW["py"]])
    resize = min(width / photo.width, height / photo.height) if form == "uncentred" else VIEW["distance"] / 5
    resized = np.asarray(photo.resize((int(photo.width * resize), int(photo.height * resize))))
    h, w = resized.shape[:2]
    if form == "uncentred":
        x, y = w // 2, h // 2
        stored = {
            "px": principal[0] * resize + (width - w) / 2,
            "py": principal[1] * resize + (height - h) / 2,
        }
        stored["distance"] = VIEW["distance"] / resize
    else:
        x, y = (principal * resize).astype(int)
        stored = {"px": width // 2, "py": height // 2, "distance": 5.0}
    pad = [
        max(height // 2 - y, 0),
        max(height // 2 + y - h, 0),
        max(width // 2 - x, 0),
        max(width // 2 + x - w, 0),
    ]
    pad = [max(p, 0) + 3 for p in pad]  # some to spare, so that the window does not begin at the corner
    padded = np.pad(resized, ((pad[0], pad[1]), (pad[2], pad[3]), (0, 0)))
    y0, x0 = y + pad[0] - height // 2, x + pad[2] - width // 2
    said = {"resize_rate": resize, "principal": principal}
    if form == "old":
        said |= {"distance": VIEW["distance"], "box": np.zeros(6, np.float32)}  # of an older crop
    else:
        box = np.array([y0, y0 + height, x0, x0 + width, *padded.shape[:2]], np.float32)
        said |= stored | {"box": box, "padding_params": np.array([*pad, 0, 0]), "true_cad_index": 2}
    return padded[y0 : y0 + height, x0 : x0 + width], said


def write_prepared(root: Path, name: str, photo: Path, form: str, folder: str = "car", **changes) -> Path:
    with Image.open(photo) as image:
        pixels, said = crop(image, form)
    for kind in ("images", "annotations"):
        (root / kind / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / "images" / folder / f"{name}.JPEG", quality=95)
    angles = {key: math.radians(VIEW[key]) for key in ("azimuth", "elevation", "theta")}
    angles["azimuth"] -= 2 * math.pi  # ImageNet3D's files wrap to +-180 degrees
    fields = said | angles | {"name": name, "focal": np.uint8(1), "viewport": np.uint16(3000), "bbox": BBOX}
    fields |= {"height": PHOTO_SIZE[0], "width": PHOTO_SIZE[1], "occ_mask": NONE, "amodal_mask": NONE}
    fields |= {"cad_index": np.uint8(2 if form == "old" else 1)}
    path = root / "annotations" / folder / f"{name}.npz"
    np.savez(path, **{key: value for key, value in (fields | changes).items() if value is not None})
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    root = raw.write_pascal3d(tmp_path / "pascal3d", train=1, val=1)
    record = root / "Annotations" / "car_imagenet" / "n0_0.mat"
    write_record(record, [annotated(VIEW, bbox=BBOX[None])])
    return root


def photo_of(tree: Path) -> Path:
    return tree / "Images" / "car_imagenet" / "n0_0.JPEG"


def prepare(root: Path, tree: Path, **options):
    return prep_data.run("nemo-prepared", root, tree.parent / "cache", CONFIG, pascal3d=tree, **options)


@pytest.mark.parametrize(
    ("form", "name"), [("uncentred", "n0_0_00"), ("centred", "n0_0_00"), ("old", "n0_0")]
)
def test_each_form_gives_the_camera_and_picture_of_the_original_photo(tree, tmp_path, form, name):
    write_prepared(tmp_path / "prepared", name, photo_of(tree), form)
    report = prepare(tmp_path / "prepared", tree)
    assert [file.key for file in report.files] == ["nemo_prepared/all/car"]
    original = prep_data.run("pascal3d", tree, tmp_path / "cache", CONFIG, splits=["train"])
    with CacheFile(report.paths[0]) as file, CacheFile(original.paths[0]) as want:
        assert file["name"] == want["name"] == ["n0_0_00"]
        assert file["source"] == [f"images/car/{name}.JPEG"]
        for field in ("viewpoint", "focal", "principal_point", "cad_index"):
            np.testing.assert_allclose(file[field], want[field], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(file["bbox"], want["bbox"], atol=0.2)  # photos resized to whole pixels
        np.testing.assert_array_equal(file["amodal_mask"], want["amodal_mask"])
        # Resized and compressed once more: 2.3 grey levels were seen; moved by a crop pixel, 7.
        found, wanted = (f.read("images", 0).astype(float)[24:40, 36:60] for f in (file, want))
        assert np.abs(found - wanted).mean() < 4


def test_trees_with_splits_lists_and_occlusion_levels(tree, tmp_path):
    root = tmp_path / "prepared"
    for split in ("train", "val"):
        for i in range(3):
            write_prepared(root / split, f"n0_{i}_00", photo_of(tree), "centred")
    mask = np.zeros(OUT, np.uint8)
    mask[:, OUT[1] // 2 :] = 1
    for folder in ("carFGL2_BGL2", "carFGL1_BGL3"):
        write_prepared(root / "val", "n0_0_00", photo_of(tree), "centred", folder, occ_mask=mask)
        write_prepared(root / "val", "n0_1_00", photo_of(tree), "centred", folder)
    lists = root / "train" / "lists" / "car"
    lists.mkdir(parents=True)
    (lists / "mesh01.txt").write_text("n0_2_00.JPEG\nn0_0_00.JPEG\n../../../n0_1_00.JPEG")
    (lists / "mesh02.txt").write_text("n0_0_00.JPEG\nn0_9_00.JPEG")
    report = prepare(root, tree)
    assert {file.key: (file.samples, file.dropped) for file in report.files} == {
        "nemo_prepared/train/car": (2, {"name_invalid": 1, "listed_twice": 1, "image_missing": 1}),
        "nemo_prepared/val/car": (3, {}),
        "nemo_prepared/L2/car": (1, {"mask_unreadable": 1}),
        "nemo_prepared/FGL1_BGL3/car": (1, {"mask_unreadable": 1}),
    }
    with CacheFile(report.paths[2]) as file:
        occluder = file.read("occluder_mask", 0)
        assert not occluder[:, :48].any() and occluder[24:40, 48:60].all()
    assert [file.key for file in prepare(root, tree, splits=["val"]).files] == ["nemo_prepared/val/car"]
    with pytest.raises(ValueError, match="has no annotations of the split all"):
        prepare(root, tree, splits=["all"])
    with pytest.raises(ValueError, match="has no annotations of the category bus"):
        prepare(root, tree, categories=["bus", "car"])


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"occ_mask": np.array(Opener(), dtype=object)}, "annotation_unreadable", "field occ_mask holds no"),
        ({"azimuth": np.array(Opener(), dtype=object)}, "annotation_unreadable", "field azimuth holds no"),
        ({"azimuth": NONE}, "no_pose", "azimuth is missing"),
        ({"theta": math.nan}, "no_pose", "theta is float64"),
        ({"distance": 0.0}, "distance_not_positive", "distance is 0"),
        ({"resize_rate": None}, "no_pose", "resize_rate is missing"),
        ({"viewport": 0}, "no_pose", "times focal and viewport 0"),
        ({"elevation": 2.0}, "elevation_out_of_range", "elevation is 114.592 degrees"),
        ({"px": 60.0}, "no_pose", "px, py are"),
        ({"bbox": np.zeros(3)}, "no_bbox", "bbox is float64"),
    ],
)
def test_bad_fields_are_counted_and_no_pickle_is_run(tree, tmp_path, monkeypatch, changes, reason, said):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "prepared"
    write_prepared(root, "n0_0_00", photo_of(tree), "centred")
    path = write_prepared(root, "n0_1_00", photo_of(tree), "centred", **changes)
    report = prepare(root, tree)
    assert (report.files[0].samples, report.files[0].dropped) == (1, {reason: 1})
    with pytest.raises(SampleError) as caught:
        nemo_prepared.prepared_pose(Item("n0_1", "", path), OUT)
    assert said in caught.value.text and str(path) in caught.value.text
    assert not (tmp_path / "pickle_was_run").exists()


def test_a_cad_that_is_not_there(tree, tmp_path, capsys):
    root = tmp_path / "prepared"
    write_prepared(root, "n0_0_00", photo_of(tree), "centred")
    path = write_prepared(root, "n0_1_00", photo_of(tree), "centred", true_cad_index=7)
    assert prepare(root, tree).files[0].dropped == {"cad_missing": 1}
    assert f"cad_missing: {path} names car CAD 07.off" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"07\.off"):
        prepare(root, tree, strict=True, overwrite=True)


def test_a_file_without_a_cad_index_gives_a_sample_without_masks(tree, tmp_path):
    write_prepared(tmp_path / "prepared", "n0_0", photo_of(tree), "old", cad_index=None)
    with CacheFile(prepare(tmp_path / "prepared", tree).paths[0]) as file:
        assert file["cad_index"].tolist() == [-1]
        assert not file["amodal_mask"].any() and not file["visible_mask"].any() and file["images"].any()


def test_trains_are_a_category_too(tree, tmp_path):
    raw.write_pascal3d(tree, "train")
    write_prepared(tmp_path / "prepared" / "val", "n0_0", photo_of(tree), "old", folder="train")
    report = prepare(tmp_path / "prepared", tree, categories=["train"])
    assert [(file.key, file.samples) for file in report.files] == [("nemo_prepared/val/train", 1)]
    with pytest.raises(ValueError, match="has no annotations of the split train"):
        prepare(tmp_path / "prepared", tree, splits=["train"])


def test_wrong_roots(tree, tmp_path):
    with pytest.raises(ValueError, match=r"looks like PASCAL3D\+; expected a NeMo-prepared tree at .*or"):
        prepare(tree, tree)
    write_prepared(tmp_path / "up" / "prepared", "n0_0", photo_of(tree), "old")
    with pytest.raises(ValueError, match=r"one level too high: .*found it in .*prepared"):
        prepare(tmp_path / "up", tree)
    write_prepared(tmp_path / "other", "n0_0", photo_of(tree), "old", folder="ashtray")
    with pytest.raises(ValueError, match="annotations, but of no category"):
        prepare(tmp_path / "other", tree)


def test_real_aeroplanes_have_the_camera_of_the_release(real_data):
    prepared = real_data / "NeMo_prepared" / "ImageNet3D_aeroplane_640x800"
    records = real_data / "PASCAL3D+_release1.1" / "Annotations" / "aeroplane_imagenet"
    compared = 0
    for path in sorted((prepared / "annotations" / "aeroplane").glob("*.npz")):
        name, number = path.stem.rsplit("_", 1)
        pose = nemo_prepared.prepared_pose(Item(name, "", path), (640, 800))
        if not (records / f"{name}.mat").is_file():
            continue
        want = object_pose(read_objects(records / f"{name}.mat")[int(number)], name)
        np.testing.assert_allclose(pose.viewpoint, want.viewpoint, rtol=0, atol=1e-6)
        assert pose.cad_index == want.cad_index
        with np.load(path, allow_pickle=False) as archive:
            resize, top = float(archive["resize_rate"]), int(archive["padding_params"][0])
        assert pose.focal_px == pytest.approx(resize * want.focal_px)
        # 333 rows resized 1.6 times are 532, not 532.8.
        np.testing.assert_allclose(pose.principal_point, resize * want.principal_point + [0, top], atol=1)
        compared += 1
    assert compared == 17  # of 24; the photos of the others are not in this copy of the release


def test_real_old_form(real_data):
    """The published car: its photo is centred on the principal point, its box fields are an older crop's."""
    path = real_data / "NeMo_prepared" / "VoGE_demo" / "car_annotation.npz"
    pose = nemo_prepared.prepared_pose(Item("n02958343_2202", "", path), (256, 672))
    want = [4.652060109480217, -0.08167320766498972, -0.00031043026613093955, 5.895104611896633]
    np.testing.assert_allclose(pose.viewpoint, want, rtol=0, atol=1e-13)
    assert pose.focal_px == pytest.approx(3000 * want[3] / 5) and pose.cad_index == 8
    np.testing.assert_allclose(pose.principal_point, [336, 128], atol=1)


def test_a_prepared_photo_that_was_resized_since_is_a_fault(tree, tmp_path, capsys):
    write_prepared(tmp_path / "prepared", "n0_0_00", photo_of(tree), "uncentred")
    write_prepared(tmp_path / "prepared", "n0_1_00", photo_of(tree), "uncentred")
    path = tmp_path / "prepared" / "images" / "car" / "n0_0_00.JPEG"
    with Image.open(path) as image:
        image.resize((image.width // 2, image.height // 2)).save(path)
    (report,) = prepare(tmp_path / "prepared", tree).files
    assert report.dropped == {"crop_mismatch": 1} and report.samples == 1
    assert "it was resized since" in capsys.readouterr().err
