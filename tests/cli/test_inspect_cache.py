"""`ntdm inspect`: what the pictures and tables say is what the cache holds."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ntdm import inspect_cache
from ntdm.cli import app
from ntdm.reports import diagnostics
from ntdm.viz import pictures


@pytest.fixture(scope="module")
def cache(tiny, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("inspect")
    tiny.write_cache(root, "pascal3d/val", count=5)
    return tiny.write_cache(root, "occluded_pascal3d/L1", categories=("car",), count=3)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def has(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(-1).sum())


def test_command_writes_pictures_and_says_what_is_there(cache, tmp_path):
    result = CliRunner().invoke(app, ["inspect", str(cache), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.strip().splitlines()
    assert lines[-1] == str(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        f"{key}{end}.png"
        for key in ("occluded_pascal3d/L1/car", "pascal3d/val/car", "pascal3d/val/sofa")
        for end in ("", "_viewpoints")
    ]
    assert "01: 3, 02: 2" in result.stdout
    assert "nothing was dropped" in result.stdout


def test_survey_is_what_the_file_holds(cache, tmp_path):
    path = cache / "pascal3d" / "val" / "car.h5"
    found = inspect_cache.survey(path, tmp_path)
    assert (found.key, found.image_size, found.cads, found.dropped) == (
        "pascal3d/val/car",
        (64, 64),
        (0, 1),
        {},
    )
    assert found.viewpoint.shape == (5, 4)
    assert found.samples_by_cad() == {"01": 3, "02": 2}
    # The photo's ellipsoid has 642 vertices, its CAD 42: the masks differ at the rim only.
    assert 0.85 < found.least_iou < 1
    sheet = pixels(found.sheet)
    assert has(sheet, pictures.VISIBLE_COLOUR) > 1000
    assert has(sheet, inspect_cache.BOX_COLOUR) > 1000


def test_occluders_are_shown_where_there_are_any(cache, tmp_path):
    plain, occluded = (
        pixels(inspect_cache.survey(cache / key / "car.h5", tmp_path).sheet)
        for key in ("pascal3d/val", "occluded_pascal3d/L1")
    )
    assert (
        has(occluded, inspect_cache.OCCLUDER_COLOUR) > 1000 > has(plain, inspect_cache.OCCLUDER_COLOUR) == 0
    )
    assert has(occluded, pictures.OCCLUDED_COLOUR) > 1000


def test_a_wrong_camera_shows_in_the_number(cache, tmp_path):
    path = tmp_path / "car.h5"
    path.write_bytes((cache / "pascal3d" / "val" / "car.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["viewpoint"][:, 2] += 1.0
    assert inspect_cache.survey(path, tmp_path).least_iou < 0.8


def test_the_same_file_gives_the_same_pictures(cache, tmp_path):
    path = cache / "pascal3d" / "val" / "sofa.h5"
    for out in ("a", "b"):
        inspect_cache.run([path], tmp_path / out, diagnostics.draw_viewpoints)
    for made in (tmp_path / "a").rglob("*.png"):
        assert made.read_bytes() == (tmp_path / "b" / made.relative_to(tmp_path / "a")).read_bytes()


def test_dropped_samples_and_missing_cads_are_told(cache, tmp_path):
    path = tmp_path / "car.h5"
    path.write_bytes((cache / "pascal3d" / "val" / "car.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["dropped"] = json.dumps({"image_missing": 7, "distance": 2})
        file["cad_index"][:] = -1
        file["viewpoint"][0, 3] = 99.0  # as far as annotations reach
    text = inspect_cache.run([path], tmp_path / "out", diagnostics.draw_viewpoints)
    assert "      7  image_missing" in text and "      2  distance" in text
    assert "none: 5" in text and "no CAD" in text


def test_a_file_without_samples_is_said_to_have_none(tiny, tmp_path):
    path = tiny.write_cache(tmp_path / "cache", "pascal3d/val", categories=("car",), count=0, latents=False)
    text = inspect_cache.run([path], tmp_path / "out", diagnostics.draw_viewpoints)
    assert text.splitlines()[1].split()[:2] == ["pascal3d/val/car", "0"]
    assert [made.name for made in (tmp_path / "out").rglob("*.png")] == ["car_viewpoints.png"]


def test_bad_input_is_one_sentence(cache, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no cache file \(.h5\) in .*empty"):
        inspect_cache.run([tmp_path / "empty"], tmp_path / "out", diagnostics.draw_viewpoints)
    path = tmp_path / "car.h5"
    path.write_bytes((cache / "pascal3d" / "val" / "car.h5").read_bytes())
    for damage, message in (
        (("cad_index", 2, 6), "cad_index of sample photo_2 is 6, which is not in cad/"),
        (("viewpoint", 1, np.nan), "viewpoint of sample photo_1 is .* not finite"),
    ):
        name, i, value = damage
        with h5py.File(path, "r+") as file:
            kept = file[name][i]
            file[name][i] = value
        with pytest.raises(ValueError, match=message):
            inspect_cache.run([path], tmp_path / "out", diagnostics.draw_viewpoints)
        with h5py.File(path, "r+") as file:
            file[name][i] = kept
    with h5py.File(path, "r+") as file:
        file.attrs["category"] = "../../car"
    with pytest.raises(ValueError, match="want names of files"):
        inspect_cache.run([path], tmp_path / "out", diagnostics.draw_viewpoints)
    assert not (tmp_path / "out").exists()


def test_a_turned_box_is_drawn(cache, tmp_path):
    path = tmp_path / "car.h5"
    path.write_bytes((cache / "pascal3d" / "val" / "car.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["bbox"][:] = file["bbox"][:][:, [2, 3, 0, 1]]
    turned = pixels(inspect_cache.survey(path, tmp_path / "out").sheet)
    assert (
        turned == pixels(inspect_cache.survey(cache / "pascal3d" / "val" / "car.h5", tmp_path).sheet)
    ).all()


def test_several_files_in_one_call(cache, tmp_path):
    files = [cache / "pascal3d" / "val" / "car.h5", cache / "occluded_pascal3d" / "L1" / "car.h5"]
    result = CliRunner().invoke(app, ["inspect", *map(str, files), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert (
        sorted(path.stem for path in (tmp_path / "out").rglob("*.png"))
        == ["car", "car"] + ["car_viewpoints"] * 2
    )
    (tmp_path / "car.h5").write_bytes(files[0].read_bytes())
    with pytest.raises(ValueError, match=r"car\.h5 are both pascal3d/val/car: give each an --out"):
        inspect_cache.run([*files, tmp_path / "car.h5"], tmp_path / "out", diagnostics.draw_viewpoints)
