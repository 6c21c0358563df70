"""Synthetic data from given CADs and viewpoint lists: parts, stretched shapes, exact truth, refusals."""

import csv
import filecmp
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from ntdm.config.protocol import CATEGORIES, NUISANCES
from ntdm.config.stages import SyntheticConfig
from ntdm.data_prep.make_data import make_data
from ntdm.data_prep.raw.annotation import object_pose, read_objects
from ntdm.data_prep.raw.cad import read_cads
from ntdm.data_prep.synthetic import models as synthetic_models
from ntdm.data_prep.synthetic import viewpoints as synthetic_viewpoints
from ntdm.data_prep.synthetic.parts import with_parts
from ntdm.data_prep.synthetic.photo import OOD_CV, PASCAL3D, Sample, shown
from ntdm.data_prep.synthetic.render import frame, render
from ntdm.data_prep.synthetic.solids import Assembly, box, loft, tube
from ntdm.data_prep.synthetic.stretch import non_rigid
from ntdm.geometry.camera import cam_from_obj
from ntdm.ops.rasterize import coverage

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
RELEASE, LISTS = DATA / "PASCAL3D+_release1.1", DATA / "PASCAL3D+_derived_lists"
needs_cads = pytest.mark.skipif(not (RELEASE / "CAD").is_dir(), reason=f"needs the real CADs at {RELEASE}")


def _cart(length: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A box on four wheels as a released model would hold it: faces of either winding, vertices repeated."""
    a = Assembly()
    a.add("paint", box((-0.3, -length / 2, 0.15), (0.3, length / 2, 0.6)))
    for y in (-0.35 * length, 0.35 * length):
        a.add_pair("tyre", tube([(0.25, y, 0.15), (0.35, y, 0.15)], 0.15, 16))
    cad = a.finish()
    vertices = cad.vertices[cad.faces].reshape(-1, 3)  # each face has its own three
    faces = np.arange(len(vertices)).reshape(-1, 3)
    faces[::2] = faces[::2, ::-1]
    return vertices, faces


def _write_tree(root: Path, numbers: tuple[int, ...], category: str = "car") -> None:
    folder = root / "CAD" / category
    folder.mkdir(parents=True)
    for number in numbers:
        vertices, faces = _cart(1 + number / 10)
        lines = ["OFF", f"{len(vertices)} {len(faces)} 0"]
        lines += [f"{x:.5f} {y:.5f} {z:.5f}" for x, y, z in vertices]
        lines += [f"3 {i} {j} {k}" for i, j, k in faces]
        (folder / f"{number:02d}.off").write_text("\n".join(lines) + "\n")


def _write_lists(folder: Path, rows: list[str], category: str = "car") -> None:
    folder.mkdir()
    for name in synthetic_viewpoints.LISTS:
        photos = [f"Images\\{category}_imagenet\\n0_{k}.JPEG,1,2,3,4,0,{row}" for k, row in enumerate(rows)]
        (folder / name).write_text("\n".join(["a misaligned header", *photos]) + "\n")


CONFIG = SyntheticConfig(
    categories=("car",),
    train_per_category=4,
    val_per_category=1,
    ood_per_category=3,
    iid_per_category=1,
    image_size=64,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("given")
    _write_tree(root / "tree", (1, 3, 4))
    _write_lists(root / "lists", ["10,5,359", "200,20,3", "90,70,0"])
    return make_data(CONFIG, root / "out", cad_root=root / "tree", viewpoints=root / "lists", workers=1)


def test_parts_have_wheels_on_the_ground_and_smooth_normals() -> None:
    vertices, faces = _cart()
    cad = with_parts(vertices, faces, "car")
    np.testing.assert_array_equal(cad.faces, faces)
    tyre = cad.face_material == cad.materials.index("tyre")
    centres = vertices[faces].mean(1)
    assert tyre.any()
    assert centres[tyre, 2].max() < 0
    assert (np.abs(centres[tyre, 0]) > 0.15).all()
    np.testing.assert_allclose(np.linalg.norm(cad.corner_normals, axis=2), 1, atol=1e-6)


def test_normals_agree_across_faces_turned_either_way() -> None:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    vertices, faces = loft([circle, circle + np.array([0, 0, 2])])
    faces[::3] = faces[::3, ::-1]
    cad = with_parts(vertices, faces, "bottle")
    wall = np.ptp(vertices[faces][:, :, 2], axis=1) > 0
    outward = (cad.corner_normals * vertices[faces])[wall][:, :, :2].sum(2)
    assert (outward > 0.99).all() or (outward < -0.99).all()


def test_both_halves_of_a_model_have_the_same_parts() -> None:
    for number, (vertices, faces) in enumerate([_cart(1.0), _cart(1.4)]):
        cad = with_parts(vertices, faces, ("car", "sofa")[number])
        centres = np.round(vertices[faces].mean(1), 4)
        material = dict(zip(map(tuple, centres), cad.face_material, strict=True))
        pairs = [(m, material.get((-x, y, z))) for (x, y, z), m in material.items()]
        assert all(other in (None, mine) for mine, other in pairs)


def test_stretched_shapes_are_normalised_symmetric_and_not_affine() -> None:
    vertices, _ = _cart()
    moved = non_rigid(vertices, np.random.default_rng(3))(vertices)
    low, high = moved.min(0), moved.max(0)
    np.testing.assert_allclose(low + high, 0, atol=1e-12)
    assert np.linalg.norm(high - low) == pytest.approx(1)
    mirrored = non_rigid(vertices, np.random.default_rng(3))(vertices * [-1, 1, 1])
    np.testing.assert_allclose(mirrored, moved * [-1, 1, 1], atol=1e-12)
    homogeneous = np.column_stack([vertices, np.ones(len(vertices))])
    fitted = homogeneous @ np.linalg.lstsq(homogeneous, moved, rcond=None)[0]
    assert np.abs(fitted - moved).max() > 0.005


def test_models_held_back(made: Path) -> None:
    models = synthetic_models.models("car", made.parent / "tree")
    assert models.training == (1, 3)
    assert models.unseen == (4, 5)
    assert models.stretched == (5,)
    assert sorted(path.name for path in (made / PASCAL3D / "CAD" / "car").iterdir()) == [
        "01.off", "03.off", "04.off", "05.off",
    ]  # fmt: skip
    structs = scipy.io.loadmat(made / PASCAL3D / "CAD" / "car.mat")["car"][0]
    assert [model["vertices"].size > 0 for model in structs] == [True, False, True, True, True]
    np.testing.assert_array_equal(structs[3]["vertices"], models.cads[4].vertices)


def test_truth_of_given_cads_is_exact(made: Path) -> None:
    """The CAD files written beside them, seen by the annotated cameras, fill the annotated boxes."""
    cads, broken, _ = read_cads(made / PASCAL3D, "car")
    assert not broken
    shown = {}
    annotations = [path for path in made.rglob("*.mat") if path.parent.parent.name.lower() == "annotations"]
    assert len(annotations) == 4 + 1 + 5 * 3 + 1
    for path in annotations:
        record = read_objects(path)[0]
        pose = object_pose(record, str(path))
        vertices, faces = cads[pose.cad_index]
        folder = {"Annotations": "Images", "annotations": "images"}[path.parent.parent.name]
        photo = path.parents[2] / folder / path.parent.name / f"{path.stem}.JPEG"
        with Image.open(photo) as file:
            width, height = file.size
        mask = coverage(
            cam_from_obj(torch.as_tensor(vertices).double(), torch.as_tensor(pose.viewpoint)),
            torch.as_tensor(faces).long(),
            torch.tensor(float(pose.focal_px), dtype=torch.float64),
            torch.as_tensor(pose.principal_point),
            (height, width),
        ).numpy()
        rows, columns = np.nonzero(mask)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(pose.bbox, found, atol=1.6)
        shown[path.stem] = pose.cad_index + 1
    with (made / OOD_CV / "shifts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * CONFIG.ood_per_category
    for row in rows:
        number = shown.pop(row["name"])
        expected = {4: "unseen CAD", 5: "stretched CAD"} if row["nuisance"] == "shape" else {1: None, 3: None}
        assert number in expected
        assert expected[number] in (None, row["shift"])
    assert {row["shift"] for row in rows if row["nuisance"] == "weather"} == {"fog", "rain", "snow"}
    assert set(shown.values()) <= {1, 3}


def test_listed_viewpoints_are_dealt_round(made: Path) -> None:
    lists = made.parent / "lists"
    photos = [Sample(CONFIG, made, "train", "car", index, None, lists) for index in range(4)]
    degrees = np.array([np.rad2deg(photo.angles) for photo in photos])
    # within half a degree of the two listed ones in range, each twice; the third looks from too high
    assert sorted(np.round(degrees[:, 1]).tolist()) == pytest.approx([5, 5, 20, 20], abs=1)
    assert (np.abs(degrees[:, 0] - np.where(degrees[:, 1] < 10, 10, 200)) <= 0.5).all()
    assert np.abs(degrees[:, 2]).max() <= 3.5
    pose = Sample(CONFIG, made, "pose", "car", 0, None, lists)
    assert not -10 <= np.rad2deg(pose.angles[1]) <= 50


def test_test_photos_take_the_listed_viewpoints_that_lie_apart(tmp_path: Path) -> None:
    front = [f"{azimuth % 360},10,0" for azimuth in range(-30, 31)]
    _write_lists(tmp_path / "lists", [*front, "90,10,0", "180,10,0", "270,10,0"])
    config = SyntheticConfig(categories=("car",))

    def azimuths(split: str, count: int) -> np.ndarray:
        samples = [Sample(config, tmp_path, split, "car", k, None, tmp_path / "lists") for k in range(count)]
        return np.rad2deg([sample.angles[0] for sample in samples]).round() % 360

    for split in ("val", "iid"):
        first = azimuths(split, 4)
        assert {90, 180, 270} < set(first)
        assert len(set(azimuths(split, 64))) > 55  # each once, to the half degree that is added
        np.testing.assert_array_equal(azimuths(split, 9)[:4], first)  # a larger set begins with a smaller one
    assert (np.cos(np.deg2rad(azimuths("train", 64))) > 0.8).sum() == 61  # training keeps the list's shares


def test_same_bytes_on_two_workers(made: Path, tmp_path: Path) -> None:
    tree, lists = made.parent / "tree", made.parent / "lists"
    again = make_data(CONFIG, tmp_path / "two", cad_root=tree, viewpoints=lists, workers=2)
    files = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()) == files
    assert filecmp.cmpfiles(made, again, files, shallow=False) == (files, [], [])


def test_other_cads_or_lists_are_another_set(made: Path, tmp_path: Path) -> None:
    tree, lists = made.parent / "tree", made.parent / "lists"
    assert make_data(CONFIG, made, cad_root=tree, viewpoints=lists, workers=1) == made
    with pytest.raises(ValueError, match=r"cads: .* -> absent"):
        make_data(CONFIG, made, viewpoints=lists, workers=1)
    _write_lists(tmp_path / "lists", ["11,5,359"])
    with pytest.raises(ValueError, match="viewpoints: "):
        make_data(CONFIG, made, cad_root=tree, viewpoints=tmp_path / "lists", workers=1)


def test_bad_sources_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="looks like none of the known datasets; expected PASCAL3D"):
        make_data(CONFIG, out, cad_root=tmp_path, workers=1)
    _write_tree(tmp_path, (1, 2))
    with pytest.raises(ValueError, match="one level too high"):
        make_data(CONFIG, out, cad_root=tmp_path.parent, workers=1)
    for category, match in (
        ("bus", r"no CAD model of bus: expected .*01\.off"),
        ("kite", "unknown category"),
    ):
        with pytest.raises(ValueError, match=match):
            make_data(SyntheticConfig(categories=(category,)), out, cad_root=tmp_path, workers=1)
    (tmp_path / "CAD" / "car" / "02.off").write_text("OFF\n3 1 0\n")
    with pytest.raises(ValueError, match=r"02\.off .* cut short"):
        make_data(CONFIG, out, cad_root=tmp_path, workers=1)
    with pytest.raises(ValueError, match=r"train\.csv cannot be read"):
        make_data(CONFIG, out, viewpoints=tmp_path, workers=1)
    for text, match in (
        ("x\nImages/car_imagenet/a.JPEG,1,2,3,4,0,1,2\n", "line 2"),
        ("x\n\na.JPEG,1,2,3,4,0,1,2,3\n", "line 3"),
        ("x\nImages/car_imagenet/a.JPEG,1,2,3,4,0,1,2,nan\n", "line 2"),
        ("x\nImages/bus_imagenet/a.JPEG,1,2,3,4,0,1,2,3\n", "has no viewpoint of car"),
    ):
        for name in synthetic_viewpoints.LISTS:
            (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=match):
            make_data(CONFIG, out, viewpoints=tmp_path, workers=1)
        synthetic_viewpoints._read.cache_clear()
    assert not out.exists()


def test_octave_reads_what_scipy_wrote(made: Path) -> None:
    octave = shutil.which("octave")
    if octave is None:
        pytest.skip("octave is not installed")
    path = next((made / PASCAL3D / "Annotations" / "car_imagenet").glob("*.mat"))
    code = f"load('{path}'); printf('%.17g', record.objects(1).viewpoint.azimuth)"
    printed = subprocess.run([octave, "--no-gui", "--quiet", "--eval", code], capture_output=True, check=True)
    record = scipy.io.loadmat(path, simplify_cells=True)["record"]
    assert float(printed.stdout) == record["objects"]["viewpoint"]["azimuth"]


@needs_cads
@pytest.mark.parametrize("category", CATEGORIES)
def test_a_real_cad_of_each_category(category: str) -> None:
    """Parts of two models of the category, a photo of each, and its outline the mask's."""
    cads, *_ = read_cads(RELEASE, category)
    for vertices, faces in sorted(cads.values(), key=lambda cad: len(cad[1]))[:2]:
        cad = with_parts(vertices, faces, category)
        assert np.isfinite(cad.corner_normals).all()
        view = frame(cad, np.deg2rad([40, 20, 5]), (90, 90), 0.8, (0.5, 0.5))
        picture = np.zeros((90, 90, 3))
        cutout = render(cad, view, np.random.default_rng(0))
        cutout.over(picture)
        (row, column), (height, width) = cutout.corner, cutout.alpha.shape
        inside = view.mask(cad)[row : row + height, column : column + width]
        assert cutout.alpha[inside].mean() > 0.75
        assert np.isfinite(picture).all()
        assert picture[row : row + height, column : column + width][inside].std() > 0.02


@pytest.mark.skipif(not LISTS.is_dir(), reason=f"needs the real viewpoint lists at {LISTS}")
def test_real_lists_cover_every_category() -> None:
    for name in synthetic_viewpoints.LISTS:
        for category in CATEGORIES:
            assert len(synthetic_viewpoints.listed_viewpoints(LISTS, name, category)) > 400


@pytest.mark.skipif(not LISTS.is_dir(), reason=f"needs the real viewpoint lists at {LISTS}")
@pytest.mark.parametrize("seed", range(2))
def test_no_photo_s_pose_is_a_good_guess_on_real_lists(seed: int) -> None:
    config = SyntheticConfig(categories=CATEGORIES, seed=seed)
    counts = {"val": config.val_per_category, "iid": config.iid_per_category}
    for split in ("val", "iid", *NUISANCES):
        viewpoints = np.array(
            [
                Sample(config, Path(), split, category, index, None, LISTS).angles
                for category in shown(split, CATEGORIES)
                for index in range(counts.get(split, config.ood_per_category))
            ]
        )
        assert synthetic_viewpoints.constant_pose_shares(viewpoints, viewpoints).max() < 0.15, split


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_list_of_viewpoints_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Neither waited for nor read without end."""
    make(tmp_path / "train.csv")
    with pytest.raises(
        ValueError, match=r"--viewpoints: .*train\.csv is .*; want a folder with train\.csv and"
    ):
        synthetic_viewpoints.fingerprint(tmp_path)


@pytest.mark.parametrize("size", [0.0, 0.01, 20.0])
def test_a_model_of_no_size_is_refused(tmp_path: Path, size: float) -> None:
    folder = tmp_path / "CAD" / "car"
    folder.mkdir(parents=True)
    half = size / 2
    (folder / "03.off").write_text(f"OFF\n3 1 0\n{-half} 0 0\n{half} 0 0\n0 0 0\n3 0 1 2\n")
    with pytest.raises(ValueError, match=r"CAD 03 of car in .* has a diagonal of"):
        synthetic_models.models("car", tmp_path)
