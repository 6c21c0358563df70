"""Every reader and every kind of file: one bad file costs its samples alone, is named, and no more."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.raw.files import valid_name
from ntdm.data_prep.write_caches import FAULTS, PrepReport
from ntdm.io.cache import CacheFile
from small_trees import write_trees

# The files that one sample or more depend on, but not all of them.
FILES = {
    "pascal3d": [
        "Images/car_imagenet/n0_0.JPEG", "Annotations/car_imagenet/n0_0.mat", "CAD/car/01.off",
        "Images/car_pascal/2008_000001.jpg", "Annotations/car_pascal/2008_000001.mat",
    ],
    "pascal3d_1.0": ["Images/car_imagenet/n0_1.JPEG", "Annotations/car_imagenet/n0_1.mat"],
    "occluded": ["images/carFGL2_BGL2/n0_1.JPEG", "annotations/carFGL2_BGL2/n0_1.npz"],
    "tables": ["nuisances/pose/images/web.jpg"],
    "crops": ["nuisances/weather/Images/car/collection_car_web_0.jpg"],
    "lists": ["images/car/a.JPEG", "annotations/car/a.mat"],
    "nemo": ["val/images/car/n0_1.JPEG", "val/annotations/car/n0_1.npz"],
    "challenge": [
        "train/processed/images/n0_0_00.jpg", "train/processed/annotations/n0_0_00.npz",
        "phase-1/nuisances/shape/images/pascal_car_2008_000001_1.JPEG",
        "phase-1/nuisances/shape/annotations/pascal_car_2008_000001_1.npz",
    ],
    "phase2": ["images/00001_car.jpg"],
}  # fmt: skip
# The files that say what there is: without them the dataset is not known.
FRAMES = {
    "pascal3d": [
        "Image_sets/car_imagenet_train.txt",
        "PASCAL/VOCdevkit/VOC2012/ImageSets/Main/car_train.txt",
    ],
    "pascal3d_1.0": ["CAD/car.mat"],
    "occluded": ["lists/carFGL2_BGL2.txt"],
    "tables": ["nuisances/pose/pose_bias.csv"],
    "crops": ["nuisances/weather/labels.csv"],
    "lists": ["lists/TrainSet.txt", "lists/car_shape.txt", "lists/car_all.txt"],
    "nemo": ["val/lists/car/mesh01.txt"],
    "challenge": ["train/car.txt"],
    "phase2": ["gt.csv"],
}


def each(files: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(tree, name) for tree, names in files.items() for name in names]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    write_trees(folder)
    return folder


@pytest.fixture
def trees(sound: Path, tmp_path: Path) -> tuple[Path, dict[str, Callable]]:
    """The datasets, for a test to damage."""
    shutil.copytree(sound, tmp_path / "trees")
    scratch = tmp_path / "scratch"
    calls = write_trees(scratch)
    for call in calls.values():
        call.keywords["cache_dir"] = tmp_path / "cache"
        if "pascal3d" in call.keywords:
            call.keywords["pascal3d"] = tmp_path / "trees" / "pascal3d"
    moved = {
        tree: (
            lambda call=call, root=tmp_path / "trees" / tree, **options: call.func(
                call.args[0], root, **call.keywords, **options
            )
        )
        for tree, call in calls.items()
    }
    shutil.rmtree(scratch)
    return tmp_path / "trees", moved


def cut(path: Path, outside: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def scribble(path: Path, outside: Path) -> None:
    path.write_bytes(b"\xff\xfe\0 a letter")


def remove(path: Path, outside: Path) -> None:
    path.unlink()


def link_out(path: Path, outside: Path) -> None:
    path.rename(outside)
    path.symlink_to(outside)


def link_to_itself(path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("damage", [cut, scribble, remove, link_out, link_to_itself])
@pytest.mark.parametrize(("tree", "name"), each(FILES))
def test_one_bad_file_costs_its_samples_alone(trees, tmp_path, capsys, tree, name, damage):
    folder, calls = trees
    whole = calls[tree](overwrite=True)
    assert sum(sum(file.dropped.values()) for file in whole.files) == 0
    damage(folder / tree / name, tmp_path / "outside")
    report = calls[tree](overwrite=True)
    lost = sum(file.samples for file in whole.files) - sum(file.samples for file in report.files)
    reasons = {reason for file in report.files for reason in file.dropped}
    said = capsys.readouterr().err
    assert 0 < lost < sum(file.samples for file in whole.files)
    assert reasons <= FAULTS and len(reasons) == 1
    named = name if damage not in (remove, link_to_itself) else Path(name).stem
    assert named in said
    with pytest.raises(ValueError, match=Path(name).stem):
        calls[tree](overwrite=True, strict=True)


def outcome(call: Callable) -> PrepReport | ValueError:
    try:
        return call()
    except ValueError as error:
        return error


@pytest.mark.parametrize("damage", [scribble, link_out])
@pytest.mark.parametrize(("tree", "name"), each(FRAMES))
def test_a_list_that_cannot_be_read_costs_its_files_alone(trees, tmp_path, capsys, tree, name, damage):
    folder, calls = trees
    damage(folder / tree / name, tmp_path / "outside")
    with pytest.raises(ValueError, match=Path(name).name) as caught:
        calls[tree](strict=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "cache").exists()
    report = outcome(calls[tree])
    if isinstance(report, ValueError):  # nothing else is listed
        assert Path(name).name in str(report) and "\n" not in str(report)
        return
    assert Path(name).name in capsys.readouterr().err
    lost = [file for file in report.files if file.dropped == {"list_unreadable": 1}]
    assert lost and sum(file.samples for file in report.files) > 0
    assert all("it was not read" in line for line in report.table().splitlines() if "unreadable" in line)


def test_a_category_without_cads_costs_its_samples_alone(trees, capsys):
    folder = trees[0]
    root = folder / "pascal3d"
    for part in ("Images", "Annotations"):
        shutil.copytree(root / part / "car_imagenet", root / part / "bus_imagenet")
    shutil.copy(
        root / "Image_sets" / "car_imagenet_train.txt", root / "Image_sets" / "bus_imagenet_train.txt"
    )
    shutil.copy(root / "Image_sets" / "car_imagenet_val.txt", root / "Image_sets" / "bus_imagenet_val.txt")
    record = raw.write_record
    for path in (root / "Annotations" / "bus_imagenet").glob("*.mat"):
        record(path, [raw.annotated(**{"class": "bus"})])
    prepare = partial(prep_data.run, "pascal3d", root, folder / "cache", PrepConfig(image_size=(32, 32)))
    report = prepare(splits=["train"])
    files = {file.key: file for file in report.files}
    assert files["pascal3d/train/car"].samples > 0
    assert files["pascal3d/train/bus"].dropped == {"cad_missing": 2}
    assert "no CAD model of bus: expected" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no CAD model of bus"):
        prepare(splits=["train"], strict=True, overwrite=True)
    with pytest.raises(ValueError, match="no CAD model of bus"):
        prepare(splits=["train"], categories=["bus"], overwrite=True)


@pytest.mark.parametrize("wrong", ["../../secret", "/etc/passwd", "..", "a\x1b[2Jb", "x" * 300, "a\\b"])
@pytest.mark.parametrize(
    ("tree", "name", "line"),
    [
        ("pascal3d", "Image_sets/car_imagenet_train.txt", "{}"),
        ("pascal3d", "PASCAL/VOCdevkit/VOC2012/ImageSets/Main/car_train.txt", "{} 1"),
        ("occluded", "lists/carFGL2_BGL2.txt", "{}.JPEG"),
        ("tables", "nuisances/pose/pose_bias.csv", "pascal,car,a,0,40,10,-5,6,20,25,80,60,{}"),
        ("tables", "nuisances/pose/pose_bias.csv", "pascal,car,{},0,40,10,-5,6,20,25,80,60,images/a.jpg"),
        ("tables", "nuisances/pose/pose_bias.csv", "{},car,a,0,40,10,-5,6,20,25,80,60,images/a.jpg"),
        ("crops", "nuisances/weather/labels.csv", "{},car,40,10,-5,6"),
        ("lists", "lists/car_shape.txt", "{} 0"),
        ("nemo", "val/lists/car/mesh01.txt", "{}"),
        ("challenge", "train/car.txt", "{}"),
        ("phase2", "gt.csv", "{},car,0.4,0.1,-0.5,6,pose"),
    ],
)
def test_names_that_lead_out_are_no_names(trees, tree, name, line, wrong):
    folder, calls = trees
    if wrong == "a\\b" and line.endswith("60,{}"):
        wrong = "..\\..\\secret"  # in a photo's path a backslash is Windows's slash: it may lead out too
    with (folder / tree / name).open("a", newline="") as file:
        file.write("\n" + line.format(wrong) + "\n")
    report = calls[tree]()
    assert sum(file.dropped.get("name_invalid", 0) for file in report.files) == 1
    with pytest.raises(ValueError, match="name_invalid for 1 names"):
        calls[tree](overwrite=True, strict=True)


def test_the_wrong_root_is_told_apart(trees):
    """Every dataset given to every other reader: what it looks like, and what was expected where."""
    folder, calls = trees
    pascal3d, ood_cv = {"pascal3d", "pascal3d_1.0"}, {"tables", "crops", "lists", "challenge", "phase2"}
    for reader, own in (
        ("pascal3d", pascal3d),
        ("occluded", {"occluded"}),
        ("nemo", {"nemo"}),
        ("crops", ood_cv),
    ):
        for tree in set(calls) - own:
            (folder / reader).rename(folder / "aside")
            (folder / tree).rename(folder / reader)
            pattern = rf"{reader} looks like (a NeMo|Occluded|OOD-CV, pack|PASCAL).*expected .* at "
            with pytest.raises(ValueError, match=pattern):
                calls[reader]()
            (folder / reader).rename(folder / tree)
            (folder / "aside").rename(folder / reader)


def test_a_table_that_is_a_folder_or_not_text(trees):
    folder, calls = trees
    table = folder / "phase2" / "gt.csv"
    table.write_bytes(bytes(5000))
    with pytest.raises(ValueError, match=r"gt\.csv has no column imgs; its columns are none$"):
        calls["phase2"]()
    table.unlink()
    table.mkdir()
    with pytest.raises(ValueError, match=r"gt\.csv is no file"):
        calls["phase2"]()


def test_names():
    assert all(map(valid_name, ("n0_0", "2008_000001", "car_+_snow_google_0022", "é ü", "...x")))
    assert not any(map(valid_name, ("", ".", "..", "a/b", "a\0b", "a\nb", "\udcff", "a" * 201)))


def test_photos_that_claim_too_much_or_start_a_program(trees):
    folder, calls = trees
    photo = folder / "phase2" / "images" / "00001_car.jpg"
    data = photo.read_bytes()
    at = data.index(b"\xff\xc0") + 5
    photo.write_bytes(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])  # 65535 x 65535
    assert calls["phase2"]().files[0].dropped == {"image_unreadable": 1}
    Image.new("RGB", (100, 80)).save(photo, "EPS")  # Pillow has Ghostscript run such files
    assert calls["phase2"](overwrite=True).files[0].dropped == {"image_unreadable": 1}
    Image.new("RGB", (100, 80), "red").save(photo, "PNG")  # as some of ImageNet's .JPEG are
    assert [file.dropped for file in calls["phase2"](overwrite=True).files] == [{}, {}]


def test_phase2(trees, capsys):
    folder, calls = trees
    report = calls["phase2"]()
    assert [file.key for file in report.files] == ["ood_cv/pose/car", "ood_cv/weather/car"]
    assert "gt.csv: its angles are taken for radians" in capsys.readouterr().err
    with CacheFile(report.paths[0]) as file:
        assert file["name"] == ["00001_car_00"] and file["source"] == ["images/00001_car.jpg"]
        np.testing.assert_allclose(file["viewpoint"], [[5.3, 0.2, -0.1, 6.0]], rtol=1e-12)
        assert file["cad_index"].tolist() == [-1] and not file["amodal_mask"].any() and file["images"].any()
    table = folder / "phase2" / "gt.csv"
    lines = [
        "imgs,labels,azimuth,elevation,theta,distance,nuisance",
        "00001_car.jpg,car,310,10,-5,6,iid_test",
    ]
    lines += ["00002_car.jpg,zebra,310,10,-5,6,pose", "00002_car.jpg,car,310,10,-5,6,mood"]
    table.write_text("\n".join(lines))
    (folder / "phase2" / "phase-2").mkdir()
    for name in ("gt.csv", "images"):
        (folder / "phase2" / name).rename(folder / "phase2" / "phase-2" / name)
    report = calls["phase2"](overwrite=True)
    assert [(file.key, file.dropped) for file in report.files] == [
        ("ood_cv/iid/car", {}), ("ood_cv/phase-2/(no category)", {"other_class": 2}),
    ]  # fmt: skip
    with CacheFile(report.paths[0]) as file:
        np.testing.assert_allclose(np.degrees(file["viewpoint"][0, :3]), [310, 10, -5], rtol=1e-12)
