"""What holds of the readers for any file: sound ones come back as written, others are one ValueError."""

import contextlib
import csv
import io
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from ntdm.data_prep.raw.annotation import SampleError, viewpoint_of
from ntdm.data_prep.raw.cad import read_off
from ntdm.data_prep.raw.files import read_list, read_npz, sift_names, valid_name, valid_path
from ntdm.data_prep.raw.mat import read_mat
from ntdm.data_prep.raw.polygons import are_convex
from ntdm.data_prep.readers.ood_cv.tables import read_rows
from ntdm.io import untrusted
from ntdm.io.photo import FORMATS, essential, to_rgb

# The same examples every time; a seed that fails stays in the test as an @example.
of_files = settings(max_examples=80, deadline=None, derandomize=True, database=None)

KINDS = ("<f8", "<f4", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4")
numbers = st.sampled_from(KINDS).flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=4))
)
field_names = st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8)


def cell(values: list[object]) -> np.ndarray:
    made = np.empty((1, len(values)), object)
    made[0, :] = values
    return made


contents = st.recursive(
    numbers | texts,
    lambda inner: (
        st.dictionaries(field_names, inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(cell)
    ),
    max_leaves=6,
)


def same(found: object, wanted: object) -> bool:
    """Whether two trees of what scipy loads are the same, to the kinds of numbers."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    if found.dtype.names:
        return all(same(found[name], wanted[name]) for name in found.dtype.names)
    if found.dtype == object:
        return all(map(same, found.reshape(-1), wanted.reshape(-1)))
    return found.tobytes() == wanted.tobytes()


def in_file(data: bytes, suffix: str = ".x") -> Path:
    with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
        file.write(data)
    return Path(file.name)


@contextlib.contextmanager
def read_or_refused(data: bytes, suffix: str = ".x") -> Iterator[Path]:
    """A file of these bytes; a ValueError of the block must be a short sentence that names it."""
    path = in_file(data, suffix)
    error = None
    try:
        yield path
    except ValueError as refused:
        error = refused
    finally:
        path.unlink()
    assert error is None or str(path) in str(error)
    assert error is None or (str(error).isprintable() and len(str(error)) < 400)


def written_mat(variables: dict[str, object], compressed: bool) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=compressed)
    return stream.getvalue()


@of_files
@given(contents, st.booleans())
def test_mat_files_are_read_as_scipy_reads_them(record, compressed):
    data = written_mat({"other": 1.0, "record": record}, compressed)
    path = in_file(data)
    try:
        assert same(read_mat(path, "record"), scipy.io.loadmat(io.BytesIO(data))["record"])
        assert read_mat(path, "missing") is None
    finally:
        path.unlink()


@of_files
@given(contents, st.booleans(), st.data())
def test_mat_files_with_other_bytes_are_read_or_refused(record, compressed, draw):
    data = bytearray(written_mat({"record": record}, compressed))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with read_or_refused(bytes(data[: draw.draw(st.integers(1, len(data)))])) as path:
        read_mat(path, "record")


@of_files
@given(st.dictionaries(field_names, numbers | st.none() | texts, min_size=1, max_size=4), st.booleans())
def test_npz_files_give_what_was_saved_and_leave_none_out(fields, compressed):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **fields)
    found = untrusted.unpack(stream.getvalue(), Path("a.npz"))
    assert set(found) == {name for name, value in fields.items() if value is not None}
    assert all(same(found[name], np.asarray(fields[name])) for name in found)


@of_files
@given(st.dictionaries(field_names, numbers, min_size=1, max_size=3), st.data())
def test_npz_files_with_other_bytes_are_read_or_refused(fields, draw):
    stream = io.BytesIO()
    np.savez(stream, **fields)
    data = bytearray(stream.getvalue())
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with read_or_refused(bytes(data[: draw.draw(st.integers(1, len(data)))])) as path:
        for array in read_npz(path).values():
            assert not array.dtype.hasobject and array.nbytes <= len(data)


@of_files
@given(st.binary(max_size=300))
@example(b"cos\nsystem\n(S'touch pickle_was_run'\ntR.")
@example(np.array(None, object).dumps()[:-3])
def test_no_pickle_is_run_or_taken_for_an_array(pickled):
    header = io.BytesIO()
    claimed = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(header, claimed)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + pickled)
    with pytest.raises(ValueError, match=r"field a holds no plain array \(pickled objects are not loaded\)"):
        untrusted.unpack(stream.getvalue(), Path("a.npz"))
    assert not Path("pickle_was_run").exists()


coordinates = st.floats(-9, 9, width=32)
gaps = st.sampled_from([" ", "  ", "\t", " \t "])
ends = st.sampled_from(["\n", "\r\n", " \n", "\n\n", " # a comment\n", "\n# a comment\n"])


@of_files
@given(st.data())
def test_off_files_give_the_vertices_and_the_triangles_of_every_face(draw):
    """Fans of convex faces; of others as many triangles of the face's own corners, or a refusal."""
    vertices = draw.draw(st.lists(st.tuples(*[coordinates] * 3), min_size=1, max_size=6))
    corner = st.integers(0, len(vertices) - 1)
    faces = draw.draw(st.lists(st.lists(corner, min_size=3, max_size=6), min_size=1, max_size=6))
    colour = st.sampled_from([[], [255, 0, 0], [0.5, 0.25, 1.0, 1.0]])
    rows = [[len(vertices), len(faces), 0], *vertices]
    rows += [[len(face), *face, *draw.draw(colour)] for face in faces]
    text = "OFF" + draw.draw(ends)
    text += "".join(draw.draw(gaps).join(map(repr, row)) + draw.draw(ends) for row in rows)
    path = in_file(text.encode(), ".off")
    try:
        found, triangles = read_off(path)
    except ValueError as error:
        if "crosses itself" not in str(error):
            raise
        return
    finally:
        path.unlink()
    assert found.tolist() == [list(vertex) for vertex in vertices]
    assert len(triangles) == sum(len(face) - 2 for face in faces)
    start = 0
    for face in faces:
        mine = triangles[start : start + len(face) - 2].tolist()
        start += len(mine)
        if len(face) == 3 or are_convex(np.float32(vertices)[None, face])[0]:
            assert mine == [[face[0], face[i], face[i + 1]] for i in range(1, len(face) - 1)]
        assert {corner for triangle in mine for corner in triangle} <= set(face)


@of_files
@given(st.text(alphabet="OFF0123456789.-+ena \n\r\t#x", max_size=80).map("OFF\n3 1 0\n{}".format))
@example("OFF\n3 1 0\n1e400 0 0\n0 0 0\n0 0 0\n3 0 1 2")
@example("OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 99999999999999999999")
def test_off_files_of_any_text_are_read_or_refused(text):
    with read_or_refused(text.encode(), ".off") as path:
        vertices, triangles = read_off(path)
        assert np.isfinite(vertices).all() and 0 <= triangles.min() <= triangles.max() < len(vertices)


names = st.text(max_size=12) | st.sampled_from(["..", ".", "../x", "/etc/passwd", "a/../..", "a" * 201])


@of_files
@given(st.lists(names, max_size=8))
def test_names_of_lists_stay_in_their_folder_and_none_is_lost(listed):
    good, dropped = sift_names(listed)
    assert len(good) + sum(dropped.values()) == len(listed) and len(set(good)) == len(good)
    for name in good:
        assert os.path.dirname(os.path.normpath(f"/data/photos/{name}")) == "/data/photos"


@of_files
@given(st.lists(names, max_size=4).map("/".join))
def test_paths_of_tables_stay_below_their_folder(path):
    if valid_path(path):
        place = os.path.normpath(f"/data/photos/{path}")
        assert place == "/data/photos" or place.startswith("/data/photos/")


@of_files
@given(st.binary(max_size=200))
def test_lists_of_any_bytes_are_read_or_refused(data):
    with read_or_refused(data, ".txt") as path:
        assert all(line and line == line.strip() for line in read_list(path))


@of_files
@given(st.lists(st.tuples(texts, texts), max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_tables_give_the_cells_that_were_written(rows, end):
    stream = io.StringIO()
    csv.writer(stream, lineterminator=end).writerows(
        [("spare", "name", "pose"), *((1, *row) for row in rows)]
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.csv").write_bytes(stream.getvalue().encode())
        found = read_rows(Path(folder), "*.csv", ("pose", "name"))
    assert [(row["name"], row["pose"]) for _, row in found] == rows


@of_files
@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]), st.sampled_from(FORMATS),
    st.integers(1, 9), st.integers(1, 9), st.data(),
)  # fmt: skip
def test_photos_of_any_mode_and_format_become_rgb_or_are_refused(mode, form, width, height, draw):
    stream = io.BytesIO()
    try:
        Image.new(mode, (width, height)).save(stream, form)
    except (OSError, ValueError, KeyError):  # not every format has every mode
        return
    data = bytearray(stream.getvalue())
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        whole = to_rgb(image)
    with Image.open(io.BytesIO(essential(bytes(data))), formats=FORMATS) as image:
        found = to_rgb(image)
    np.testing.assert_array_equal(found, whole)
    assert found.shape == (height, width, 3) and found.dtype == np.uint8


@of_files
@given(*[st.floats(allow_nan=True) | st.floats(-70, 70)] * 3, st.floats() | st.floats(0, 100))
@example(-5e-324, 0.0, 0.0, 5.0)
@example(0.0, 0.0, -math.pi, 5.0)
def test_viewpoints_are_in_range_or_dropped(azimuth, elevation, theta, distance):
    try:
        found = viewpoint_of((azimuth, elevation, theta), distance, "here")
    except SampleError:
        return
    assert 0 <= found[0] < 2 * math.pi and abs(found[1]) <= math.pi / 2 and found[3] == distance
    assert -math.pi < found[2] <= math.pi
    for angle, before in zip(found, (azimuth, elevation, theta), strict=False):
        assert math.cos(angle - before) > 1 - 1e-12


def test_what_a_name_may_not_be():
    assert not any(map(valid_name, ("", ".", "..", "a/b", "a\\b", "a\0", "\x1b[2J", "a" * 201)))
