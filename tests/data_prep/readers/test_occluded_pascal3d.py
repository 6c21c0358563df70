"""Occluded PASCAL3D+: occluders follow the photo through the crop; poses come from PASCAL3D+."""

from pathlib import Path

import numpy as np
import pytest

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.samples import read_masks
from ntdm.io.cache import CacheFile

CONFIG = PrepConfig(image_size=(64, 96), scale=0.3)
HEIGHT, WIDTH = raw.PHOTO_SIZE


class Opener:
    """What a pickle could do when it is loaded."""

    def __reduce__(self):
        return (Path.touch, (Path("pickle_was_run"),))


def write_masks(path: Path, **changes) -> None:
    mask = np.full((HEIGHT, WIDTH), 12, np.uint8)  # decoded from a JPEG: never quite 0 or 255
    mask[30:50, 30:80] = 240
    occluder = np.zeros((HEIGHT, WIDTH), bool)
    occluder[:, 60:] = True
    values = {"mask": mask, "occluder_mask": occluder, "occluder_level": "G", "category": "car"} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **values)


@pytest.fixture
def roots(tmp_path) -> tuple[Path, Path]:
    pascal3d = raw.write_pascal3d(tmp_path / "pascal3d")
    root = tmp_path / "occluded"
    (root / "lists").mkdir(parents=True)
    for level in (1, 3):
        folder = f"carFGL{level}_BGL{level}"
        names = [f"n1_{i}" for i in range(3)]
        (root / "lists" / f"{folder}.txt").write_text("\n".join(f"{name}.JPEG" for name in names))
        for i, name in enumerate(names):
            raw.write_photo(root / "images" / folder / f"{name}.JPEG", seed=50 * level + i)
            write_masks(root / "annotations" / folder / f"{name}.npz")
    return root, pascal3d


def prepare(roots: tuple[Path, Path], **options):
    root, pascal3d = roots
    return prep_data.run(
        "occluded-pascal3d", root, root.parent / "cache", CONFIG, pascal3d=pascal3d, **options
    )


def test_masks_go_through_the_photos_map(roots):
    report = prepare(roots)
    assert [file.key for file in report.files] == ["occluded_pascal3d/L1/car", "occluded_pascal3d/L3/car"]
    assert [file.samples for file in report.files] == [3, 3]
    with CacheFile(report.paths[1]) as file:
        assert file["name"] == ["n1_0_00", "n1_1_00", "n1_2_00"]
        assert file["source"][0] == "images/carFGL3_BGL3/n1_0.JPEG"
        zoom = 0.3  # distance 5
        # Corner-origin frame: the photo's column 60 begins at x = 60; px = 52.25 in MATLAB's frame.
        edge = 48 + zoom * (60 - 51.75)
        right = 48 + zoom * (WIDTH - 51.75)
        x = np.arange(96) + 0.5
        top, bottom = 32 - zoom * 38, 32 + zoom * (HEIGHT - 38)
        y = np.arange(64) + 0.5
        want = ((y >= top) & (y < bottom))[:, None] & ((x >= edge) & (x < right))
        np.testing.assert_array_equal(file.read("occluder_mask", 0).astype(bool), want)
        amodal, occluder = file["amodal_mask"].astype(bool), file["occluder_mask"].astype(bool)
        np.testing.assert_array_equal(file["visible_mask"].astype(bool), amodal & ~occluder)
        assert (amodal & occluder).any() and file["visible_mask"].any()
        source = file.read("source_mask", 0).astype(bool)
        assert source.sum() == pytest.approx(20 * 50 * zoom**2, rel=0.1)
        assert file["images"].any((1, 2, 3)).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"occluder_mask": np.zeros((3, 4), bool)}, "mask_unreadable"),
        ({"mask": np.array(None, dtype=object)}, "mask_unreadable"),
        ({"mask": np.array([Opener()], dtype=object)}, "mask_unreadable"),
        (None, "mask_missing"),
    ],
)
def test_bad_masks_are_counted_and_no_pickle_is_run(roots, changes, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = roots[0] / "annotations" / "carFGL1_BGL1" / "n1_1.npz"
    if changes is None:
        path.unlink()
    else:
        write_masks(path, **changes)
    report = prepare(roots, splits=["L1"])
    assert (report.files[0].samples, report.files[0].dropped) == (2, {reason: 1})
    assert not (tmp_path / "pickle_was_run").exists()


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_cut_mask_file(roots, keep):
    path = roots[0] / "annotations" / "carFGL1_BGL1" / "n1_1.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert prepare(roots, splits=["L1"]).files[0].dropped == {"mask_unreadable": 1}


def test_mixed_levels(roots):
    root = roots[0]
    for kind in ("images", "annotations"):
        (root / kind / "carFGL3_BGL3").rename(root / kind / "carFGL1_BGL2")
    (root / "lists" / "carFGL3_BGL3.txt").rename(root / "lists" / "carFGL1_BGL2.txt")
    assert [file.key.split("/")[1] for file in prepare(roots).files] == ["L1", "FGL1_BGL2"]
    with pytest.raises(ValueError, match=r"carFGL2_BGL2\.txt"):
        prepare(roots, categories=["car"])
    (file,) = prepare(roots, categories=["car"], splits=["FGL1_BGL2"], overwrite=True).files
    assert (file.key, file.samples) == ("occluded_pascal3d/FGL1_BGL2/car", 3)
    with pytest.raises(ValueError, match=r"carFGL2_BGL3\.txt"):
        prepare(roots, categories=["car"], splits=["FGL2_BGL3"])


def test_missing_pose(roots):
    (roots[1] / "Annotations" / "car_imagenet" / "n1_0.mat").unlink()
    assert prepare(roots, splits=["L1"]).files[0].dropped == {"annotation_missing": 1}


def test_wrong_calls(roots, tmp_path):
    with pytest.raises(ValueError, match="unknown split 'L4'"):
        prepare(roots, splits=["L4"])
    with pytest.raises(ValueError, match=r"busFGL1_BGL1\.txt"):
        prepare(roots, categories=["bus"])
    with pytest.raises(ValueError, match=r"looks like PASCAL3D\+; expected Occluded PASCAL3D\+ at"):
        prepare((roots[1], roots[1]))
    with pytest.raises(ValueError, match=r"looks like Occluded PASCAL3D\+; expected PASCAL3D\+ at"):
        prepare((roots[0], roots[0]))
    with pytest.raises(ValueError, match="there is no folder"):
        prepare((roots[0], tmp_path / "nowhere"))


def test_real_annotation(real_data):
    path = real_data / "OccludedPASCAL3D" / "annotations" / "bottleFGL1_BGL1" / "n02823428_905.npz"
    with np.load(path, allow_pickle=False) as archive:
        size = archive["mask"].shape
    occluder, amodal = read_masks(path, size)
    share = (occluder & amodal).sum() / amodal.sum()
    assert share == pytest.approx(0.209, abs=0.001)  # its published level is 20 to 40 %
