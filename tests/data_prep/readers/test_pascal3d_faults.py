"""PASCAL3D+: what is dropped is counted, what is broken is named, what is wrong altogether is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io

import raw_trees as raw
from ntdm.data_prep import prep_data
from ntdm.io.cache import CacheFile
from pascal3d_tree import CONFIG, annotation, dropped, photo, prepare
from raw_trees import EMPTY, annotated, write_record


@pytest.fixture
def root(tmp_path) -> Path:
    return raw.write_pascal3d(tmp_path / "PASCAL3D+_release1.1")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    path.write_text("this is a letter, not a picture")


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([annotated(EMPTY)], "no_pose"),
        ([annotated({"azimuth": EMPTY, "azimuth_coarse": EMPTY})], "no_pose"),
        ([annotated({"px": EMPTY})], "no_pose"),
        ([annotated({"theta": float("nan")})], "no_pose"),
        ([annotated({"focal": np.uint8(0)})], "no_pose"),
        (
            [annotated({"distance": np.uint8(0), "azimuth": np.uint8(0), "px": EMPTY})],
            "distance_not_positive",
        ),
        ([annotated({"distance": -1.0})], "distance_not_positive"),
        ([annotated({"elevation": 91.0})], "elevation_out_of_range"),
        ([annotated(cad_index=EMPTY)], "no_cad_index"),
        ([annotated(cad_index=np.uint8(7))], "cad_missing"),
        ([annotated(bbox=EMPTY)], "no_bbox"),
        ([annotated(**{"class": "person"}), annotated()], "other_class"),
        ([annotated(EMPTY), annotated()], "no_pose"),
        ([], "no_object"),
    ],
)
def test_dropped_samples_are_counted_by_reason(root, objects, reason):
    write_record(annotation(root), objects)
    report = prepare(root)
    assert (report.files[0].samples, report.files[0].dropped) == (5, {reason: 1})
    with CacheFile(report.paths[0]) as file:
        assert file.dropped == {reason: 1} and file["name"][0] == "n0_1_00"
    assert f"{reason} 1" in report.table()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distance": 0.01}, "distance is 0.01 CAD units"),
        ({"distance": 1e30}, "distance is 1e"),
        ({"azimuth": 1e30}, "azimuth is 1e"),
        ({"theta": -1e9}, "theta is -1e"),
        ({"elevation": 1e30}, "elevation is 1e"),
        ({"focal": 1e-9}, "the focal length is 3e-06 pixels"),
        ({"viewport": 1e300}, "the focal length is 1e"),
        ({"px": 1e30}, "the principal point is 1e"),
    ],
)
def test_absurd_numbers_are_counted_and_named(root, changes, said, capsys):
    write_record(annotation(root), [annotated(changes)])
    assert dropped(root) == {"number_absurd": 1}
    assert f"number_absurd: {annotation(root)}, object 0: {said}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=re.escape(said)):
        prepare(root, strict=True, overwrite=True)


def test_absurd_boxes(root):
    write_record(annotation(root), [annotated(bbox=np.array([[20.5, 25.0, 1e300, 60.0]]))])
    assert dropped(root) == {"number_absurd": 1}


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (cut, annotation, "annotation_unreadable"),
        (scribble, annotation, "annotation_unreadable"),
        (Path.unlink, annotation, "annotation_missing"),
        (cut, photo, "image_unreadable"),
        (scribble, photo, "image_unreadable"),
        (Path.unlink, photo, "image_missing"),
    ],
)
def test_a_bad_file_is_left_out_counted_and_named(root, damage, file, reason, capsys):
    damage(file(root))
    assert dropped(root) == {reason: 1}
    assert f"{reason}: {file(root)}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=re.escape(f"pascal3d/train/car: {file(root)}")):
        prepare(root, strict=True, overwrite=True)


def test_a_cad_without_faces_costs_its_samples(root, capsys):
    path = root / "CAD" / "car" / "01.off"
    path.write_text("OFF\n1 0 0\n0 0 0\n")
    assert dropped(root) == {"cad_unreadable": 3}
    assert f"{path} is not a usable OFF file: it has 1 vertices and 0 faces" in capsys.readouterr().err
    with pytest.raises(ValueError, match="0 faces"):
        prepare(root, strict=True, overwrite=True)


def test_lists_with_duplicates_and_paths(root):
    path = root / "Image_sets" / "car_imagenet_train.txt"
    path.write_text("n0_0\r\n\n  n0_1 \nn0_0\n../../secret\n/etc/passwd\n..\n")
    report = prepare(root)
    assert (report.files[0].samples, report.files[0].dropped) == (2, {"listed_twice": 1, "name_invalid": 3})


@pytest.mark.parametrize("field", ["viewpoint", "cad_index", "bbox", "class"])
def test_records_whose_objects_lack_a_field(root, field):
    lacking = annotated()
    del lacking[field]
    write_record(annotation(root), [lacking])
    want = {"viewpoint": "no_pose", "cad_index": "no_cad_index", "bbox": "no_bbox", "class": "other_class"}
    assert dropped(root) == {want[field]: 1}


@pytest.mark.parametrize(
    "field", ["azimuth", "elevation", "theta", "distance", "focal", "viewport", "px", "py"]
)
def test_viewpoints_that_lack_a_field(root, field):
    view = {key: value for key, value in raw.VIEW.items() if not key.startswith(field)}
    fields = annotated()
    fields["viewpoint"] = view
    write_record(annotation(root), [fields])
    assert dropped(root) == {"no_pose": 1}


@pytest.mark.parametrize("record", [{"record": np.zeros((0, 0))}, {"other": 1.0}, {"record": {"size": 3}}])
def test_annotations_without_a_record_of_objects(root, record):
    scipy.io.savemat(annotation(root), record)
    assert dropped(root) == {"annotation_unreadable": 1}


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (annotation, "annotation_unreadable"),
        (photo, "image_unreadable"),
        (lambda root: root / "CAD" / "car" / "02.off", "cad_unreadable"),
    ],
)
def test_links_out_of_the_dataset_are_not_followed(root, tmp_path, capsys, file, reason):
    outside = tmp_path / "outside"
    file(root).rename(outside)
    file(root).symlink_to(outside)
    assert set(dropped(root)) == {reason}
    assert f"{file(root)} is a link that leads out of the dataset" in capsys.readouterr().err


def test_links_within_the_dataset_and_linked_folders_are_followed(root, tmp_path):
    photo(root).unlink()
    photo(root).symlink_to(photo(root, "n0_1"))
    annotation(root).rename(annotation(root).with_name("moved.mat"))
    annotation(root).symlink_to("moved.mat")
    for folder in ("Images", "CAD"):
        (root / folder).rename(tmp_path / folder)
        (root / folder).symlink_to(tmp_path / folder)
    assert prepare(root).files[0].samples == 6


def test_a_list_that_is_a_link_out_of_the_dataset_is_refused(root, tmp_path):
    path = root / "Image_sets" / "car_imagenet_train.txt"
    path.rename(tmp_path / "outside.txt")
    path.symlink_to(tmp_path / "outside.txt")
    with pytest.raises(ValueError, match=r"car_imagenet_train\.txt is a link that leads out of the dataset"):
        prepare(root)


def test_an_empty_split_gives_no_file_and_says_so(root, capsys):
    (root / "Image_sets" / "car_imagenet_val.txt").write_text("\n")
    report = prepare(root, splits=None)
    assert [file.samples for file in report.files] == [6, 0] and len(report.paths) == 1
    assert "pascal3d/val/car: no sample is left of 0 listed; no file is written" in capsys.readouterr().err
    assert "(no file: no sample is left)" in report.table()
    assert not (root.parent / "cache" / "pascal3d" / "val" / "car.h5").exists()
    with pytest.raises(ValueError, match="no sample could be used"):
        prepare(root, splits=["val"])


def test_wrong_calls(root):
    with pytest.raises(ValueError, match="unknown category 'zebra'; the dataset has aeroplane, bicycle"):
        prepare(root, categories=["car", "zebra"])
    with pytest.raises(ValueError, match="unknown split 'test'; the dataset has train, val"):
        prepare(root, splits=["test"])
    with pytest.raises(ValueError, match=r"bus_imagenet_train\.txt cannot be read"):
        prepare(root, categories=["bus"])
    with pytest.raises(ValueError, match="workers is 0"):
        prepare(root, workers=0)


def test_wrong_roots(root, tmp_path):
    with pytest.raises(ValueError, match=r"PASCAL3D\+: there is no folder .*nowhere"):
        prep_data.run("pascal3d", tmp_path / "nowhere", tmp_path / "c", CONFIG)
    with pytest.raises(
        ValueError, match=r"one level too high: expected PASCAL3D\+ .*found it in .*release1\.1"
    ):
        prep_data.run("pascal3d", root.parent, tmp_path / "c", CONFIG)
    (tmp_path / "odd" / "lists").mkdir(parents=True)
    with pytest.raises(ValueError, match="looks like none of the known datasets"):
        prep_data.run("pascal3d", tmp_path / "odd", tmp_path / "c", CONFIG)
    (tmp_path / "odd" / "lists" / "carFGL1_BGL1.txt").write_text("")
    with pytest.raises(ValueError, match=r"looks like Occluded PASCAL3D\+; expected PASCAL3D\+ at"):
        prep_data.run("pascal3d", tmp_path / "odd", tmp_path / "c", CONFIG)


def test_strict_does_not_keep_a_file_with_faults(root):
    photo(root).unlink()
    assert prepare(root).files[0].dropped == {"image_missing": 1}
    with pytest.raises(ValueError, match=r"without some samples \(image_missing 1\): mend them"):
        prepare(root, strict=True)


def test_file_of_another_dataset_is_refused(root):
    prepare(root)
    names = root / "Image_sets" / "car_imagenet_train.txt"
    names.write_text("".join(names.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match=r"another config \(inputs: '\w+' -> '\w+'\); pass --overwrite"):
        prepare(root)
    assert prepare(root, overwrite=True).files[0].samples == 5
