"""The OFF reader: what people write is read, what is broken is refused with its name."""

import numpy as np
import pytest

import raw_trees as raw
from ntdm.data_prep.raw.cad import find_cads, read_anchors, read_cads, read_off

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
        (f"OFF\n3 1 0\n{TRIANGLE}3 0 1.5 2\n", "could not convert string '1.5'"),
        (f"OFF\n3 1 0\n{TRIANGLE}3 -1 1 2\n", "a face names vertex -1, there are 3"),
        (f"OFF\n3 1 0\n{TRIANGLE}2 0 1\n", "fewer than 3"),
        (f"OFF\n3 1 0\n{TRIANGLE}4 0 1 2\n", "has not the corners it says"),
        (f"OFF\n3 1 0\n{TRIANGLE}1001{' 0' * 1001}\n", "more than 1000"),
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
    cads, broken, _ = read_cads(tmp_path, "car")
    assert list(cads) == [0, 6]
    assert list(broken) == [2] and "03.off" in broken[2]
    with pytest.raises(ValueError, match=r"no CAD model of bus: expected .*CAD/bus/01\.off"):
        read_cads(tmp_path, "bus")
    for name in ("01.off", "07.off"):
        (folder / name).write_text("OFF\n")
    with pytest.raises(ValueError, match=r"no usable CAD model of car: .*01\.off"):
        read_cads(tmp_path, "car")


VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float64)
FACES = np.uint8([[1, 2, 3], [3, 2, 1]])


def test_models_of_a_matlab_file(tmp_path):
    raw.write_mat_cads(
        tmp_path / "CAD" / "car.mat",
        [
            (VERTICES, FACES),
            (VERTICES, FACES - 1),
            (VERTICES[:2], FACES),
            (np.zeros((0, 0)), FACES),
            (VERTICES * np.nan, FACES),
            (VERTICES, FACES.astype(np.uint16)),
        ],
    )
    cads, broken, _ = read_cads(tmp_path, "car")
    assert list(cads) == [0, 5] and list(broken) == [1, 2, 3, 4]
    vertices, faces = cads[0]
    assert vertices.dtype == np.float32 and vertices.tolist() == VERTICES.tolist()
    assert faces.dtype == np.int32 and faces.tolist() == [[0, 1, 2], [2, 1, 0]]  # uint8 does not wrap
    assert "car.mat, model 02: a face names vertex 0, there are 3, counted from 1" in broken[1]
    assert "names vertex 3, there are 2" in broken[2]
    assert "vertices are float64 (0, 0), want numbers" in broken[3] and "not finite" in broken[4]
    (tmp_path / "CAD" / "car").mkdir()
    (tmp_path / "CAD" / "car" / "03.off").write_text(f"OFF\n3 1 0\n{TRIANGLE}3 0 1 2\n")
    assert list(read_cads(tmp_path, "car")[0]) == [2]  # OFF files come first


def test_a_matlab_file_of_no_models(tmp_path):
    raw.write_mat_cads(tmp_path / "CAD" / "car.mat", [])
    with pytest.raises(
        ValueError, match=r"no usable CAD model of car: .*car\.mat holds an empty struct array"
    ):
        read_cads(tmp_path, "car")


def test_polygons_of_several_sizes_keep_their_order(tmp_path):
    path = tmp_path / "01.off"
    path.write_text("OFF\n4 3 0\n" + "0 0 0\n" * 4 + "4 0 1 2 3\n3 3 2 1 9\n4 3 2 1 0\n")
    assert read_off(path)[1].tolist() == [[0, 1, 2], [0, 2, 3], [3, 2, 1], [3, 2, 1], [3, 1, 0]]


def test_broken_matlab_files(tmp_path):
    path = tmp_path / "CAD" / "car.mat"
    raw.write_mat_cads(path.with_name("bus.mat"), [(VERTICES, FACES)])
    path.with_name("bus.mat").rename(path)
    with pytest.raises(ValueError, match=r"car\.mat holds no struct array car with vertices and faces"):
        read_cads(tmp_path, "car")
    path.write_bytes(b"this is a letter")
    with pytest.raises(ValueError, match=r"car\.mat is not a readable \.mat file"):
        read_cads(tmp_path, "car")


def test_all_categories_of_a_root_and_what_was_left_out(tmp_path, capsys):
    raw.write_cad(tmp_path / "CAD" / "car" / "01.off")
    (tmp_path / "CAD" / "car" / "02.off").write_text("OFF\n0 0 0\n")
    raw.write_mat_cads(tmp_path / "CAD" / "bus.mat", [(VERTICES, FACES)])
    found = find_cads(tmp_path)
    assert list(found) == ["bus", "car"]
    assert list(found["bus"]()) == [0] and list(found["car"]()) == [0]
    told = capsys.readouterr().err
    assert (
        "02.off is not a usable OFF file: it has 0 vertices" in told and "car: 1 of 2 CADs left out" in told
    )
    with pytest.raises(ValueError, match="no CAD model below"):
        find_cads(tmp_path / "CAD")


def test_anchors_of_real_models(real_data):
    anchors = read_anchors(real_data / "PASCAL3D+_release1.0", "aeroplane")
    assert list(anchors) == list(range(7))
    assert anchors[0]["left_wing"][0] == pytest.approx(-0.338, abs=1e-3)  # as the azimuth-0 camera sees it
    assert set(anchors[6]) == {
        "left_elevator", "left_wing", "noselanding", "right_elevator", "right_wing", "rudder_lower",
        "rudder_upper", "tail",
    }  # fmt: skip
    # Most trains have no tail, which is an empty array in the file.
    trains = read_anchors(real_data / "PASCAL3D+_release1.0", "train").values()
    assert sum("tail_left_top" in named for named in trains) == 1


def test_anchors_of_a_broken_file(tmp_path):
    path = tmp_path / "CAD" / "car.mat"
    path.parent.mkdir()
    path.write_bytes(b"this is a letter")
    with pytest.raises(ValueError, match=r"car\.mat is not a readable \.mat file"):
        read_anchors(tmp_path, "car")
    raw.write_mat_cads(path, [(VERTICES, FACES)])
    assert read_anchors(tmp_path, "car") == {0: {}}  # its only anchor is empty


def test_real_models_of_both_releases(real_data):
    """Release 1.0's MATLAB files hold release 1.1's OFF meshes, which are rounded to five decimals."""
    old, broken, _ = read_cads(real_data / "PASCAL3D+_release1.0", "bottle")
    new, *_ = read_cads(real_data / "PASCAL3D+_release1.1", "bottle")
    assert broken == {} and list(old) == list(new) == list(range(8))
    for index, (vertices, faces) in old.items():
        np.testing.assert_allclose(vertices, new[index][0], rtol=0, atol=6e-6)
        np.testing.assert_array_equal(faces, new[index][1])


def test_real_models(real_data):
    root = real_data / "PASCAL3D+_release1.1"
    cads, broken, _ = read_cads(root, "car")
    assert broken == {} and list(cads) == [0, 2, 3, 4, 5, 7]  # 02, 07, 09, 10 are not in this copy
    for vertices, faces in cads.values():
        diagonal = np.linalg.norm(np.ptp(vertices, axis=0))
        assert diagonal == pytest.approx(1, abs=0.05) and len(faces) > 100
