"""Every reader and every kind of file: one bad file costs its samples alone, is named, and no more."""

import io
import json
import runpy
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from ntdm.cache import CacheFile
from ntdm.data_prep.cad import read_off
from ntdm.data_prep.layout import read_npz, valid_name
from ntdm.data_prep.mat import read_mat
from ntdm.data_prep.prepare import FAULTS

# tests/ is no package: what several tests share is loaded by its path.
HERE = Path(__file__).parent
write_trees = runpy.run_path(str(HERE / "small_trees.py"))["write_trees"]

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
                root, **call.keywords, **options
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


@pytest.mark.parametrize("damage", [scribble, link_out])
@pytest.mark.parametrize(("tree", "name"), each(FRAMES))
def test_a_list_that_cannot_be_read_is_one_sentence(trees, tmp_path, tree, name, damage):
    folder, calls = trees
    damage(folder / tree / name, tmp_path / "outside")
    with pytest.raises(ValueError, match=Path(name).name) as caught:
        calls[tree]()
    assert "\n" not in str(caught.value) and not (tmp_path / "cache").exists()


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
    with (folder / tree / name).open("a", newline="") as file:
        file.write("\n" + line.format(wrong) + "\n")
    report = calls[tree]()
    assert sum(file.dropped.get("name_invalid", 0) for file in report.files) == 1
    with pytest.raises(ValueError, match="name_invalid for 1 names"):
        calls[tree](overwrite=True, strict=True)


def test_names():
    assert all(map(valid_name, ("n0_0", "2008_000001", "car_+_snow_google_0022", "é ü", "...x")))
    assert not any(map(valid_name, ("", ".", "..", "a/b", "a\0b", "a\nb", "\udcff", "a" * 201)))


# ---- files that claim more than they hold


def matrix(kind: int, dims: tuple[int, ...], body: bytes, name: bytes = b"record") -> bytes:
    """An element of a .mat file, its header as given."""

    def element(number: int, data: bytes) -> bytes:
        return number.to_bytes(4, "little") + len(data).to_bytes(4, "little") + data + bytes(-len(data) % 8)

    shape = b"".join(n.to_bytes(4, "little", signed=True) for n in dims)
    return element(
        14, element(6, bytes([kind, 0, 0, 0, 0, 0, 0, 0])) + element(5, shape) + element(1, name) + body
    )


def write_mat(path: Path, variable: bytes) -> Path:
    path.write_bytes(bytes(124) + b"\x00\x01IM" + variable)
    return path


def nested(depth: int) -> bytes:
    """A cell in a cell in a cell."""
    body = matrix(6, (1, 1), (9).to_bytes(4, "little") + (8).to_bytes(4, "little") + bytes(8), b"")
    for _ in range(depth):
        body = matrix(1, (1, 1), body, b"")
    return body


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        (matrix(1, (100_000, 100_000), b""), "larger than what is stored of it"),
        (matrix(2, (2**30, 2**30), b"\5\0\4\0\5\0\0\0\1\0\0\0\5\0\0\0aaaa\0\0\0\0"), "larger than what"),
        (matrix(6, (100_000, 100_000), (9).to_bytes(4, "little") + bytes(4)), "has 0 bytes"),
        (matrix(4, (2**31 - 1, 1), (16).to_bytes(4, "little") + bytes(4)), "has 0 bytes"),
        (matrix(6, (-1, 3), b""), "has the shape"),
        (matrix(1, (1, 1), nested(5000)), "nested more than"),
        (matrix(16, (1, 1), nested(0)), "a function handle, an object"),
        (matrix(3, (1, 1), nested(0)), "a function handle, an object"),
        (matrix(5, (1, 1), nested(0)), "a function handle, an object or a sparse"),
        ((15).to_bytes(4, "little") + b"\xff\xff\xff\x7f", "claims more bytes than the file has"),
    ],
)  # fmt: skip
def test_mat_files_that_claim_too_much(tmp_path, variable, said):
    with pytest.raises(ValueError, match=rf"a\.mat is not a readable \.mat file: .*{said}"):
        read_mat(write_mat(tmp_path / "a.mat", variable), "record")


def test_mat_files_that_unpack_to_too_much(tmp_path):
    packed = zlib.compress(bytes(80 * 2**20))
    variable = (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_mat(write_mat(tmp_path / "a.mat", variable), "record")


def test_sound_mat_files_are_read_as_scipy_reads_them(tmp_path):
    written = {"other": {"a": 1.0}, "record": {"text": "ü", "empty": np.zeros((0, 0)), "complex": 1 + 2j}}
    for compressed in (False, True):
        scipy.io.savemat(tmp_path / "a.mat", written, do_compression=compressed)
        found, want = read_mat(tmp_path / "a.mat", "record"), scipy.io.loadmat(tmp_path / "a.mat")["record"]
        assert found.dtype == want.dtype
        for name in want.dtype.names:
            np.testing.assert_array_equal(found[name][0, 0], want[name][0, 0])
        assert read_mat(tmp_path / "a.mat", "missing") is None


def npz_claiming(path: Path, kind: str, shape: tuple[int, ...], size: int | None = None) -> Path:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mask.npy", stream.getvalue() + bytes(8 if size is None else size))
    return path


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("<f8", (10**6, 10**6)), ("<f8", (-1, -1)), ("|S0", (2**40,)), ("<f8", (2**62, 4)), ("|O", (2**40,))],
)
def test_npz_files_that_claim_too_much(tmp_path, kind, shape):
    with pytest.raises(
        ValueError, match=r"a\.npz is not a readable .npz file: field mask holds no plain array"
    ):
        read_npz(npz_claiming(tmp_path / "a.npz", kind, shape))


def test_npz_members_that_unpack_to_more_than_they_claim(tmp_path):
    """A gigabyte of zeros that calls itself 200 bytes: not unpacked."""
    path = npz_claiming(tmp_path / "a.npz", "|u1", (50 * 2**20,), 50 * 2**20)
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].file_size.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (200).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"a\.npz is not a readable"):
        read_npz(path)
    npz_claiming(path, "|u1", (8,))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("mask.npy")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("mask.npy", content)
    with pytest.raises(ValueError, match="compressed by another method"):
        read_npz(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("OFF\n3 1 0\n1e308 0 0\n0 1 0\n0 0 1\n3 0 1 2\n", "a coordinate is 1e"),
        ("OFF\n3 1 0\nnan 0 0\n0 1 0\n0 0 1\n3 0 1 2\n", "not finite"),
        ("OFF\n99999999999999 1 0\n", "cut short"),
        ("OFF\n3 1 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 99999999999999999999\n", "not a usable OFF file"),
        ("OFF\n3 1 0\n1 0 0\n0 1 0\n0 0 1\n99999999999 0 1 2\n", "has not the corners it says"),
        (f"OFF\n{'9' * 5000} 1 0\n", "not a usable OFF file"),
    ],
)
def test_off_files_with_absurd_numbers(tmp_path, text, said):
    (tmp_path / "01.off").write_text(text)
    with pytest.raises(ValueError, match=rf"01\.off.*{said}"):
        read_off(tmp_path / "01.off")


def test_files_larger_than_any_of_their_kind(tmp_path, monkeypatch):
    monkeypatch.setattr("ntdm.data_prep.cad.LARGEST_TEXT", 100)
    (tmp_path / "01.off").write_text("OFF\n" * 50)
    with pytest.raises(ValueError, match="more than 100 bytes, which no file of its kind has"):
        read_off(tmp_path / "01.off")


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


@pytest.mark.parametrize(("script", "cases"), [("fuzz_readers.py", "150"), ("fuzz_caches.py", "20")])
def test_some_damaged_files(script, cases):
    """A slice of the fuzzers, which are run at length by hand: every case another damage."""
    command = [sys.executable, str(HERE / script), "--cases", cases, "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{cases} cases, 0 findings" in done.stdout


def test_the_fuzzer_sees_what_it_is_for(tmp_path):
    """It would be quiet, too, if it looked at nothing: a reader that unpickles is found out."""
    code = (
        "import runpy, sys, numpy as np\n"
        "sys.argv = [{script!r}, '--part', '0', '400']\n"
        "from ntdm.data_prep import nemo, samples\n"
        "none = lambda array: array.dtype == object and array.shape == () and array.item() is None\n"
        "fields = lambda path: np.load(path, allow_pickle=True).items()\n"
        "loose = lambda path: {{name: array for name, array in fields(path) if not none(array)}}\n"
        "nemo.read_npz = samples.read_npz = loose\n"
        "runpy.run_path({script!r}, run_name='__main__')\n"
    ).format(script=str(HERE / "fuzz_readers.py"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("pickle" in line.get("finding", "") for line in found), done.stderr[-2000:]
