"""Several processes under torchrun: what they train and predict together is what one process does alone."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ntdm import evaluate, train
from ntdm.config.reading import to_dict
from ntdm.config.stages import InferConfig, TrainConfig
from ntdm.data import distributed
from ntdm.io import predictions
from ntdm.training import checkpoints

# Sums are made in another order: measured after these steps, 2e-6 at most.
TOLERANCE = 1e-4
WORKER = """
import json, sys
from pathlib import Path
import safetensors.torch, torch
from ntdm import evaluate, train
from ntdm.data import distributed as parallel
from ntdm.config.stages import InferConfig, TrainConfig, from_dict

torch.set_num_threads(1)
folder, config, inference = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
config, inference = from_dict(TrainConfig, config), from_dict(InferConfig, inference)
fit = train._fit

def kept(model, *rest):
    seconds = fit(model, *rest)
    path = folder / f"{config.method}_{parallel.rank()}.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return seconds

train._fit = kept
run = folder / "together" / config.method
train.run(config, folder / "cache", folder / "shapes", run)
evaluate.run(run, folder / "cache", ["pascal3d/val"], inference)
"""


def together(folder: Path, config: TrainConfig, inference: InferConfig) -> subprocess.CompletedProcess:
    """Trains and evaluates in two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (folder / "worker.py").write_text(WORKER)
    given = [json.dumps(to_dict(config)), json.dumps(to_dict(inference))]
    return subprocess.run(
        [*torchrun, str(folder / "worker.py"), str(folder), *given],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The tiny world's caches and shapes, in a folder for runs."""
    folder = tmp_path_factory.mktemp("parallel")
    for name in ("cache", "shapes"):
        (folder / name).symlink_to(tiny_folder / name)
    return folder


@pytest.fixture(scope="module")
def config(tiny):
    # Five photos: the two have parts of unequal size. SGD: where a gradient is next to nothing, Adam makes a
    # whole step of its sign. With some seeds a rounding moves an input of a ReLU past zero, and the steps
    # after it carry that further than the tolerance.
    training = {"optimiser": "sgd", "learning_rate": 1e-3, "batch_size": 5, "epochs": 3, "seed": 2}
    return replace(tiny.TRAIN, patches=0.8, augment=0.4, **training)


@pytest.mark.parametrize("method", ["ntdm", "pose-classifier"])
def test_two_processes_do_what_one_does(tiny, folder, config, method, monkeypatch):
    config = replace(config, method=method)
    alone, shared = folder / "alone" / method, folder / "together" / method
    train.run(config, folder / "cache", folder / "shapes", alone)
    if method == "ntdm":  # one process begins, two go on
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "save", interrupted(checkpoints.save))
            with pytest.raises(KeyboardInterrupt):
                train.run(config, folder / "cache", folder / "shapes", shared)
    done = together(folder, config, tiny.INFER)
    assert done.returncode == 0, done.stderr[-3000:]
    # Both hold the same: backbone, textures, background bank.
    first, second = (safetensors.torch.load_file(folder / f"{method}_{rank}.safetensors") for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    expected = safetensors.torch.load_file(alone / "model.safetensors")
    saved = safetensors.torch.load_file(shared / "model.safetensors")
    assert set(saved) == set(expected)
    for name, value in expected.items():
        assert saved[name].float().sub(value.float()).abs().max() <= TOLERANCE, name
    rows = [list(csv.DictReader((run / "train.csv").open())) for run in (alone, shared)]
    for one, other in zip(*rows, strict=True):
        for name in set(one) - {"seconds"}:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-2), name
    assert not list((folder / "together").rglob(".*"))


def interrupted(save):
    """Ctrl-C once the first checkpoint is written."""

    def saving(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    return saving


@pytest.mark.parametrize("method", ["ntdm", "pose-classifier"])
def test_two_processes_predict_what_one_does(tiny, folder, method):
    """The run of the test above, evaluated once more by one process."""
    shared, again = folder / "together" / method, folder / "again" / method
    for name in ("config.json", "model.safetensors", "train_names.txt"):
        (again / name).parent.mkdir(parents=True, exist_ok=True)
        (again / name).write_bytes((shared / name).read_bytes())
    evaluate.run(again, folder / "cache", ["pascal3d/val"], tiny.INFER)
    tables = [run / "predictions/pascal3d/val.csv" for run in (shared, again)]
    assert predictions.made_with(tables[0]) == predictions.made_with(tables[1])
    found, expected = (predictions.read_predictions(table) for table in tables)
    assert found.keys() == expected.keys() and len(found.keys()) == 6
    for column in ("azimuth", "elevation", "theta"):
        np.testing.assert_allclose(found[column].astype(float), expected[column].astype(float), atol=1e-2)
    if method == "ntdm":
        masks = [predictions.read_geometry(table, found.keys()).amodal for table in tables]
        assert (masks[0] != masks[1]).mean() < 2e-3
    assert (shared / "errors/pascal3d/val.csv").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "nemo"}, "nemo trains in one process: start it without torchrun"),
        ({"batch_size": 1}, "a batch of 1 samples cannot be shared by 2 processes"),
    ],
)
def test_what_processes_cannot_share(wrong, message, folder, config, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "wait", lambda: None)
    with pytest.raises(ValueError, match=message):
        train.run(replace(config, **wrong), folder / "cache", folder / "shapes", tmp_path / "run")
