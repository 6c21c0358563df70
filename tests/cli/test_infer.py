"""Inference on photos: the files of a result, what they say together, and what is refused."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ntdm import infer
from ntdm.geometry.camera import cam_from_obj, project, rotation
from ntdm.io import photo as photos
from ntdm.viz import pictures

FILES = {"result.json", "amodal.png", "visible.png", "overlay.png", "mesh.obj", "mesh.mtl", "mesh.png"}
PHOTO = (70, 90)  # h, w


def write_photo(path: Path, tiny, size: tuple[int, int] = PHOTO) -> Path:
    viewpoint = torch.tensor([0.6, 0.3, 0.0, 5.0])
    photo, _ = tiny.render("car", viewpoint, torch.Generator().manual_seed(0))
    Image.fromarray(photo).resize(size[::-1]).save(path)
    return path


@pytest.fixture(scope="module")
def result(tiny, tiny_folder, tmp_path_factory) -> Path:
    """The folder of one photo's result; the box is off the photo's middle."""
    folder = tmp_path_factory.mktemp("infer")
    photo = write_photo(folder / "holiday.png", tiny)
    out = infer.run([photo], tiny_folder / "ntdm", folder / "out", (10.0, 5.0, 80.0, 60.0), tiny.INFER)
    assert out == folder / "out"
    return out / "holiday"


def test_files(result):
    assert {p.name for p in result.iterdir()} == FILES
    assert [p.name for p in result.parent.iterdir()] == ["holiday"]  # no temporary folder is left
    for name in ("amodal", "visible"):
        mask = np.asarray(Image.open(result / f"{name}.png"))
        assert mask.shape == PHOTO
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
    amodal, visible = (np.asarray(Image.open(result / f"{n}.png")) > 0 for n in ("amodal", "visible"))
    assert amodal.any()
    assert not (visible & ~amodal).any()
    assert np.asarray(Image.open(result / "overlay.png")).shape == (*PHOTO, 3)


def test_result_fields(tiny, result):
    said = json.loads((result / "result.json").read_text())
    assert (said["schema"], said["schema_version"]) == ("ntdm-result", 1)
    assert said["photo"] == "holiday.png"
    assert said["bbox"] == [10, 5, 80, 60]
    assert set(said["losses"]) == {"car", "sofa"}
    assert said["category"] == min(said["losses"], key=said["losses"].get)
    assert said["score"] == pytest.approx(1 - said["losses"][said["category"]])
    view = said["viewpoint"]
    assert 0 <= view["azimuth"] < 2 * math.pi
    angles = torch.tensor([view["azimuth"], view["elevation"], view["theta"]])
    np.testing.assert_allclose(said["cam_from_obj"]["rotation"], rotation(angles).numpy(), atol=1e-5)
    assert said["cam_from_obj"]["translation"] == [0, 0, -view["distance"]]
    assert len(said["latent"]) == tiny.NUM_CADS
    assert said["scale"] > 0
    # The crop is centred on the box and the principal point is not moved.
    np.testing.assert_allclose(said["principal_point"], [45, 32.5], atol=7.0)


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """v [V, 3], vt [T, 2] and faces [F, 3, 2] of vertex and texture numbers from 0."""
    lines = [line.split() for line in path.read_text().splitlines() if line]
    v = np.array([line[1:] for line in lines if line[0] == "v"], float)
    vt = np.array([line[1:] for line in lines if line[0] == "vt"], float)
    f = np.array([[c.split("/") for c in line[1:]] for line in lines if line[0] == "f"], int) - 1
    return v, vt, f


def test_mesh_is_closed_and_coloured_flat(result):
    v, vt, f = read_obj(result / "mesh.obj")
    assert np.isfinite(v).all()
    assert f.shape[1:] == (3, 2)
    assert f.min() >= 0
    assert f[..., 0].max() == len(v) - 1
    assert f[..., 1].max() < len(vt)
    edges = Counter(tuple(sorted(e)) for t in f[..., 0].tolist() for e in zip(t, t[1:] + t[:1], strict=True))
    assert set(edges.values()) == {2}
    assert len(v) - len(edges) + len(f) == 2  # a sphere, by Euler
    text = (result / "mesh.obj").read_text()
    assert "mtllib mesh.mtl" in text
    assert "map_Kd mesh.png" in (result / "mesh.mtl").read_text()
    colours = {tuple(c) for c in np.asarray(Image.open(result / "mesh.png")).reshape(-1, 3).tolist()}
    assert colours <= {pictures.VISIBLE_COLOUR, pictures.OCCLUDED_COLOUR, pictures.UNSEEN_COLOUR}
    assert pictures.UNSEEN_COLOUR in colours  # the far side
    assert colours & {pictures.VISIBLE_COLOUR, pictures.OCCLUDED_COLOUR}


def test_mesh_under_the_written_camera_covers_the_written_mask(result):
    said = json.loads((result / "result.json").read_text())
    v, _, _ = read_obj(result / "mesh.obj")
    view = torch.tensor([said["viewpoint"][k] for k in ("azimuth", "elevation", "theta", "distance")])
    cam = cam_from_obj(torch.tensor(v, dtype=torch.float32), view)
    focal, point = torch.tensor(said["focal_px"]), torch.tensor(said["principal_point"], dtype=torch.float32)
    xy, _ = project(cam, focal, point)
    rows, columns = np.nonzero(np.asarray(Image.open(result / "amodal.png")))
    low, high = xy.amin(0).numpy().clip(0), np.minimum(xy.amax(0).numpy(), PHOTO[::-1])
    np.testing.assert_allclose([columns.min(), rows.min()], low, atol=1.1)
    np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], high, atol=1.1)


def test_existing_result_is_refused_and_overwritten_when_asked(tiny, tiny_folder, tmp_path):
    photo, out = write_photo(tmp_path / "a.png", tiny), tmp_path / "out"
    quick = replace(tiny.INFER, steps=0, screening_steps=0)
    infer.run([photo], tiny_folder / "ntdm", out, None, quick)
    assert json.loads((out / "a" / "result.json").read_text())["bbox"] == [0, 0, 90, 70]
    before = (out / "a" / "result.json").stat().st_mtime_ns
    infer.run([photo], tiny_folder / "ntdm", out, None, quick)  # finished: skipped
    assert (out / "a" / "result.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"another config \(bbox.*--overwrite"):
        infer.run([photo], tiny_folder / "ntdm", out, (0, 0, 40, 40), quick)
    infer.run([photo], tiny_folder / "ntdm", out, (0, 0, 40, 40), quick, overwrite=True)
    assert json.loads((out / "a" / "result.json").read_text())["bbox"] == [0, 0, 40, 40]
    for damaged in ("{", "[]", '{"made_with": "x"}'):
        (out / "a" / "result.json").write_text(damaged)
        with pytest.raises(ValueError, match="is damaged: pass --overwrite"):
            infer.run([photo], tiny_folder / "ntdm", out, (0, 0, 40, 40), quick)
    infer.run([photo], tiny_folder / "ntdm", out, (0, 0, 40, 40), quick, overwrite=True)
    assert {p.name for p in (out / "a").iterdir()} == FILES


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_other_kinds_of_pictures(tiny, tiny_folder, tmp_path, mode):
    gradient = np.linspace(0, 255, 40 * 30).reshape(40, 30)
    wide = mode == "I;16"
    pictures = Image.fromarray((gradient * 257).astype(np.uint16) if wide else gradient.astype(np.uint8))
    (pictures if mode == "I;16" else pictures.convert(mode)).save(tmp_path / "p.png")
    photo = photos.read_photo(tmp_path / "p.png")
    assert photo.shape == (40, 30, 3)
    assert photo.dtype == np.uint8
    np.testing.assert_allclose(photo, np.repeat(gradient[..., None], 3, -1), atol=1.01)


def test_what_is_transparent_lies_on_white(tmp_path):
    Image.fromarray(np.full((4, 4, 4), (200, 0, 0, 0), np.uint8)).save(tmp_path / "p.png")
    assert (photos.read_photo(tmp_path / "p.png") == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    pictures = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    pictures.save(tmp_path / "p.jpg", exif=exif)
    assert photos.read_photo(tmp_path / "p.jpg").shape == (30, 20, 3)


def test_photo_of_one_pixel(tiny, tiny_folder, tmp_path):
    Image.new("RGB", (1, 1), (200, 10, 10)).save(tmp_path / "dot.png")
    infer.run([tmp_path / "dot.png"], tiny_folder / "ntdm", tmp_path / "out", None, tiny.INFER)
    assert {p.name for p in (tmp_path / "out" / "dot").iterdir()} == FILES
    assert np.asarray(Image.open(tmp_path / "out" / "dot" / "amodal.png")).shape == (1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "cannot be read"),
        (b"GIF89a", "cannot be read"),
        (b"cut", "cannot be read"),
    ],
)
def test_bad_photo(tiny, tiny_folder, tmp_path, content, message):
    good, bad = write_photo(tmp_path / "good.png", tiny), tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(good.read_bytes()[:200] if content == b"cut" else content)
    with pytest.raises(ValueError, match=rf"bad\.png {message}"):
        infer.run([good, bad], tiny_folder / "ntdm", tmp_path / "out", None, tiny.INFER)
    assert not (tmp_path / "out").exists()  # checked before the first is begun


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((200, 10, 220, 40), "misses photo .*90 x 70"),
        ((-30, 10, 0, 40), "misses photo"),
        ((40, 10, 20, 40), "at least 1 wide and high"),
        ((10, 10, 10, 40), "at least 1 wide and high"),
        ((0, 0, math.nan, 40), "want x0,y0,x1,y1"),
        ((0, 0, math.inf, 40), "want x0,y0,x1,y1"),
    ],
)
def test_box_outside_the_photo(tiny, tiny_folder, tmp_path, box, message):
    photo = write_photo(tmp_path / "a.png", tiny)
    with pytest.raises(ValueError, match=message):
        infer.run([photo], tiny_folder / "ntdm", tmp_path / "out", box, tiny.INFER)


def test_two_photos_of_one_name(tiny, tiny_folder, tmp_path):
    (tmp_path / "b").mkdir()
    photos = [write_photo(tmp_path / "a.png", tiny), write_photo(tmp_path / "b" / "a.jpg", tiny)]
    with pytest.raises(ValueError, match="two photos are called a:"):
        infer.run(photos, tiny_folder / "ntdm", tmp_path / "out", None, tiny.INFER)


def test_run_without_meshes(tiny, tiny_folder, tmp_path):
    photo = write_photo(tmp_path / "a.png", tiny)
    with pytest.raises(ValueError, match="method 'pose-classifier', which fits no mesh"):
        infer.run([photo], tiny_folder / "classifier", tmp_path / "out", None, tiny.INFER)


def test_enormous_photo_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ntdm.io.photo.LARGEST", 100)
    Image.new("RGB", (11, 10)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="11 x 10 pixels"):
        photos.read_photo(tmp_path / "a.png")
