"""Archives of strangers: arrays and Nones are read, whatever could run code is refused unrun."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ntdm.data_prep.raw.files import read_npz


class Opener:
    """What a pickle could do when it is loaded."""

    def __reduce__(self):
        return (Path.touch, (Path("pickle_was_run"),))


def write_pickled(path: Path, pickled: bytes) -> None:
    """An archive of one good array and one object field `mask` with these bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("size", np.arange(3)), ("mask", None)):
            member = io.BytesIO()
            if array is not None:
                np.lib.format.write_array(member, array)
            else:
                header = {"descr": "|O", "fortran_order": False, "shape": ()}
                np.lib.format.write_array_header_1_0(member, header)
                member.write(pickled)
            archive.writestr(f"{name}.npy", member.getvalue())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_none_is_an_absent_field(tmp_path, protocol, module):
    pickled = pickle.dumps(np.array(None, dtype=object), protocol=protocol)
    for written in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        pickled = pickled.replace(written, module) if protocol < 4 else pickled
    write_pickled(tmp_path / "a.npz", pickled)
    fields = read_npz(tmp_path / "a.npz")
    assert list(fields) == ["size"] and fields["size"].tolist() == [0, 1, 2]


def test_none_as_numpy_writes_it(tmp_path):
    np.savez(tmp_path / "a.npz", mask=np.array(None), name="n0_0", px=np.float64(3))
    fields = read_npz(tmp_path / "a.npz")
    assert sorted(fields) == ["name", "px"] and str(fields["name"]) == "n0_0"


@pytest.mark.parametrize(
    "value",
    [
        np.array(Opener(), dtype=object),
        np.array([Opener(), None], dtype=object),
        np.array([None, None], dtype=object),
        np.array({"a": 1}, dtype=object),
        np.array([[1], [2, 3]], dtype=object),
    ],
)
def test_any_other_pickle_is_refused_and_not_run(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", mask=value, px=np.float64(3))
    with pytest.raises(ValueError, match=r"a\.npz is not a readable .npz file: field mask holds no plain"):
        read_npz(tmp_path / "a.npz")
    assert not (tmp_path / "pickle_was_run").exists()


def test_a_pickle_that_ends_like_none_but_calls_first_is_refused(tmp_path, monkeypatch):
    """The words of the opcodes betray it: `touch` is none of NumPy's."""
    monkeypatch.chdir(tmp_path)
    none = pickle.dumps(np.array(None, dtype=object), protocol=2)
    call = pickle.dumps(Opener(), protocol=2)[2:-1] + b"0"  # run, then drop the result
    write_pickled(tmp_path / "a.npz", none[:2] + call + none[2:])
    with pytest.raises(ValueError, match="field mask holds no plain array"):
        read_npz(tmp_path / "a.npz")
    assert not (tmp_path / "pickle_was_run").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"this is a letter", None, "npy", "cut", "bomb"])
def test_damaged_files(tmp_path, monkeypatch, content):
    path = tmp_path / "a.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "npy":
        np.save(tmp_path / "a.npy", np.arange(3))
        (tmp_path / "a.npy").rename(path)
    elif content is not None:
        np.savez_compressed(path, mask=np.zeros((1000, 1000)))
        if content == "cut":
            path.write_bytes(path.read_bytes()[:-300])
        monkeypatch.setattr("ntdm.io.untrusted.LARGEST", 1_000_000)
    said = (
        r"a\.npz cannot be read" if content is None else r"a\.npz is not a readable|more than 1000000 bytes"
    )
    with pytest.raises(ValueError, match=said):
        read_npz(path)
