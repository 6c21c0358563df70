"""Faults reported from the field, rebuilt small: what comes out is right, or is named with a way out."""

import codecs
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.raw import cad, polygons
from ntdm.data_prep.raw.files import read_list, valid_name
from ntdm.io import photo

CONFIG = PrepConfig(image_size=(32, 48), scale=0.15)
# An L, 2 x 2 without its upper right quarter: area 3.
L_SHAPE = np.array([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]], float)


@pytest.fixture
def root(tmp_path) -> Path:
    return raw.write_pascal3d(tmp_path / "data", train=3)


def prepare(root: Path, **options):
    return prep_data.run("pascal3d", root, root.parent / "cache", CONFIG, splits=["train"], **options)


def photos(root: Path) -> list[Path]:
    return sorted((root / "Images" / "car_imagenet").glob("n*.JPEG"))


# ---- numbers that do not belong together


def test_a_resized_photo_is_a_named_fault(root, capsys):
    path = photos(root)[0]
    with Image.open(path) as image:
        image.resize((image.width // 2, image.height // 2)).save(path)
    (report,) = prepare(root).files
    assert report.dropped == {"image_size_mismatch": 1} and report.samples == 2
    assert f"{path.name} has (40, 50) (h, w)" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"n0_0\.JPEG has .*: boxes and cameras are of another photo"):
        prepare(root, strict=True, overwrite=True)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("turned", [1, -1])
def test_concave_polygons_are_cut_along_their_outline(axes, turned):
    points = np.concatenate([L_SHAPE, np.full((6, 1), 0.3)], 1)[::turned][:, axes]
    for start in range(6):
        polygon = np.roll(points, start, 0)
        assert not polygons.are_convex(polygon[None])[0]
        triangles = polygon[polygons.ears(polygon)]
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]) / 2
        # Areas add up with one sign: the triangles cover the outline and nothing twice.
        whole = np.cross(polygon, np.roll(polygon, -1, 0)).sum(0) / 2
        np.testing.assert_allclose(normals.sum(0), whole, atol=1e-12)
        assert np.linalg.norm(normals, axis=1).sum() == pytest.approx(3)


def test_an_off_file_of_a_concave_plate(tmp_path):
    path = tmp_path / "01.off"
    rows = "\n".join(f"{x} {y} 0" for x, y in L_SHAPE / 4)
    path.write_text(f"OFF\n6 2 0\n{rows}\n6 0 1 2 3 4 5\n4 0 1 3 5\n")
    vertices, triangles = cad.read_off(path)
    corners = vertices[triangles[:4]]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2
    assert (area > 0).all() and area.sum() == pytest.approx(3 / 16)
    assert triangles[4:].tolist() == [[0, 1, 3], [0, 3, 5]]  # a convex one stays a fan


def test_a_polygon_that_crosses_itself_is_refused(tmp_path):
    path = tmp_path / "01.off"
    path.write_text("OFF\n5 1 0\n0 0 0\n1 1 0\n1 0 0\n0 1 0\n.5 2 0\n5 0 1 2 3 4\n")
    with pytest.raises(
        ValueError, match=r"01\.off is not a usable OFF file: a face of 5 corners crosses itself"
    ):
        cad.read_off(path)


def test_convex_polygons_are_told_from_others():
    angles = np.linspace(0, 2 * np.pi, 7, endpoint=False)
    convex = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    dented = convex * np.where(np.arange(7) == 3, 0.2, 1)[:, None]
    with_straight = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 2, 0.0]])
    assert polygons.are_convex(np.stack([convex, dented])).tolist() == [True, False]
    assert polygons.are_convex(with_straight[None])[0]


# ---- files that other tools wrote again


def test_an_off_file_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "01.off"
    path.write_bytes(codecs.BOM_UTF8 + b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    assert len(cad.read_off(path)[1]) == 1


def test_a_list_in_utf16_says_so(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("n0\nn1\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"list\.txt cannot be read: it is UTF-16: save it as UTF-8"):
        read_list(path)


def test_long_names_are_counted_in_bytes(root):
    assert valid_name("一" * 60) and not valid_name("一" * 100)
    path = root / "Image_sets" / "car_imagenet_train.txt"
    path.write_text(path.read_text(encoding="utf-8") + "\n" + "一" * 100 + "\n", encoding="utf-8")
    (report,) = prepare(root).files
    assert report.samples == 3 and report.dropped == {"name_invalid": 1}


# ---- what systems leave lying about


def test_names_that_begin_with_a_dot_are_no_data(root, tmp_path):
    before = prepare(root).files
    for path in sorted(root.rglob("*")):
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    (root / "CAD" / "._car").mkdir()
    (root / "CAD" / "._car" / "01.off").write_bytes(b"\0\5\26\7")
    assert prep_data.run("pascal3d", root, tmp_path / "again", CONFIG, splits=["train"]).files[0].samples == (
        before[0].samples
    )
    assert list(cad.find_cads(root)) == ["car"]


def test_a_leftover_that_cannot_be_removed_stops_nobody(root, monkeypatch):
    prepare(root)
    leftover = root.parent / "cache" / "pascal3d" / "train"
    name = f".bus.{os.uname().nodename.replace('.', '-')}-999999.part.h5"
    (leftover / name).write_bytes(b"half")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert prepare(root).files[0].kept


# ---- memory, homes, terminals, scripts


def test_want_of_memory_is_no_fault_of_the_photo(root, monkeypatch):
    """Else a cache that lacks the sample would count as whole."""

    def hungry(image: Image.Image) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(photo, "to_rgb", hungry)
    with pytest.raises(MemoryError, match=r"for .*n\d+_0?\.?.*JPEG|for .*JPEG"):
        prepare(root)
    assert not list((root.parent / "cache").rglob("*.h5"))


def ntdm(*command: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = "from ntdm.cli import main; main()"
    kept = {name: value for name, value in os.environ.items() if name != "HOME"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        env=kept | environment,
        capture_output=True,
        check=False,
    )


def test_a_terminal_without_a_width_hides_no_error(root, tmp_path):
    done = ntdm(
        "prep-data", "pascal3d", "--root", tmp_path / "no :bug: here", "--cache", tmp_path / "c", COLUMNS="0"
    )
    assert done.returncode == 1
    text = done.stderr.decode()
    assert "no :bug: here" in text and text.startswith("ntdm: ")


def test_without_a_home_nothing_is_looked_for_there():
    code = """if True:
        import os, pathlib
        os.environ.pop("XDG_CACHE_HOME", None)
        def none():
            raise RuntimeError("Could not determine home directory.")
        pathlib.Path.home = none
        from ntdm.ops import build
        build.CPU.built()
        assert build.CUDA.built() is None
        try:
            build.user_cache()
        except build.BuildError as error:
            print(error)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout
        == "there is no home directory to build ntdm's operators in: set XDG_CACHE_HOME to a folder\n"
    )


def test_a_script_without_a_guard_is_told_so(root, tmp_path):
    script = tmp_path / "prepare.py"
    script.write_text(
        "from pathlib import Path\n"
        "from ntdm.config.stages import PrepConfig\n"
        "from ntdm.data_prep import prep_data\n"
        f"prep_data.run('pascal3d', Path({str(raw.write_pascal3d(tmp_path / 'many', train=12))!r}), "
        f"Path({str(tmp_path / 'c')!r}), PrepConfig(image_size=(32, 48)), workers=2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'has no `if __name__ == "__main__":`' in done.stderr
