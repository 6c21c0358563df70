"""Several processes under torchrun: what they train and predict together is what one process does alone."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import shared_steps
from ntdm import train
from ntdm.data import distributed
from ntdm.io import predictions
from ntdm.io.run_folder import RunFolder

# What differs between one process and two is the order of sums: in float64, of at most 2e5 terms near 1, that
# is 2e5 * 1e-16, and each of four steps may pass it on tenfold.
TOLERANCE = 1e-9
# A command as the terminal gives it, with one thread a process: at one thread count, digits repeat.
NTDM = (sys.executable, "-c", "from ntdm.cli import main; main()")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*command: str | Path) -> None:
    """A command to its end, which has to be a good one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The tiny world's caches and shapes, in a folder for runs."""
    folder = tmp_path_factory.mktemp("distributed")
    for name in ("cache", "shapes"):
        (folder / name).symlink_to(tiny_folder / name)
    return folder


@pytest.mark.numeric
@pytest.mark.parametrize("method", ["ntdm", "pose-classifier"])
def test_two_processes_do_the_steps_of_one(folder, method):
    script = Path(shared_steps.__file__)
    run(sys.executable, script, folder, method, folder / f"{method}-alone")
    run(*TORCHRUN, script, folder, method, folder / f"{method}-shared")
    alone, first, second = (
        safetensors.torch.load_file(folder / f"{method}-{name}.safetensors")
        for name in ("alone_0", "shared_0", "shared_1")
    )
    assert alone.keys() == first.keys() == second.keys()
    assert any(name.startswith("gradient.backbone") for name in alone)
    for name, expected in alone.items():
        # Backbone, statistics of batch norm, textures and background bank are one in all processes.
        assert torch.equal(first[name], second[name]), name
        if expected.is_floating_point():
            assert expected.dtype == torch.float64
            assert (first[name] - expected).abs().max() <= TOLERANCE, name
        else:  # the photos of each step, in order
            assert torch.equal(first[name], expected), name
    moved = [
        name
        for name, value in alone.items()
        if name.startswith("step3.") and not torch.equal(value, alone[name.replace("step3", "step0")])
    ]
    assert moved, "nothing was learned"


def test_two_processes_go_on_where_one_was_interrupted(tiny, folder):
    """The files of a run, and every step once; an epoch's row says which epoch it is."""
    config = folder / "config.toml"
    keys = {name: getattr(tiny.TRAIN, name) for name in ("feature_dim", "texture_size", "background_bank")}
    keys |= {"epochs": 2, "batch_size": 5, "bf16": "false", "positives": 64}
    config.write_text("[train]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items()))
    shared = folder / "shared"
    options = ("train", "--config", config, "--cache", folder / "cache", "--shapes", folder / "shapes")
    run(*NTDM, *options, "--out", folder / "alone")
    # The state that an interruption after the first epoch leaves is what a run of one epoch checkpoints.
    interrupted(folder, config, shared)
    assert RunFolder(shared).checkpoint.exists()
    run(*TORCHRUN, "--no-python", "--", *NTDM, *options, "--out", shared, "--resume")
    rows = [list(csv.DictReader((run / "train.csv").open())) for run in (folder / "alone", shared)]
    for one, other in zip(*rows, strict=True):
        assert one.keys() == other.keys()
        assert (one["epoch"], one["step"], one["texels"]) == (other["epoch"], other["step"], other["texels"])
    files = [{p.relative_to(run) for p in run.rglob("*")} for run in (folder / "alone", shared)]
    assert files[0] == files[1] and not list(shared.rglob(".*"))
    assert (shared / "train_names.txt").read_bytes() == (folder / "alone/train_names.txt").read_bytes()


def interrupted(folder: Path, config: Path, out: Path) -> None:
    """A training that Ctrl-C ends once its first checkpoint is written."""
    code = """if True:
        from ntdm.cli import main
        from ntdm.training import checkpoints
        save = checkpoints.save
        def save_and_stop(*arguments):
            save(*arguments)
            raise KeyboardInterrupt
        checkpoints.save = save_and_stop
        main()"""
    command = (sys.executable, "-c", code, "train", "--config", config, "--cache", folder / "cache")
    with pytest.raises(AssertionError, match="nterrupted"):
        run(*command, "--shapes", folder / "shapes", "--out", out)


def test_two_processes_predict_what_one_does(tiny, tiny_folder, folder):
    """The same weights and the same batches of photos: at one thread count, digit by digit."""
    config = folder / "infer.toml"
    tuples = {name: list(getattr(tiny.INFER, name)) for name in ("elevations", "thetas")}
    numbers = ("azimuths", "refined_starts", "screening_steps", "steps", "batch_size")
    keys = {name: getattr(tiny.INFER, name) for name in numbers} | tuples
    config.write_text("[infer]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items()))
    tables = []
    for start in (NTDM, (*TORCHRUN, "--no-python", "--", *NTDM)):
        copy = folder / f"evaluated-{len(start)}"
        copy.mkdir()
        for name in ("config.json", "model.safetensors", "train_names.txt"):
            (copy / name).write_bytes((tiny_folder / "ntdm" / name).read_bytes())
        options = ("--cache", folder / "cache", "--splits", "pascal3d/val", "--config", config)
        run(*start, "evaluate", "--run", copy, *options)
        tables.append(copy / "predictions/pascal3d/val.csv")
        assert (copy / "errors/pascal3d/val.csv").exists()
    assert predictions.made_with(tables[0]) == predictions.made_with(tables[1])
    one, two = (predictions.read_predictions(table) for table in tables)
    assert one.keys() == two.keys() and len(one.keys()) == 6
    for column in ("azimuth", "elevation", "theta", "distance", "score", "predicted_category"):
        assert (one[column] == two[column]).all(), column
    masks = [predictions.read_geometry(table, one.keys()).amodal for table in tables]
    assert (masks[0] == masks[1]).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "nemo"}, "nemo trains in one process: start it without torchrun"),
        ({"batch_size": 1}, "a batch of 1 samples cannot be shared by 2 processes"),
    ],
)
def test_what_processes_cannot_share(wrong, message, tiny, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    with pytest.raises(ValueError, match=message):
        train.run(tiny.training(**wrong), folder / "cache", folder / "shapes", tmp_path / "run")
