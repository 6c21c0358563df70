"""Files that claim more than they hold: refused before anything is allocated for it."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ntdm.data_prep.raw.cad import read_off
from ntdm.data_prep.raw.files import read_npz
from ntdm.data_prep.raw.mat import read_mat


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
        ("OFF\n3 1 0\n1 0 0\n0 1 0\n0 0 1\n99999999999 0 1 2\n", "more than 1000"),
        (f"OFF\n{'9' * 5000} 1 0\n", "not a usable OFF file"),
    ],
)
def test_off_files_with_absurd_numbers(tmp_path, text, said):
    (tmp_path / "01.off").write_text(text)
    with pytest.raises(ValueError, match=rf"01\.off.*{said}"):
        read_off(tmp_path / "01.off")


def test_files_larger_than_any_of_their_kind(tmp_path, monkeypatch):
    monkeypatch.setattr("ntdm.data_prep.raw.cad.LARGEST_TEXT", 100)
    (tmp_path / "01.off").write_text("OFF\n" * 50)
    with pytest.raises(ValueError, match="more than 100 bytes, which no file of its kind has"):
        read_off(tmp_path / "01.off")
