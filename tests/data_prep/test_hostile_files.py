"""Files made to exhaust a reader: refused by what they would cost, before they cost it."""

import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image, ImageOps

import hostile_files as hostile
import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.raw.files import read_list
from ntdm.data_prep.raw.mat import read_mat
from ntdm.data_prep.readers.ood_cv.tables import read_rows
from ntdm.data_prep.write_caches import photos_per_task
from ntdm.io import photo, untrusted


@pytest.mark.parametrize(
    ("writer", "said"),
    [
        ("mat_of_cells", "more than 500000 arrays"),
        ("mat_of_variables", "unpacks to more than"),
        ("mat_of_elements", "more than 500000 variables"),
    ],
)
def test_mat_files_of_far_too_many_parts(tmp_path, writer, said):
    path = tmp_path / "record.mat"
    getattr(hostile, writer)(path)
    with pytest.raises(ValueError, match=rf"record\.mat is not a readable \.mat file: it .*{said}"):
        read_mat(path, "record")


@pytest.mark.parametrize(
    ("writer", "said"),
    [
        ("npz_of_members", "it has more than 1000 members"),
        ("npz_of_steps", "pickled objects are not loaded"),
        ("npz_of_brackets", "its header has more than 1000 bytes"),
        ("npz_of_signs", "its header has more than 1000 bytes"),
    ],
)
def test_npz_files_of_far_too_many_parts(tmp_path, writer, said):
    path = tmp_path / "a.npz"
    getattr(hostile, writer)(path)
    with pytest.raises(ValueError, match=rf"a\.npz is not a readable \.npz file: .*{said}"):
        untrusted.unpack(path.read_bytes(), path)


def test_a_file_that_a_library_quotes_in_its_error_is_still_one_short_sentence(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"record": {"a": np.zeros(1000), "text": "b\nc"}})
    data = bytearray(path.read_bytes())
    field = data.index(b"a\0") - 8
    data[field - 4 : field] = (9).to_bytes(
        4, "little"
    )  # names of nine bytes: the fields are not where they were
    for at in range(128, len(data), 4):
        path.write_bytes(bytes(data[:at]) + b"\xff\xff\xff\x7f" + bytes(data[at + 4 :]))
        try:
            read_mat(path, "record")
        except ValueError as error:
            said = str(error)
        assert said.isprintable() and len(said) < len(str(path)) + 300


def test_lists_and_tables_longer_than_any(tmp_path):
    hostile.list_of_lines(tmp_path / "car.txt")
    with pytest.raises(ValueError, match=r"car\.txt has more than 40000 lines, which none has"):
        read_list(tmp_path / "car.txt")
    for writer in ("csv_of_columns", "csv_of_short_rows"):
        (tmp_path / "a.csv").write_text("name,pose\nx,1\n")
        getattr(hostile, writer)(tmp_path / "a.csv")
        with pytest.raises(ValueError, match=r"a\.csv has more than 40000 rows, which no table has"):
            read_rows(tmp_path, "a.csv", ("name", "pose"))
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(100_000)))
    with pytest.raises(ValueError, match=r"a\.csv has no column name; its columns are c0, c1, .*\.\.\.$"):
        read_rows(tmp_path, "a.csv", ("name",))


def test_a_photo_of_more_objects_than_anyone_annotates(tmp_path):
    root = raw.write_pascal3d(tmp_path / "p", train=2)
    hostile.mat_of_objects(root / "Annotations" / "car_imagenet" / "n0_0.mat")
    every = PrepConfig(image_size=(32, 32), objects="all")
    report = prep_data.run("pascal3d", root, tmp_path / "c", every, splits=["train"])
    assert (report.files[0].samples, report.files[0].dropped) == (1, {"annotation_unreadable": 1})
    first = PrepConfig(image_size=(32, 32))
    report = prep_data.run("pascal3d", root, tmp_path / "first", first, splits=["train"])
    assert report.files[0].samples == 2  # one sample a photo, however many are annotated


def test_tasks_whose_samples_fit_in_memory():
    assert photos_per_task(PrepConfig()) == 8
    assert photos_per_task(PrepConfig(objects="all")) == 1
    assert photos_per_task(PrepConfig(image_size=(4096, 4096))) == 1


def jpeg() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", progressive=True)
    return stream.getvalue()


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 6), 3).save(stream, "PNG", transparency=3)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)


def segment(code: int, data: bytes) -> bytes:
    return bytes([0xFF, code]) + (len(data) + 2).to_bytes(2) + data


def test_photos_that_would_keep_a_decoder_busy():
    data = jpeg()
    assert photo.essential(data) == data
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match="it has more than 50 scans"):
        photo.essential(data[:-2] + 50 * data[last:-2])
    with pytest.raises(ValueError, match="bytes of padding"):
        photo.essential(data[:2] + b"\xff" * 2**21 + data[2:])
    with pytest.raises(ValueError, match="it has more than 20000 segments"):
        photo.essential(data[:2] + segment(0xFE, b"") * 30_000 + data[2:])
    with pytest.raises(ValueError, match="it has more than 20000 chunks"):
        photo.essential(png()[:33] + chunk(b"tEXt", b"") * 30_000 + png()[33:])
    with pytest.raises(ValueError, match="a GIF of"):
        photo.essential(b"GIF89a" + bytes(2**23))


def test_of_metadata_only_what_turns_a_photo_reaches_the_decoder():
    data = jpeg()
    exif = Image.Exif()
    exif[0x112] = 6
    turned = segment(0xE1, exif.tobytes())
    thumbnail = segment(0xE2, data)  # a whole photo in a segment: none of its scans is one of the photo's
    preview = data * 60  # behind the end, as telephones put a film there
    kept = photo.essential(data[:2] + turned + thumbnail + turned + segment(0xED, b"x") + data[2:] + preview)
    assert kept == data[:2] + turned + data[2:]
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(kept))).size == (64, 64)
    with Image.open(io.BytesIO(kept)) as image:
        assert image.getexif()[0x112] == 6
    small = png()
    upright = chunk(b"eXIf", exif.tobytes()[6:])
    kept = photo.essential(small[:33] + upright + chunk(b"tEXt", b"a\0b") + upright + small[33:] + b"behind")
    assert kept == small[:33] + upright + small[33:]
    with Image.open(io.BytesIO(kept)) as image:
        assert image.info["transparency"] == 3 and ImageOps.exif_transpose(image).size == (6, 8)


@pytest.mark.parametrize("data", [jpeg(), png()], ids=["jpeg", "png"])
def test_a_photo_cut_anywhere_keeps_what_it_has(data):
    for stop in range(8, len(data)):
        assert photo.essential(data[:stop]) == data[:stop]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory from /proc")
def test_the_worst_files_stay_within_memory_and_time(checkout):
    """Some of benchmarks/memory_prep.py, which has all: without limits they cost gigabytes or minutes."""
    command = [sys.executable, checkout / "benchmarks" / "memory_prep.py", "--image-size", "64", "64"]
    command += ["--only", "of_(steps|one_polygon|columns)|photo_transparent"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "0 beyond the bounds" in done.stdout, done.stdout + done.stderr
