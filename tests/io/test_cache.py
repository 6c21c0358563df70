"""The cache file: what is written is read, and what is broken is refused with its name."""

import dataclasses
import errno
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ntdm.config.reading import to_dict
from ntdm.config.stages import PrepConfig
from ntdm.data.dataset import SampleDataset
from ntdm.io import cache, cache_split
from ntdm.io.cache_split import CacheSplit

SIZE = (16, 24)
CADS = {k: (np.eye(3, dtype=np.float32) * (k + 1), np.array([[0, 1, 2]], np.int32)) for k in (0, 3)}


def sample(i: int, **changes) -> cache.Sample:
    mask = np.zeros(SIZE, bool)
    mask[4:12, 4 + i : 12] = True
    values = {
        "name": f"photo_{i}_00",
        "source": f"Images/photo_{i}.JPEG",
        "image": np.full((*SIZE, 3), i, np.uint8),
        "amodal_mask": mask,
        "visible_mask": mask,
        "viewpoint": np.array([0.5 * i, 0.1, -0.2, 5.0]),
        "focal": 300.0,
        "principal_point": np.array([12.0, 8.0]),
        "bbox": np.array([4.0 + i, 4.0, 12.0, 12.0]),
        "cad_index": 3 * (i % 2),
    }
    return cache.Sample(**(values | changes))


def write(path: Path, count: int = 3, **changes) -> Path:
    key = {
        "dataset": "pascal3d",
        "split": "train",
        "category": path.stem,
        "image_size": SIZE,
        "config": {"scale": 0.1},
    }
    with cache.CacheWriter(path, cads=CADS, **(key | changes)) as writer:
        for i in range(count):
            writer.add(sample(i))
        writer.dropped = {"no_pose": 2}
    return path


def test_what_is_written_is_read(tmp_path):
    path = write(tmp_path / "pascal3d" / "train" / "car.h5")
    with cache.CacheFile(path) as file:
        assert len(file) == 3 and file.image_size == SIZE and file.config == {"scale": 0.1}
        assert (file.dataset, file.split, file.category) == ("pascal3d", "train", "car")
        assert file.dropped == {"no_pose": 2}
        assert file["name"] == ["photo_0_00", "photo_1_00", "photo_2_00"]
        assert file["source"][1] == "Images/photo_1.JPEG"
        np.testing.assert_array_equal(file.read("images", 2), sample(2).image)
        for name in ("amodal_mask", "viewpoint", "bbox", "cad_index"):
            np.testing.assert_array_equal(file.read(name, 2), getattr(sample(2), name))
        assert "occluder_mask" not in file and list(file.cads()) == [0, 3]
        np.testing.assert_array_equal(file.cads()[3][0], CADS[3][0])
    assert [p.name for p in path.parent.iterdir()] == ["car.h5"]


def test_same_samples_same_bytes(tmp_path):
    a, b = write(tmp_path / "a" / "car.h5"), write(tmp_path / "b" / "car.h5")
    assert a.read_bytes() == b.read_bytes()
    assert CacheSplit([a]).fingerprint == CacheSplit([b]).fingerprint
    other = write(tmp_path / "c" / "car.h5", count=2)
    assert CacheSplit([a]).fingerprint != CacheSplit([other]).fingerprint


@pytest.mark.parametrize("compression", ["lzf", "gzip"])
def test_compression_changes_the_file_and_not_the_data(tmp_path, compression):
    """Runs on caches that differ in this alone are runs on the same data."""
    config = PrepConfig(image_size=SIZE)
    paths = []
    for name in ("none", compression):
        paths.append(tmp_path / name / "car.h5")
        made_with = to_dict(dataclasses.replace(config, compression=name))
        key = {"dataset": "d", "split": "s", "category": "car", "image_size": SIZE, "config": made_with}
        with cache.CacheWriter(paths[-1], cads=CADS, compression=name, **key) as writer:
            writer.add(sample(0))
    with h5py.File(paths[1]) as file:
        assert file["images"].compression == compression
    with cache.CacheFile(paths[0]) as raw, cache.CacheFile(paths[1]) as packed:
        np.testing.assert_array_equal(raw["images"], packed["images"])
    assert CacheSplit(paths[:1]).fingerprint == CacheSplit(paths[1:]).fingerprint


def write_badly(path: Path, error: BaseException | None = None) -> None:
    key = {"dataset": "d", "split": "s", "category": "car", "image_size": SIZE, "config": {}}
    with cache.CacheWriter(path, cads=CADS, **key) as writer:
        writer.add(sample(0))
        if error:
            raise error
        writer.add(sample(0))


def test_interrupted_writing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_badly(tmp_path / "car.h5", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writing_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "car.h5")
    before = path.read_bytes()
    with pytest.raises(OSError, match="no space"):
        write_badly(path, OSError("no space"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_same_name_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"photo_0_00.*twice"):
        write_badly(tmp_path / "car.h5")
    assert list(tmp_path.iterdir()) == []


def test_latents_replace_the_file_when_whole(tmp_path):
    path = write(tmp_path / "car.h5")
    with pytest.raises(ValueError, match="fit-shapes"):
        CacheSplit([path]).require_latents()
    for scale in (1, 2):
        cache.write_latents(path, np.eye(3, 2) * scale)
        with cache.CacheFile(path) as file:
            np.testing.assert_array_equal(file["latent"], np.eye(3, 2, dtype=np.float32) * scale)
            assert file["name"][0] == "photo_0_00"
    CacheSplit([path]).require_latents()
    cache.write_latents(path, np.zeros((3, 5)))  # of a shape fitted to five other CADs
    with pytest.raises(ValueError, match=r"\(4, 2\), want \(3, K\)"):
        cache.write_latents(path, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="not finite"):
        cache.write_latents(path, np.full((3, 2), np.nan))
    assert [p.name for p in tmp_path.iterdir()] == ["car.h5"]


def test_dataset_through_workers(tmp_path):
    paths = [write(tmp_path / f"{c}.h5") for c in ("bus", "car")]
    data = SampleDataset(paths)
    assert len(data) == 6 and not data.has_latent and "latent" not in data[0]
    assert data[1]["image"].shape == (3, *SIZE) and data[1]["amodal_mask"].dtype == torch.bool
    cache.write_latents(paths[0], np.eye(3, 2))
    cache.write_latents(paths[1], np.eye(3, 2))
    data = SampleDataset(paths)
    data[0]  # a handle opened here must not travel to the workers
    batches = list(DataLoader(data, batch_size=4, num_workers=2))
    assert batches[0]["category"] == ["bus"] * 3 + ["car"]
    assert batches[0]["latent"].tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]
    assert batches[0]["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 0]
    assert batches[1]["visible_mask"][0].sum() == 8 * 7


def test_dataset_keeps_decoded_samples_up_to_its_room(tmp_path, monkeypatch):
    read: list[int] = []
    plain = SampleDataset([write(tmp_path / "car.h5")])
    size = sum(value.nbytes for value in plain[0].values() if isinstance(value, torch.Tensor))
    data = SampleDataset(plain.paths, kept_bytes=2 * size)
    inner = data._read
    monkeypatch.setattr(data, "_read", lambda index: read.append(index) or inner(index))
    for _ in range(2):
        for i in range(3):
            assert torch.equal(data[i]["image"], plain[i]["image"])
    assert read == [0, 1, 2, 2]


def test_latents_of_unequal_width_are_padded(tmp_path):
    one = {0: CADS[0]}
    path = tmp_path / "a.h5"
    with cache.CacheWriter(
        path, dataset="d", split="s", category="a", image_size=SIZE, config={"scale": 0.1}, cads=one
    ) as writer:
        writer.add(sample(0))
    cache.write_latents(path, np.ones((1, 1)))
    other = write(tmp_path / "b.h5")
    cache.write_latents(other, np.ones((3, 2)))
    assert SampleDataset([path, other])[0]["latent"].tolist() == [1, 0]


def test_images_of_two_sizes_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with cache.CacheWriter(
        path, dataset="d", split="s", category="a", image_size=(32, 32), config={"scale": 0.1}, cads=CADS
    ):
        pass
    with pytest.raises(ValueError, match="one size"):
        SampleDataset([path, write(tmp_path / "b.h5")])
    with pytest.raises(ValueError, match=r"no sample in .*a\.h5"):
        SampleDataset([path])


def test_find(tmp_path):
    write(tmp_path / "pascal3d" / "train" / "car.h5")
    write(tmp_path / "pascal3d" / "train" / "bus.h5")
    assert [p.stem for p in cache_split.find(tmp_path, "pascal3d/train")] == ["bus", "car"]
    assert [p.stem for p in cache_split.find(tmp_path, "pascal3d/train", ["car"])] == ["car"]
    with pytest.raises(ValueError, match="prep-data pascal3d"):
        cache_split.find(tmp_path, "pascal3d/val")
    with pytest.raises(ValueError, match=r"sofa\.h5; the categories there are bus, car"):
        cache_split.find(tmp_path, "pascal3d/train", ["sofa"])


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def damage_not_hdf5(path: Path) -> None:
    path.write_text("hello")


def damage_version(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 2


def damage_incomplete(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = False


def damage_missing(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["focal"]


def damage_type(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["focal"]
        file["focal"] = np.zeros(3, np.float32)


def damage_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["focal"]
        file["focal"] = h5py.ExternalLink("elsewhere.h5", "focal")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_cut, "not a whole HDF5 file"),
        (damage_not_hdf5, "not a whole HDF5 file"),
        (damage_version, "schema version 2"),
        (damage_incomplete, "not complete"),
        (damage_missing, "dataset focal is missing"),
        (damage_type, r"focal is float32 \(3,\), want float64"),
        (damage_link, "dataset focal is missing"),
        (Path.unlink, "does not exist"),
    ],
)
def test_broken_file_is_refused(tmp_path, damage, said):
    path = write(tmp_path / "car.h5")
    damage(path)
    with pytest.raises(ValueError, match=said) as caught:
        cache.CacheFile(path)
    assert "car.h5" in str(caught.value)


def test_a_folder_called_like_a_cache_file(tmp_path):
    (tmp_path / "car.h5").mkdir()
    with pytest.raises(ValueError, match=r"car\.h5 has the name of a cache file and is not a file: move it"):
        cache.CacheFile(tmp_path / "car.h5")


def test_a_photo_that_was_never_written(tmp_path):
    path = write(tmp_path / "pascal3d" / "val" / "car.h5")
    with h5py.File(path, "a") as file:
        shape = file["images"].shape
        del file["images"]
        file.create_dataset("images", shape, np.uint8, chunks=(1, *shape[1:]))
    with (
        cache.CacheFile(path) as file,
        pytest.raises(ValueError, match=r"car\.h5: dataset images is damaged .*; make it again"),
    ):
        file.read("images", 0)


def test_a_training_opens_each_file_few_times(tiny, tiny_folder, tmp_path, monkeypatch):
    """Once for what it says beside its photos, and once for the photos."""
    from ntdm import train

    opened = []
    start = cache.CacheFile.__init__
    monkeypatch.setattr(
        cache.CacheFile, "__init__", lambda self, path: (opened.append(path), start(self, path))[1]
    )
    config = dataclasses.replace(tiny.TRAIN, epochs=1)
    train.run(config, tiny_folder / "cache", tiny_folder / "shapes", tmp_path / "run")
    assert {opened.count(path) for path in set(opened)} == {2}


def test_a_lock_of_another_program_keeps_nobody_from_reading(tmp_path):
    """Caches are only ever replaced as whole files."""
    path = write(tmp_path / "car.h5")
    code = (
        "import h5py, sys, time; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        with cache.CacheFile(path) as file:
            assert len(file) == 3
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("number", ["EACCES", "ENOLCK", "EIO", "EMFILE"])
def test_what_the_system_refuses_is_not_called_damage(tmp_path, monkeypatch, number):
    path = write(tmp_path / "car.h5")

    def refuse(*given: object, **options: object) -> None:
        raise OSError(getattr(errno, number), "unable to open file")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(ValueError, match=r"car\.h5 cannot be opened: ") as caught:
        cache.CacheFile(path)
    assert "--overwrite" not in str(caught.value)
