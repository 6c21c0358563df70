"""OOD-CV, packagings A and A': the table's pose, the record's camera, and what is neither there."""

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raw_trees as raw
from ntdm.config.protocol import OOD_CV_CATEGORIES
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.readers.ood_cv.names import SPLITS
from ntdm.data_prep.readers.ood_cv.tables import read_crops, read_tables
from ntdm.io.cache import CacheFile
from raw_trees import annotated, write_photo, write_record

MARKED = (255, 0, 0)  # a photo that could be taken for another by its stem
CONFIG = PrepConfig(image_size=(64, 96), scale=0.3)
WEB = "car_+_snow_google_0022"
ANGLES = {"azimuth": 40.0, "elevation": 10.0, "inplane_rotation": -5.0, "distance": 6.0}
BOX = {"left": 20, "upper": 25, "right": 80, "lower": 60}  # of raw_trees.annotated, truncated


def row(name: str, number: int = 0, source: str = "pascal", **changes) -> dict:
    """A row of packaging A."""
    place = {"source": source, "cls_name": "car", "im_name": name, "object": number}
    return place | {"im_path": f"images/{name}.jpg"} | ANGLES | BOX | {"set": "val"} | changes


def write_table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def pascal3d(tmp_path) -> Path:
    """PASCAL3D+ with a VOC photo of two cars."""
    root = raw.write_pascal3d(tmp_path / "pascal3d")
    write_photo(root / "Images" / "car_pascal" / "2008_000001.jpg", seed=7)
    second = annotated({"px": 30.0}, bbox=np.array([[5.7, 30.2, 50.0, 70.9]]))
    write_record(root / "Annotations" / "car_pascal" / "2008_000001.mat", [annotated(), second])
    return root


@pytest.fixture
def tables(tmp_path, pascal3d) -> Path:
    """Packaging A: a VOC photo with its record in PASCAL3D+, a web photo with its own, one without any."""
    root = tmp_path / "ROBINv1.1"
    for split, names in {"nuisances/pose": ["2008_000001"], "nuisances/weather": [WEB, "bare"]}.items():
        for name in names:
            write_photo(root / split / "images" / f"{name}.jpg", seed=7)
    write_record(root / "annotations" / "car_collection" / f"{WEB}.mat", [annotated({"px": 60.0})])
    write_table(
        root / "nuisances/pose/pose_bias.csv",
        [row("2008_000001"), row("2008_000001", 1, azimuth=-30.0), row("2008_000001"), row("2008_000001", 7)],
    )
    weather = [
        row(WEB, source="collection"),
        row("bare", source="collection"),
        row("gone", source="imagenet"),
    ]
    write_table(root / "nuisances/weather/weather_bias.csv", weather)
    return root


def prepare(root: Path, pascal3d: Path, **options):
    return prep_data.run("ood-cv", root, root.parent / "cache", CONFIG, pascal3d=pascal3d, **options)


def test_packaging_a(tables, pascal3d, capsys):
    report = prepare(tables, pascal3d)
    assert {file.key: (file.samples, file.dropped) for file in report.files} == {
        "ood_cv/pose/car": (2, {"listed_twice": 1, "no_object": 1}),
        "ood_cv/weather/car": (2, {"image_missing": 1}),
    }
    assert f"{tables}: OOD-CV, packaging A (ROBIN" in capsys.readouterr().err
    with CacheFile(report.paths[0]) as file:
        assert file["name"] == ["2008_000001_00", "2008_000001_01"]
        assert file["source"] == ["nuisances/pose/images/2008_000001.jpg"] * 2
        want = np.radians([[40, 10, -5], [330, 10, -5]])  # the second record says 40: the table holds
        np.testing.assert_allclose(file["viewpoint"][:, :3], want, rtol=1e-14)
        assert file["cad_index"].tolist() == [1, 1] and file["amodal_mask"].any((1, 2)).all()
        zoom = 0.3 * 6 / 5
        np.testing.assert_allclose(file["bbox"][:, 0], [48 + zoom * (20.5 - 52.25), 48 + zoom * (5.7 - 30)])
    with CacheFile(report.paths[1]) as file:
        assert file["name"] == [f"{WEB}_00", "bare_00"]
        assert file["cad_index"].tolist() == [1, -1]
        assert file["amodal_mask"].any((1, 2)).tolist() == [True, False]
        np.testing.assert_allclose(
            file["bbox"][1], [48 - 30 * zoom, 32 - 17.5 * zoom, 48 + 30 * zoom, 32 + 17.5 * zoom]
        )


def test_items_can_go_to_a_worker(tables, pascal3d):
    contents = read_tables(tables, pascal3d, ["car"], ["pose"])
    for item in contents.files["pose", "car"][0]:
        assert pickle.loads(pickle.dumps(item)).pose.keywords == item.pose.keywords


def test_a_photo_of_pascal3d_without_its_record_is_counted(tables, pascal3d):
    (pascal3d / "Annotations" / "car_pascal" / "2008_000001.mat").unlink()
    write_table(tables / "nuisances/pose/pose_bias.csv", [row("2008_000001"), row("2008_000001", 1)])
    report = prepare(tables, pascal3d)
    assert report.files[0].dropped == {"annotation_missing": 2}


def test_the_record_is_of_the_same_class(tables, pascal3d):
    """Its CAD number means nothing for another category."""
    record = pascal3d / "Annotations" / "car_pascal" / "2008_000001.mat"
    write_record(record, [annotated(), annotated(**{"class": "bus"})])
    write_table(tables / "nuisances/pose/pose_bias.csv", [row("2008_000001"), row("2008_000001", 1)])
    report = prepare(tables, pascal3d, splits=["pose"])
    assert (report.files[0].samples, report.files[0].dropped) == (1, {"other_class": 1})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"im_path": "../../secret.jpg"}, "name_invalid"),
        ({"im_path": "/etc/passwd"}, "name_invalid"),
        ({"im_path": "images/../../../secret.jpg"}, "name_invalid"),
        ({"im_path": "..\\secret.jpg"}, "name_invalid"),
        ({"im_name": "../secret"}, "name_invalid"),
        ({"source": "../../.."}, "name_invalid"),
        ({"object": "-1"}, "number_absurd"),
        ({"object": "first"}, "number_absurd"),
        ({"azimuth": ""}, "no_pose"),
        ({"distance": "nan"}, "no_pose"),
        ({"distance": 0}, "distance_not_positive"),
        ({"elevation": -90.5}, "elevation_out_of_range"),
        ({"right": "wide"}, "no_bbox"),
        ({"lower": 3}, "no_bbox"),
    ],
)
def test_bad_rows_are_counted(tables, pascal3d, changes, reason):
    rows = [row(WEB, source="collection"), row("bare", source="collection") | changes]
    write_table(tables / "nuisances/weather/weather_bias.csv", rows)
    report = prepare(tables, pascal3d, splits=["weather"])
    assert (report.files[0].samples, report.files[0].dropped) == (1, {reason: 1})


def test_rows_of_other_classes_have_a_line_of_the_report(tables, pascal3d):
    rows = [row(WEB, source="collection"), row("bare", cls_name="../bottle")]
    write_table(tables / "nuisances/weather/weather_bias.csv", rows)
    report = prepare(tables, pascal3d, splits=["weather"])
    assert [(f.key, f.dropped) for f in report.files[1:]] == [
        ("ood_cv/weather/(no category)", {"other_class": 1})
    ]


def test_bad_tables(tables, pascal3d):
    path = tables / "nuisances/pose/pose_bias.csv"
    lacking = [{key: value for key, value in row("2008_000001").items() if key != "distance"}]
    write_table(path, lacking)
    with pytest.raises(
        ValueError, match=r"pose_bias\.csv has no column distance; its columns are source, cls"
    ):
        prepare(tables, pascal3d, strict=True)
    path.write_bytes(b"\xff\xfe\x00source")
    with pytest.raises(ValueError, match=r"pose_bias\.csv is not a readable table"):
        prepare(tables, pascal3d, strict=True)
    write_table(path.with_name("old.csv"), [row("2008_000001")])
    with pytest.raises(ValueError, match=r"holds several tables \(old\.csv, pose_bias\.csv\)"):
        prepare(tables, pascal3d, strict=True)


@pytest.fixture
def crops(tmp_path, pascal3d) -> Path:
    """Packaging A', cropped from the photo as its authors did."""
    root = tmp_path / "ROBINv1.1-cls-pose"
    rows = []
    with Image.open(pascal3d / "Images" / "car_pascal" / "2008_000001.jpg") as photo:
        for name, box in {
            "pascal_car_2008_000001_0.jpg": (20, 25, 80, 60),
            "pascal_car_2008_000001_1.jpg": (5, 30, 50, 70),  # leaves the photo by five columns
            f"collection_car_{WEB}_0.jpg": (20, 25, 80, 60),
        }.items():
            path = root / "iid_test" / "Images" / "car" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            window = (box[0] - 10, box[1] - 10, box[2] + 10, box[3] + 10)
            photo.crop(window).save(path, quality=95)
            rows.append({"imgs": name, "labels": "car", **ANGLES})
    for label in rows:
        label["theta"] = label.pop("inplane_rotation")
    write_table(root / "iid_test" / "labels.csv", rows)
    return root


def test_packaging_a_prime_sees_what_the_whole_photo_shows(crops, tables, pascal3d):
    report = prepare(crops, pascal3d)
    assert [(f.key, f.samples, f.dropped) for f in report.files] == [("ood_cv/iid/car", 3, {})]
    write_table(tables / "nuisances/pose/pose_bias.csv", [row("2008_000001"), row("2008_000001", 1)])
    whole = prep_data.run(
        "ood-cv", tables, tables.parent / "whole", CONFIG, pascal3d=pascal3d, splits=["pose"]
    )
    with CacheFile(report.paths[0]) as file, CacheFile(whole.paths[0]) as want:
        assert file["name"] == [*want["name"], f"{WEB}_00"]
        for field in ("viewpoint", "focal", "principal_point", "bbox", "cad_index"):
            np.testing.assert_allclose(file[field][:2], want[field], rtol=1e-12, atol=1e-12)
        for i in range(2):
            found, wanted = file.read("images", i).astype(float), want.read("images", i).astype(float)
            shown = found.any(-1) & wanted.any(-1)
            # Compressed once more: 1.3 grey levels were seen; moved by a crop pixel, 9.
            assert shown.sum() > 200 and np.abs(found - wanted)[shown].mean() < 4
        assert file["cad_index"][2] == -1 and not file.read("amodal_mask", 2).any()
        zoom = 0.3 * 6 / 5
        np.testing.assert_allclose(
            file["bbox"][2], [48 - 30 * zoom, 32 - 17.5 * zoom, 48 + 30 * zoom, 32 + 17.5 * zoom]
        )


def test_a_crop_of_another_box_is_a_fault(crops, pascal3d):
    path = crops / "iid_test" / "Images" / "car" / "pascal_car_2008_000001_0.jpg"
    write_photo(path)
    assert prepare(crops, pascal3d).files[0].dropped == {"crop_mismatch": 1}
    with pytest.raises(ValueError, match=r"labels\.csv, line 2: the box of .* is \(55, 80\) .*\(80, 100\)"):
        prepare(crops, pascal3d, strict=True, overwrite=True)


def test_the_published_labels(real_data):
    """Every row of the released ground truth is understood: counts of the dataset's own description."""
    root = real_data / "OOD-CV" / "pose_ref" / "ref"
    contents = read_crops(root, real_data / "PASCAL3D+_release1.1", OOD_CV_CATEGORIES, SPLITS)
    assert not contents.lost
    counts = dict.fromkeys(SPLITS, 0)
    for (split, _), (items, dropped) in contents.files.items():
        counts[split] += len(items)
        assert set(dropped) <= {"listed_twice"} and dropped["listed_twice"] <= 4
        assert all(item.pose.keywords["label"].recorded == ("collection" not in item.photo) for item in items)
    want = {"iid": 4848, "shape": 981, "pose": 1075, "texture": 565, "context": 567, "weather": 1348}
    assert counts == {"train": 0, **want, "occlusion": 5779}
    item = next(i for i in contents.files["iid", "aeroplane"][0] if i.name == "n02690373_1038")
    angles = item.pose.keywords["label"].angles
    assert angles == pytest.approx((9.85354661810864, -15.036201347883653, 1.5243107722603262))
    assert item.folder == "iid_test/Images/aeroplane" and item.object == 0


def test_a_table_that_went_through_pandas_and_windows(pascal3d, tmp_path, capsys):
    """Whole objects with a decimal point, an index column, backslashes; 0.5 and a gap are told as such."""
    root, objects = tmp_path / "ROBINv1.1", ("0.0", "0", "0.5", "")
    rows = [
        {"": i, **row(f"web{i}", cell, "collection", im_path=rf"images\web{i}.jpg")}
        for i, cell in enumerate(objects)
    ]
    table = write_table(root / "nuisances/weather/weather_bias.csv", [*rows, row("..", im_path=r"..\x.jpg")])
    for i in range(len(objects)):
        write_photo(root / f"nuisances/weather/images/web{i}.jpg", seed=i)
    report = prep_data.run("ood-cv", root, tmp_path / "cache", CONFIG, pascal3d=pascal3d)
    (file,) = report.files
    assert file.samples == 2 and file.dropped == {"name_invalid": 1, "number_absurd": 2}
    said = capsys.readouterr().err
    for line, cell in ((4, "0.5"), (5, "")):
        assert f"{table}, line {line}: object is '{cell}', want a whole number" in said
    assert r"ood_cv/weather/car: name_invalid: '..\\x.jpg'" in said


def test_the_photo_is_the_file_that_the_table_names(pascal3d, tmp_path, capsys):
    """Suffixes of the web in any case; of two photos of one stem the one that is named."""
    root, names = tmp_path / "ROBINv1.1", ["w0.PNG", "w1.webp", "w2.bmp", "w3.Jpg", "w4.gif", "w5.png"]
    folder = root / "nuisances/weather/images"
    rows = [row(Path(n).stem, 0, "collection", im_path=f"images/{n}") for n in [*names, "w6.tiff", "w7.jpg"]]
    write_table(root / "nuisances/weather/weather_bias.csv", rows)
    for name in ("w5.jpg", "w6.txt", "w7.WEBP", *names):
        write_photo(folder / f"{name}.jpg", seed=1)
        with Image.open(folder / f"{name}.jpg") as photo:
            form = Path(name).suffix[1:].upper().replace("JPG", "JPEG").replace("TXT", "JPEG")
            whole = Image.new("RGB", photo.size, MARKED) if name == "w5.png" else photo.convert("RGB")
            whole.save(folder / name, form)
        (folder / f"{name}.jpg").unlink()
    report = prep_data.run("ood-cv", root, tmp_path / "cache", CONFIG, pascal3d=pascal3d)
    with CacheFile(report.paths[0]) as file:
        sources = [Path(source).name for source in file["source"]]
        assert sources == [*names, "w7.WEBP"], "the last is there under another suffix only"
        assert np.abs(file.read("images", 5)[32, 48].astype(int) - MARKED).max() < 8
    assert f"image_missing: {folder}/w6.tiff does not exist" in capsys.readouterr().err
