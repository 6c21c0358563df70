"""Synthetic data: models, the annotated camera, raw formats, determinism, resumption."""

import colorsys
import filecmp
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from ntdm.config.protocol import CATEGORIES, NUISANCES
from ntdm.config.stages import SyntheticConfig
from ntdm.data_prep import make_data as synthetic
from ntdm.data_prep.make_data import make_data
from ntdm.data_prep.synthetic import models as synthetic_models
from ntdm.data_prep.synthetic import scene, texture
from ntdm.data_prep.synthetic.draws import CELLS, HeldOutDraws, TrainingDraws
from ntdm.data_prep.synthetic.photo import OCCLUDED, OOD_CV, PASCAL3D, SPLITS, Sample
from ntdm.data_prep.synthetic.raw_files import off_text
from ntdm.data_prep.synthetic.render import View, frame, render, visible_anchors
from ntdm.data_prep.synthetic.solids import box
from ntdm.data_prep.synthetic.viewpoints import constant_pose_shares
from ntdm.io.outputs import atomic_path

CONFIG = SyntheticConfig(
    categories=("car", "chair"),
    train_per_category=4,
    val_per_category=2,
    ood_per_category=4,
    iid_per_category=1,
    image_size=80,
    seed=5,
)


TRAINING_CADS = 4  # of the six built-in ones


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(CONFIG, tmp_path_factory.mktemp("synthetic") / "out", workers=1)


def _files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def _record(path: Path) -> dict:
    return scipy.io.loadmat(path, simplify_cells=True)["record"]


def _view(record: dict) -> View:
    v = record["objects"]["viewpoint"]
    angles = np.deg2rad([v["azimuth"], v["elevation"], v["theta"]])
    size = int(record["imgsize"][1]), int(record["imgsize"][0])
    return View(np.array([*angles, v["distance"]]), np.array([v["px"], v["py"]]) - 0.5, size)


@pytest.mark.parametrize("category", synthetic_models.RECIPES)
def test_models_follow_pascal3d(category: str) -> None:
    cads = synthetic_models.models(category).cads
    assert len(cads) >= 8
    for cad in cads.values():
        low, high = cad.vertices.min(0), cad.vertices.max(0)
        np.testing.assert_allclose(low + high, 0, atol=3e-5)  # OFF's five decimals
        assert np.linalg.norm(high - low) == pytest.approx(1, abs=3e-5)
        assert np.isfinite(cad.corner_normals).all()
        # left-right symmetric: every vertex has its mirror image
        mirrored = cad.vertices * [-1, 1, 1]
        nearest = np.linalg.norm(cad.vertices[:, None] - mirrored[None], axis=-1).min(1)
        assert nearest.max() < 1e-4
        assert all(cad.anchors[name][0] < 0 for name in cad.anchors if "left" in name)


def test_models_of_a_category_differ() -> None:
    cads = synthetic_models.models("car").cads
    view = frame(cads[1], np.deg2rad([70, 20, 0]), (96, 96), 0.9, (0.5, 0.5))
    masks = [view.mask(cad) for cad in cads.values()]
    for first in range(len(masks)):
        for second in range(first):
            union, both = masks[first] | masks[second], masks[first] & masks[second]
            assert both.sum() / union.sum() < 0.95


def test_box_is_closed_and_outward() -> None:
    vertices, faces = box((-1, -2, -3), (1, 2, 3))
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    assert np.einsum("fi,fi->", a, np.cross(b, c)) / 6 == pytest.approx(48)


def test_frame_fills_the_photo_and_keeps_the_object_inside() -> None:
    cad = synthetic_models.built_in("chair")[0]
    view = frame(cad, np.deg2rad([200, 30, 12]), (90, 120), 0.7, (0.1, 0.9))
    xy, _ = view.project(cad.vertices)
    low, high = xy.min(0), xy.max(0)
    assert max((high - low) / [120, 90]) == pytest.approx(0.7, abs=1e-3)
    assert (low > 0).all()
    assert (high < [120, 90]).all()


@pytest.mark.parametrize("kind", [TrainingDraws, HeldOutDraws])
def test_training_and_tests_draw_from_disjoint_cells(kind: type[TrainingDraws]) -> None:
    rng = kind(np.random.PCG64(0))
    share = (rng.uniform(2, 6, 4000) - 2) / 4
    counts = np.histogram(share, CELLS, (0, 1))[0]
    assert counts[1 - kind.odd :: 2].sum() == 0
    assert counts[kind.odd :: 2].min() > 400  # of 500
    assert type(rng.spawn(1)[0]) is kind
    hues = [colorsys.rgb_to_hsv(*texture.random_colour(rng).tolist()) for _ in range(400)]
    coloured = np.array([hue for hue, saturation, _ in hues if saturation > 0.4])
    assert (
        np.floor(coloured * CELLS) % 2 == kind.odd
    ).mean() > 0.98  # but for colours of three equal numbers


def test_each_split_draws_its_looks_from_its_own_cells() -> None:
    for split in SPLITS:
        rng = Sample(CONFIG, Path(), split, "car", 0).draws("look")
        assert isinstance(rng, HeldOutDraws) == (split != "train")


def test_rendered_alpha_is_the_mask() -> None:
    cad = synthetic_models.built_in("aeroplane")[2]
    view = frame(cad, np.deg2rad([50, 20, -5]), (80, 100), 0.8, (0.4, 0.6))
    picture = np.zeros((80, 100, 3))
    cutout = render(cad, view, np.random.default_rng(0))
    cutout.over(picture)
    (row, column), (height, width) = cutout.corner, cutout.alpha.shape
    inside = view.mask(cad)[row : row + height, column : column + width]
    assert inside.sum() == view.mask(cad).sum()
    assert cutout.alpha[inside].mean() > 0.9
    assert cutout.alpha[~inside].mean() < 0.1
    assert picture.max() <= 1


def test_texture_families_are_disjoint_and_bounded() -> None:
    assert not set(texture.SEEN) & set(texture.UNSEEN)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 3))
    for family in (*texture.SEEN.values(), *texture.UNSEEN.values()):
        first, again = family(points, np.random.default_rng(3)), family(points, np.random.default_rng(3))
        assert first.shape == (500, 3)
        assert np.array_equal(first, again)
        assert first.min() > -0.3
        assert first.max() < 1.3


def test_annotation_is_the_camera_of_the_photo(made: Path) -> None:
    """The annotated CAD, projected with the annotated camera, fills the annotated box."""
    root = made / PASCAL3D
    for path in sorted((root / "Annotations").rglob("*.mat")):
        record = _record(path)
        thing, category = record["objects"], path.parent.name.removesuffix("_imagenet")
        photo = root / "Images" / path.parent.name / record["filename"]
        with Image.open(photo) as file:
            assert file.size == tuple(record["imgsize"][:2])
        view, cad = _view(record), synthetic_models.built_in(category)[int(thing["cad_index"]) - 1]
        assert thing["class"] == category
        assert (thing["viewpoint"]["viewport"], thing["viewpoint"]["focal"]) == (3000, 1)
        assert 1 <= thing["cad_index"] <= TRAINING_CADS
        rows, columns = np.nonzero(view.mask(cad))
        # a pixel whose centre is covered spans [column, column + 1]; MATLAB's frame is half a pixel further
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) + 0.5
        np.testing.assert_allclose(thing["bbox"], found, atol=1.6)
        statuses = [anchor["status"] for anchor in thing["anchors"].values()]
        assert set(statuses) <= {1, 2, 4}
        assert 1 in statuses
        elevation, theta = thing["viewpoint"]["elevation"], thing["viewpoint"]["theta"]
        assert -10 <= elevation <= 50
        assert abs(theta) <= 15


def test_left_anchor_is_left_of_right_anchor_from_the_front() -> None:
    cad = synthetic_models.built_in("car")[0]
    view = frame(cad, np.deg2rad([0, 10, 0]), (90, 120), 0.7, (0.5, 0.5))
    found = visible_anchors(cad, view, render(cad, view, np.random.default_rng(0)))
    assert found["left_front_light"][0][0] < found["right_front_light"][0][0]
    assert found["left_front_light"][1] == 1
    assert found["left_back_trunk"][1] == 2


def test_cads_on_disk(made: Path) -> None:
    structs = scipy.io.loadmat(made / PASCAL3D / "CAD" / "car.mat")["car"]
    cads = synthetic_models.models("car").cads
    assert structs.shape == (1, len(cads))
    for number, cad in cads.items():
        lines = (made / PASCAL3D / "CAD" / "car" / f"{number:02d}.off").read_text().split("\n")
        assert lines[0] == "OFF"
        count = int(lines[1].split()[0])
        vertices = np.array([line.split() for line in lines[2 : 2 + count]], float)
        faces = np.array([line.split()[1:] for line in lines[2 + count : -1]], int)
        model = structs[0, number - 1]
        np.testing.assert_array_equal(vertices, cad.vertices)
        np.testing.assert_array_equal(faces, cad.faces)
        np.testing.assert_array_equal(model["vertices"], vertices)
        np.testing.assert_array_equal(model["faces"].astype(int), faces + 1)
        assert model["left_front_wheel"].shape == (1, 3)
    assert off_text(cads[1]).endswith("\n")


def test_occluded_ratios_are_in_their_ranges(made: Path) -> None:
    checked = 0
    for level in (1, 2, 3):
        for category in CONFIG.categories:
            folder = f"{category}FGL{level}_BGL{level}"
            names = (made / OCCLUDED / "lists" / f"{folder}.txt").read_text().split()
            assert names
            for name in names:
                path = made / OCCLUDED / "annotations" / folder / name.replace(".JPEG", ".npz")
                with np.load(path, allow_pickle=False) as file:
                    values = {key: file[key] for key in file.files}
                with Image.open(made / OCCLUDED / "images" / folder / name) as photo:
                    assert photo.size[::-1] == values["mask"].shape
                amodal, occluder = values["mask"] > 127, values["occluder_mask"]
                assert values["occluder_mask"].dtype == bool
                assert values["occluder_box"].dtype == np.int32
                assert (made / str(values["source"])[3:]).exists()
                low, high = scene.FOREGROUND[level]
                assert low < occluder[amodal].mean() < high
                low, high = scene.BACKGROUND[level]
                assert low < occluder[~amodal].mean() < high
                record = _record(
                    made / PASCAL3D / "Annotations" / f"{category}_imagenet" / name.replace(".JPEG", ".mat")
                )
                cad = synthetic_models.built_in(category)[int(record["objects"]["cad_index"]) - 1]
                # the annotation's float64 camera is the one that made the mask
                assert (_view(record).mask(cad) != amodal).mean() < 1e-3
                checked += 1
    assert checked >= 10  # of 12


def test_ood_cv_lists_and_shifts(made: Path) -> None:
    root = made / OOD_CV
    train = (root / "lists" / "TrainSet.txt").read_text().split()
    assert len(train) == 8
    for category in CONFIG.categories:
        everything = (root / "lists" / f"{category}_all.txt").read_text().splitlines()
        assert len(everything) == 5 * 4 + 1
        for nuisance in ("shape", "pose", "texture", "context", "weather"):
            lines = (root / "lists" / f"{category}_{nuisance}.txt").read_text().splitlines()
            assert len(lines) == 4
            assert set(lines) < set(everything)
            for line in lines:
                name, index = line.split()
                assert index == "0"
                assert name not in train
                assert (root / "images" / category / f"{name}.JPEG").exists()
                thing = _record(root / "annotations" / category / f"{name}.mat")["objects"]
                assert (thing["cad_index"] > TRAINING_CADS) == (nuisance == "shape")
                elevation, theta = thing["viewpoint"]["elevation"], thing["viewpoint"]["theta"]
                unseen = not -10 <= elevation <= 50 and abs(theta) >= 15
                assert unseen == (nuisance == "pose")


def test_same_bytes_on_two_workers(made: Path, tmp_path: Path) -> None:
    again = make_data(CONFIG, tmp_path / "two", workers=2)
    files = _files(made)
    assert _files(again) == files
    _, different, errors = filecmp.cmpfiles(made, again, [str(path) for path in files], shallow=False)
    assert not different
    assert not errors


def test_resume_skip_refuse_overwrite(tmp_path: Path) -> None:
    config = SyntheticConfig(
        categories=("car",),
        train_per_category=3,
        val_per_category=1,
        ood_per_category=0,
        iid_per_category=0,
        image_size=64,
    )
    out = make_data(config, tmp_path / "out", workers=1)
    files = {path: (out / path).read_bytes() for path in _files(out)}
    photos = sorted((out / PASCAL3D).rglob("*.JPEG"))
    kept, lost = photos[0], photos[1]
    marker = out / synthetic.MARKER

    stamp = kept.stat().st_mtime_ns
    make_data(config, out, workers=1)
    assert kept.stat().st_mtime_ns == stamp  # finished: skipped

    # as a kill leaves it: samples missing, half a file under a temporary name, no finished marker
    lost.unlink()
    (out / PASCAL3D / "Annotations" / "car_imagenet" / f"{lost.stem}.mat").unlink()
    with pytest.raises(FileNotFoundError), atomic_path(lost.parent / "x.JPEG") as half:
        pass
    half.write_bytes(b"half")
    marker.write_text(marker.read_text().replace("true", "false"))
    make_data(config, out, workers=1)
    assert {path: (out / path).read_bytes() for path in _files(out)} == files
    assert kept.stat().st_mtime_ns == stamp

    # a tree lost after the set was finished is made again
    shutil.rmtree(out / OCCLUDED)
    make_data(config, out, workers=1)
    assert {path: (out / path).read_bytes() for path in _files(out)} == files

    other = SyntheticConfig(**{**config.__dict__, "seed": 1})
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        make_data(other, out, workers=1)
    make_data(other, out, workers=1, overwrite=True)
    assert lost.read_bytes() != files[lost.relative_to(out)]


def test_foreign_folder_and_unknown_category_are_refused(tmp_path: Path) -> None:
    (tmp_path / PASCAL3D).mkdir()
    with pytest.raises(ValueError, match=re.escape("was not written by make-data")):
        make_data(CONFIG, tmp_path, workers=1)
    with pytest.raises(ValueError, match="'tvmonitor' has no built-in CAD models"):
        make_data(SyntheticConfig(categories=("tvmonitor",)), tmp_path / "new", workers=1)
    assert not (tmp_path / "new").exists()


def drawn(config: SyntheticConfig, split: str, count: int) -> np.ndarray:
    """Viewpoints [categories * count, 3] of a split's photos."""
    samples = [Sample(config, Path(), split, c, i) for c in config.categories for i in range(count)]
    return np.array([sample.angles for sample in samples])


def poses_all_over() -> np.ndarray:
    """Guesses [M, 3] five degrees apart, wherever one is close to photos of the prior."""
    sides = np.meshgrid(range(0, 360, 5), range(-10, 51, 5), range(-15, 16, 5))
    return np.deg2rad(np.stack([side.ravel() for side in sides], axis=1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("categories", [SyntheticConfig().categories, CATEGORIES])
def test_no_photo_s_pose_is_a_good_guess(categories: tuple[str, ...], seed: int) -> None:
    """On any split of the default sizes, all categories together."""
    config = SyntheticConfig(categories=categories, seed=seed)
    counts = {"train": 300, "val": config.val_per_category, "iid": config.iid_per_category}
    for split in SPLITS:
        viewpoints = drawn(config, split, counts.get(split, config.ood_per_category))
        assert constant_pose_shares(viewpoints, viewpoints).max() < 0.15, split


@pytest.mark.parametrize("split", ["train", "val", "pose"])
def test_no_pose_at_all_is_a_good_guess_of_many_photos(split: str) -> None:
    viewpoints = drawn(SyntheticConfig(), split, 1500)
    shares = constant_pose_shares(viewpoints, poses_all_over())
    assert 0.03 < shares.max() < 0.135  # 12 %; of the pose nuisance less


@pytest.mark.parametrize("seed", range(3))
def test_the_best_guess_of_the_training_photos_is_bad_in_the_tables(seed: int) -> None:
    """At the default sizes, L0 and the mean of the nuisances: a guess made without the test photos."""
    config = SyntheticConfig(seed=seed)
    guesses = poses_all_over()
    training = drawn(config, "train", config.train_per_category)
    guess = guesses[[constant_pose_shares(training, guesses).argmax()]]
    validation = drawn(config, "val", config.val_per_category)
    shifted = [drawn(config, nuisance, config.ood_per_category) for nuisance in NUISANCES]
    assert constant_pose_shares(validation, guess)[0] < 0.15
    assert constant_pose_shares(np.concatenate(shifted), guess)[0] < 0.15


def test_viewpoints_of_small_test_splits_cover_the_prior() -> None:
    config = SyntheticConfig()
    angles = np.rad2deg(
        [
            Sample(config, Path(), "val", category, k).angles
            for category in config.categories
            for k in range(50)
        ]
    )
    for column, (low, high) in zip(angles.T, ((0, 360), (-10, 50), (-15, 15)), strict=True):
        assert np.histogram(column, 6, (low, high))[0].min() >= 15  # of 25
    assert np.abs(np.corrcoef(angles.T) - np.eye(3)).max() < 0.2


def test_shares_of_constant_poses() -> None:
    apart = np.array([[0.0, 0, 0], [2.0, 0, 0], [4.0, 0, 0], [0.1, 0, 0]])
    assert constant_pose_shares(apart, apart).tolist() == [0.5, 0.25, 0.25, 0.5]
    assert constant_pose_shares(np.tile([1.0, 0.2, 0.1], (5, 1)), np.array([[1.0, 0.2, 0.1]])) == [1]
    # Each error by itself: 29 degrees of theta are right, 31 are wrong.
    tilted = np.deg2rad([[70.0, 10, 29], [70, 10, -31]])
    assert constant_pose_shares(tilted, np.deg2rad([[70.0, 10, 0]])) == [0.5]


@pytest.mark.parametrize("kind", range(4))
def test_weather_changes_the_photo_but_not_its_size(kind: int) -> None:
    picture = np.random.default_rng(0).random((40, 60, 3))
    stormy = scene.weather(picture, kind, np.random.default_rng(1))
    assert stormy.shape == picture.shape
    assert np.abs(np.clip(stormy, 0, 1) - picture).mean() > 0.05


OCTAVE = """
r = load("RECORD").record;
v = r.objects.viewpoint;
printf("%s %s %.17g %.17g %.17g %.17g %g %g\\n", class(v.focal), class(r.imgsize), v.azimuth, v.px, ...
       v.distance, v.viewport, r.objects.cad_index, r.imgsize(2));
m = load("CAD").car;
printf("%s %g %g %g %.17g\\n", class(m(1).faces), numel(m), size(m(1).faces, 1), min(m(1).faces(:)), ...
       m(1).vertices(1, 2));
"""


def test_whole_numbers_are_stored_as_matlab_stores_them(made):
    """Which is what readers trip over: the same field is of another type in another file."""
    path = min((made / PASCAL3D / "Annotations" / "car_imagenet").glob("*.mat"))
    record = scipy.io.loadmat(path)["record"][0, 0]
    view = record["objects"][0, 0]["viewpoint"][0, 0]
    kinds = [view[name].dtype.str for name in ("focal", "viewport", "azimuth")]
    assert kinds == ["|u1", "<u2", "<f8"]
    (models,) = scipy.io.loadmat(made / PASCAL3D / "CAD" / "car.mat")["car"]
    assert models[0]["faces"].dtype.kind == "u" and models[0]["faces"].min() == 1


@pytest.mark.skipif(shutil.which("octave-cli") is None, reason="Octave is not installed")
def test_octave_reads_the_mat_files(made, tmp_path):
    path = min((made / PASCAL3D / "Annotations" / "car_imagenet").glob("*.mat"))
    cad = made / PASCAL3D / "CAD" / "car.mat"
    (tmp_path / "read.m").write_text(OCTAVE.replace("RECORD", str(path)).replace("CAD", str(cad)))
    done = subprocess.run(["octave-cli", "--no-gui", tmp_path / "read.m"], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    record = _record(path)
    view, thing = record["objects"]["viewpoint"], record["objects"]
    assert first.split()[:2] == ["double", "double"]
    assert [float(word) for word in first.split()[2:]] == [
        view["azimuth"], view["px"], view["distance"], 3000, thing["cad_index"], record["imgsize"][1],
    ]  # fmt: skip
    (models,) = scipy.io.loadmat(cad)["car"]
    assert second.split()[0] == "double"
    assert [float(word) for word in second.split()[1:]] == [
        len(models), len(models[0]["faces"]), 1, models[0]["vertices"][0, 1],
    ]  # fmt: skip
