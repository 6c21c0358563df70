"""OOD-CV: which packaging a folder holds; packaging B: which object is in which split."""

import re
from pathlib import Path

import numpy as np
import pytest

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.raw import roots as layout
from ntdm.io.cache import CacheFile
from raw_trees import annotated

CONFIG = PrepConfig(image_size=(64, 96), scale=0.3)
WEB = "car_+_snow_google_0022"


@pytest.fixture
def roots(tmp_path) -> tuple[Path, Path]:
    pascal3d = raw.write_pascal3d(tmp_path / "pascal3d")
    raw.write_photo(pascal3d / "Images" / "car_pascal" / "2008_000001.jpg")
    raw.write_record(pascal3d / "Annotations" / "car_pascal" / "2008_000001.mat", [annotated()])
    root = tmp_path / "ood_cv"
    lists = root / "lists"
    lists.mkdir(parents=True)
    (lists / "TrainSet.txt").write_text("n0_0\nn0_3\n2008_000001\nn9_unknown\nn0_0\n")
    for i, name in enumerate(("a", "b", WEB)):
        raw.write_photo(root / "images" / "car" / f"{name}.JPEG", seed=i)
        objects = [annotated({"azimuth": 10.0}), annotated({"azimuth": 20.0}), annotated({"distance": 0.0})]
        raw.write_record(root / "annotations" / "car" / f"{name}.mat", objects)
    (lists / "car_shape.txt").write_text("a 0\na 1\na 1\n")
    (lists / "car_weather.txt").write_text(f"{WEB} 1\na 1\nb 2\n")
    (lists / "car_all.txt").write_text(f"a 0\na 1\nb 0\nb 1\nb 2\nb 7\n{WEB} 1\n")
    return root, pascal3d


def prepare(roots: tuple[Path, Path], **options):
    root, pascal3d = roots
    return prep_data.run("ood-cv", root, root.parent / "cache", CONFIG, pascal3d=pascal3d, **options)


def test_splits(roots):
    report = prepare(roots)
    found = {file.key.split("/")[1]: (file.samples, file.dropped) for file in report.files if file.path}
    assert found == {
        "train": (3, {"listed_twice": 1}),
        "iid": (2, {"no_object": 1}),
        "shape": (2, {"listed_twice": 1}),
        "weather": (2, {"distance_not_positive": 1}),
    }
    assert [file.key for file in report.files if file.path is None] == ["ood_cv/train/(no category)"]
    names = {}
    for path in report.paths:
        with CacheFile(path) as file:
            names[file.split] = file["name"]
            if file.split == "weather":
                np.testing.assert_allclose(np.degrees(file["viewpoint"][:, 0]), [20, 20])
                assert file["source"][0] == f"images/car/{WEB}.JPEG"
            if file.split == "train":
                assert file["source"][2] == "Images/car_pascal/2008_000001.jpg"
    assert names == {
        "train": ["n0_0_00", "n0_3_00", "2008_000001_00"],
        "iid": ["b_00", "b_01"],
        "shape": ["a_00", "a_01"],
        "weather": [f"{WEB}_01", "a_01"],
    }


def test_training_photos_without_annotation_are_counted_and_named(roots, capsys):
    report = prepare(roots, splits=["train"])
    said = "ood_cv/train: annotation_missing: 1 listed names that no category has: n9_unknown"
    assert said in capsys.readouterr().err
    lost = report.files[-1]
    assert (lost.path, lost.samples, lost.dropped) == (None, 0, {"annotation_missing": 1})
    assert "annotation_missing 1" in report.table()
    with pytest.raises(ValueError, match="n9_unknown"):
        prepare(roots, splits=["train"], strict=True, overwrite=True)


def test_some_splits(roots):
    assert [file.key for file in prepare(roots, splits=["shape"]).files] == ["ood_cv/shape/car"]


@pytest.mark.parametrize("category", ["bottle", "tvmonitor", "zebra"])
def test_categories_it_does_not_have(roots, category):
    with pytest.raises(ValueError, match=f"unknown category '{category}'; the dataset has aeroplane"):
        prepare(roots, categories=[category])


def test_wrong_lists(roots):
    with pytest.raises(ValueError, match="names no bus of the splits shape"):
        prepare(roots, categories=["bus"], splits=["shape"])
    path = roots[0] / "lists" / "car_shape.txt"
    path.write_text("a 0\na_without_index\n")
    assert prepare(roots, splits=["shape"]).files[0].dropped == {"name_invalid": 1}
    path.write_text("../../etc/passwd 0\na 0\n")
    assert prepare(roots, splits=["shape"], overwrite=True).files[0].dropped == {"name_invalid": 1}


def test_what_is_not_shifted_is_not_known_without_all_lists(roots):
    (roots[0] / "lists" / "car_shape.txt").write_bytes(b"\xff\xfe")
    report = prepare(roots)
    lost = {file.key for file in report.files if "list_unreadable" in file.dropped}
    assert lost == {"ood_cv/shape/car", "ood_cv/iid/car"} and report.paths
    with pytest.raises(ValueError, match=r"car_shape\.txt cannot be read"):
        prepare(roots, splits=["shape"])


def test_pascal3d_may_be_cads_alone_where_no_record_of_it_is_needed(roots, tmp_path):
    (tmp_path / "cads").mkdir()
    (roots[1] / "CAD").rename(tmp_path / "cads" / "CAD")
    assert prepare((roots[0], tmp_path / "cads"), splits=["shape"]).files[0].samples == 2
    with pytest.raises(ValueError, match=r"looks like PASCAL3D\+; expected PASCAL3D\+ at .*Annotations"):
        prepare((roots[0], tmp_path / "cads"), splits=["train"], overwrite=True)
    with pytest.raises(ValueError, match=r"expected PASCAL3D\+ at .*CAD"):
        prepare(roots, splits=["shape"], overwrite=True)


def test_an_empty_choice(roots):
    with pytest.raises(ValueError, match="names nothing of the splits occlusion"):
        prepare(roots, splits=["occlusion"])


@pytest.mark.parametrize(
    ("files", "packaging"),
    [
        (["lists/TrainSet.txt"], "packaging B"),
        (["lists/car_all.txt", "images/car/a.JPEG", "annotations/car/a.mat"], "packaging B"),
        (["iid_test/iid.csv", "train/train.csv"], "packaging A (ROBIN"),
        (["nuisances/weather/weather_bias.csv", "annotations/car_pascal/a.mat"], "packaging A (ROBIN"),
        (["train/labels.csv", "train/Images/car/a.jpg"], "packaging A' (processed"),
        (["nuisances/context/labels.csv"], "packaging A' (processed"),
        (["phase-1/iid_test/annotations/pascal_car_a_0.npz"], "packaging C (pose-npz"),
        (["train/processed/annotations/a.npz", "train/car.txt"], "packaging C (pose-npz"),
    ],
)
def test_packagings_are_told_apart(tmp_path, files, packaging):
    for name in files:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text("")
    assert packaging in layout.ood_cv_packaging(tmp_path / "root")
    assert packaging in layout.recognise(tmp_path / "root")
    with pytest.raises(ValueError, match=r"one level too high: expected OOD-CV at .*found it in .*root"):
        layout.ood_cv_packaging(tmp_path)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["Images", "Annotations"], "looks like PASCAL3D+"),
        (["annotations/carFGL1_BGL1"], "looks like Occluded PASCAL3D+"),
        (["annotations/car/a.npz"], "looks like a NeMo-prepared tree"),
        (["phase-2/images"], "looks like OOD-CV, phase 2"),
        (["VOC2012/JPEGImages"], "looks like PASCAL VOC alone"),
        (["JPEGImages", "ImageSets"], "looks like PASCAL VOC alone"),
        (["things"], "looks like none of the known datasets"),
    ],
)
def test_other_datasets_are_named(tmp_path, roots, folders, said):
    for folder in folders:
        (tmp_path / "other" / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        prepare((tmp_path / "other", roots[1]))
    assert f"expected OOD-CV at {tmp_path / 'other' / 'lists' / 'TrainSet.txt'} or " in str(caught.value)
