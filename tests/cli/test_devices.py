"""--device cuda on a machine that has none: the stages on a device that only says that it is CUDA.

The CPU computes in both cases, so the files must be the same to the last bit.
"""

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from ntdm import evaluate, infer, train
from ntdm.estimate import FILES
from ntdm.io.cache import CacheFile
from pretended_cuda import pretended_cuda


@pytest.fixture
def cuda() -> Iterator[str]:
    """A device on which what was not moved there is an error."""
    with pretended_cuda():
        yield "cuda:0"


@pytest.mark.parametrize("method", ["ntdm", "classifier"])
def test_train(cuda, tiny, tiny_folder, tmp_path, method):
    config = {"ntdm": tiny.TRAIN, "classifier": tiny.CLASSIFIER}[method]
    run = train.run(config, tiny_folder / "cache", tiny_folder / "shapes", tmp_path / "run", device=cuda)
    weights = (run / "model.safetensors").read_bytes()
    assert weights == (tiny_folder / method / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["ntdm", "classifier"])
def test_evaluate(cuda, tiny, tiny_folder, tmp_path, method):
    written = []
    for name, device in (("cpu", "cpu"), ("cuda", cuda)):
        run = shutil.copytree(tiny_folder / method, tmp_path / name)
        evaluate.run(run, tiny_folder / "cache", ["occluded_pascal3d/L1"], tiny.INFER, device=device)
        rows = (run / "predictions" / "occluded_pascal3d" / "L1.csv").read_text().splitlines()
        column = rows[0].split(",").index("seconds")
        written.append([[x for i, x in enumerate(row.split(",")) if i != column] for row in rows])
    assert written[0] == written[1]


def test_infer(cuda, tiny, tiny_folder, tmp_path):
    with CacheFile(tiny_folder / "cache" / "pascal3d" / "val" / "car.h5") as file:
        Image.fromarray(np.asarray(file["images"][0])).save(tmp_path / "photo.png")
    for name, device in (("cpu", "cpu"), ("cuda", cuda)):
        infer.run(
            [tmp_path / "photo.png"], tiny_folder / "ntdm", tmp_path / name, None, tiny.INFER, device=device
        )
    for name in FILES:
        files = [tmp_path / folder / "photo" / name for folder in ("cpu", "cuda")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
