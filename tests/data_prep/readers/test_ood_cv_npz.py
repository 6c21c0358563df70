"""OOD-CV, packaging C: the .npz's pose, the record's CAD where the .npz has none."""

import math
from pathlib import Path

import numpy as np
import pytest

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.io.cache import CacheFile

CONFIG = PrepConfig(image_size=(64, 96), scale=0.3)
ANGLES = {"azimuth": math.radians(310), "elevation": math.radians(10), "theta": math.radians(-5)}
WEB = "collection_car_car_+_snow_google_0022_0"


def write_sample(folder: Path, name: str, **fields) -> Path:
    """A prepared photo and the least that is known of its .npz."""
    raw.write_photo(folder / "images" / f"{name}.JPEG")
    path = folder / "annotations" / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(ANGLES | {"distance": 6.0} | fields))
    return path


@pytest.fixture
def roots(tmp_path) -> tuple[Path, Path]:
    pascal3d = raw.write_pascal3d(tmp_path / "pascal3d")
    root = tmp_path / "pose-npz"
    for name in ("n0_0", "n0_1", "2008_000001_01"):
        write_sample(root / "train" / "processed", name, cad_index=np.uint8(1))
    (root / "train" / "car.txt").write_text("n0_0\nn0_1\n2008_000001_01\nn0_0\n../../n0_1\nn9_gone")
    write_sample(root / "phase-1" / "iid_test", "imagenet_car_n0_1_0")
    write_sample(root / "phase-1" / "nuisances" / "weather", WEB)
    write_sample(root / "phase-1" / "nuisances" / "weather", "imagenet_zebra_n0_1_0")
    return root, pascal3d


def prepare(roots: tuple[Path, Path], **options):
    root, pascal3d = roots
    return prep_data.run("ood-cv", root, root.parent / "cache", CONFIG, pascal3d=pascal3d, **options)


def test_splits(roots, capsys):
    report = prepare(roots)
    assert {file.key: (file.samples, file.dropped) for file in report.files} == {
        "ood_cv/train/car": (3, {"listed_twice": 1, "name_invalid": 1, "image_missing": 1}),
        "ood_cv/iid/car": (1, {}),
        "ood_cv/weather/car": (1, {}),
        "ood_cv/weather/(no category)": (0, {"other_class": 1}),
    }
    assert "OOD-CV, packaging C (pose-npz" in capsys.readouterr().err
    files = {}
    for path in report.paths:
        with CacheFile(path) as file:
            files[file.split] = (
                file["name"],
                file["cad_index"].tolist(),
                file["amodal_mask"].any((1, 2)).tolist(),
            )
            np.testing.assert_allclose(file["viewpoint"][0], [*ANGLES.values(), 6.0], rtol=1e-14)
            # The photo is centred and resized by distance / 5: seen by the same crop camera as the original.
            np.testing.assert_allclose(file["focal"], 3000 * 0.3 * 6 / 5)
            width, height = 0.3 * 100, 0.3 * 80
            want = [48 - width / 2, 32 - height / 2, 48 + width / 2, 32 + height / 2]
            np.testing.assert_allclose(file["bbox"][0], want)
    assert files == {
        "train": (["n0_0_00", "n0_1_00", "2008_000001_01"], [0, 0, 0], [True] * 3),
        "iid": (["n0_1_00"], [1], [True]),  # PASCAL3D+'s record names CAD 02
        "weather": (["car_+_snow_google_0022_00"], [-1], [False]),
    }


def test_cads_of_training_photos_without_one(roots):
    """They are called as in PASCAL3D+, of either part; a CAD number means nothing for another class."""
    root, pascal3d = roots
    train = root / "train"
    names = ["n0_1", "2008_000001", "2008_000001_01", "2008_000001_02", "2008_000001_03"]
    for name in names:
        write_sample(train / "processed", name)
    (train / "car.txt").write_text("\n".join(names))
    objects = [raw.annotated(**change) for change in ({}, {"class": "bus"}, {"viewpoint": raw.EMPTY})]
    raw.write_record(pascal3d / "Annotations" / "car_pascal" / "2008_000001.mat", objects)
    (path,) = prepare(roots, splits=["train"]).paths
    with CacheFile(path) as file:
        found = dict(zip(file["name"], file["cad_index"].tolist(), strict=True))
    # n0_1 and the VOC photo's first object name CAD 02; the second is a bus, the third has no view but a CAD.
    assert found == {
        "n0_1_00": 1, "2008_000001_00": 1, "2008_000001_01": -1, "2008_000001_02": 1, "2008_000001_03": -1,
    }  # fmt: skip


def test_photos_and_annotations_without_each_other(roots):
    folder = roots[0] / "phase-1" / "iid_test"
    (write_sample(folder, "pascal_car_2008_000003_1")).unlink()
    raw.write_photo(folder / "images" / "pascal_car_2008_000002_0.JPEG")
    (folder / "images" / "imagenet_car_n0_1_0.JPEG").unlink()
    write_sample(folder, "pascal_bus_2008_000003_1", distance=0.0)
    with pytest.raises(
        ValueError, match=r"(?s)no sample could be used.*annotation_missing 2, image_missing 1"
    ):
        prepare(roots, splits=["iid"], categories=["car"])


def test_refused_fields(roots, tmp_path, monkeypatch):
    class Opener:
        def __reduce__(self):
            return (Path.touch, (Path("pickle_was_run"),))

    monkeypatch.chdir(tmp_path)
    folder = roots[0] / "phase-1" / "iid_test"
    write_sample(folder, "pascal_car_2008_000003_1", cad_index=np.array(Opener(), dtype=object))
    write_sample(folder, "pascal_car_2008_000004_0", distance=0.0)
    (file,) = prepare(roots, splits=["iid"]).files
    assert file.dropped == {"annotation_unreadable": 1, "distance_not_positive": 1}
    assert not (tmp_path / "pickle_was_run").exists()
