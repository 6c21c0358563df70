"""The OFF reader: what people write is read, what is broken is refused with its name."""

import numpy as np
import pytest

from ntdm.data_prep.cad import read_cads, read_off

TRIANGLE = "0 0 0\n1 0 0\n0 1 0\n"


@pytest.mark.parametrize(
    "text",
    [
        f"OFF\n3 1 0\n{TRIANGLE}3 0 1 2\n",
        f"OFF 3 1 0\n{TRIANGLE}3 0 1 2\n",
        f"OFF3 1 0\r\n{TRIANGLE}3 0 1 2\n",
        f"# made by hand\nOFF\n\n3 1\n{TRIANGLE}3 0 1 2 255 0 0 # red\n",
        f"OFF\n3  1\t0\n{TRIANGLE}3   0 1 2",
    ],
)
def test_ways_to_write_a_triangle(tmp_path, text):
    path = tmp_path / "01.off"
    path.write_text(text)
    vertices, faces = read_off(path)
    assert vertices.dtype == np.float32 and vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert faces.dtype == np.int32 and faces.tolist() == [[0, 1, 2]]


def test_polygons_become_fans(tmp_path):
    path = tmp_path / "01.off"
    path.write_text("OFF\n5 2 0\n" + "0 0 0\n" * 5 + "5 0 1 2 3 4\n3 0 2 4\n")
    assert read_off(path)[1].tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 2, 4]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not an OFF file"),
        ("PLY\n", "not an OFF file"),
        ("COFF\n3 1 0\n", "not an OFF file"),
        ("OFF", "its counts"),
        ("OFF\n3 one 0\n", "invalid literal"),
        (f"OFF\n3 0 0\n{TRIANGLE}", "3 vertices and 0 faces"),
        ("OFF\n0 0 0\n", "0 vertices and 0 faces"),
        (f"OFF\n3 900000000 0\n{TRIANGLE}3 0 1 2\n", "cut short"),
        (f"OFF\n3 1 0\n{TRIANGLE}", "cut short"),
        ("OFF\n3 1 0\n0 0 0\n1 0 nan\n0 1 0\n3 0 1 2\n", "not finite"),
        ("OFF\n3 1 0\n0 0 0\n1 0\n0 1 0\n3 0 1 2\n", "fewer than 3 coordinates"),
        (f"OFF\n3 1 0\n{TRIANGLE}3 0 1 3\n", "names vertex 3, there are 3"),
        (f"OFF\n3 1 0\n{TRIANGLE}3 -1 1 2\n", "a face names vertex"),
        (f"OFF\n3 1 0\n{TRIANGLE}2 0 1\n", "fewer than 3"),
        (f"OFF\n3 1 0\n{TRIANGLE}4 0 1 2\n", "has not the corners it says"),
    ],
)
def test_broken_file_is_refused(tmp_path, text, said):
    path = tmp_path / "07.off"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        read_off(path)
    assert "07.off" in str(caught.value)


def test_models_of_a_category(tmp_path):
    folder = tmp_path / "CAD" / "car"
    folder.mkdir(parents=True)
    for name in ("01.off", "07.off", "07_left_wheel.off"):
        (folder / name).write_text(f"OFF\n3 1 0\n{TRIANGLE}3 0 1 2\n")
    (folder / "03.off").write_text("OFF\n3 0 0\n")
    cads, broken = read_cads(tmp_path, "car")
    assert list(cads) == [0, 6]
    assert list(broken) == [2] and "03.off" in broken[2]
    with pytest.raises(ValueError, match=r"no CAD model of bus: expected .*CAD/bus/01\.off"):
        read_cads(tmp_path, "bus")
    for name in ("01.off", "07.off"):
        (folder / name).write_text("OFF\n")
    with pytest.raises(ValueError, match=r"no usable CAD model of car: .*01\.off"):
        read_cads(tmp_path, "car")


def test_real_models(real_data):
    root = real_data / "PASCAL3D+_release1.1"
    cads, broken = read_cads(root, "car")
    assert broken == {} and list(cads) == [0, 2, 3, 4, 5, 7]  # 02, 07, 09, 10 are not in this copy
    for vertices, faces in cads.values():
        diagonal = np.linalg.norm(np.ptp(vertices, axis=0))
        assert diagonal == pytest.approx(1, abs=0.05) and len(faces) > 100
