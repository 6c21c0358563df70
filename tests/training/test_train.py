"""Training on the tiny world: the run folder, resuming bit for bit, and what is refused."""

import csv
import itertools
import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from ntdm import train
from ntdm.io import cache
from ntdm.io.cache_split import CacheSplit
from ntdm.methods import load
from ntdm.methods.classifier import Classifier
from ntdm.methods.ntdm import NTDM
from ntdm.training import checkpoints
from ntdm.training.schedule import learning_rate


def weights(run) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "model.safetensors")


def start(tiny_folder, out, config, **options):
    return train.run(config, tiny_folder / "cache", tiny_folder / "shapes", out, **options)


def test_run_folder(tiny, tiny_folder):
    run = tiny_folder / "ntdm"
    assert {p.name for p in run.iterdir()} == {
        "config.json", "run.json", "model.safetensors", "train.csv", "train_names.txt",
    }  # fmt: skip
    described, ran = (json.loads((run / name).read_text()) for name in ("config.json", "run.json"))
    assert described["method"] == "ntdm"
    assert described["categories"] == ["car", "sofa"]
    assert described["image_size"] == list(tiny.SIZE)
    assert described["nominal_focal"] == pytest.approx(tiny.FOCAL)
    assert ran["samples"] == 12
    assert ran["data_fingerprint"] == CacheSplit.open(tiny_folder / "cache", ["pascal3d/train"]).fingerprint
    with open(run / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["3", "6"]
    assert all(float(row["loss"]) >= 0 for row in rows)
    names = (run / "train_names.txt").read_text().split()
    assert len(names) == 12
    assert "car/photo_0" in names


def test_trained_model_is_loaded(tiny, tiny_folder):
    model, description = load.load(tiny_folder / "ntdm")
    assert isinstance(model, NTDM)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert description["categories"] == list(model.categories)
    assert len(model.bank.valid()) > 0
    assert float(model.texture.seen.sum()) > 0
    stored = weights(tiny_folder / "ntdm")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, stored[name], rtol=0, atol=0)


def test_pose_classifier_is_trained_without_shapes(tiny_folder):
    model, description = load.load(tiny_folder / "classifier")
    assert isinstance(model, Classifier)
    assert description["shapes"] == {}
    guess = model.predict(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert guess.viewpoint.shape == (2, 3)
    assert ((guess.score >= 0.5) & (guess.score <= 1)).all()  # of two classes


def interrupt_after(monkeypatch, epochs: int) -> None:
    """Ctrl-C just after that epoch's checkpoint."""
    whole, count = checkpoints.save, 0

    def save(*args):
        nonlocal count
        whole(*args)
        count += 1
        if count == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save)


@pytest.mark.parametrize("method", ["ntdm", "classifier"])
def test_interrupted_run_ends_as_if_it_had_not_been(tiny, tiny_folder, tmp_path, monkeypatch, method):
    config = replace(tiny.TRAIN if method == "ntdm" else tiny.CLASSIFIER, epochs=2, augment=0.5, patches=0.8)
    whole = start(tiny_folder, tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            start(tiny_folder, tmp_path / "cut", config)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="the training did not finish"):
        load.load(tmp_path / "cut")
    torch.rand(7)  # whatever else draws in between
    cut = start(tiny_folder, tmp_path / "cut", config, resume=True)
    assert not (cut / "checkpoints/last.safetensors").exists()
    a, b = weights(whole), weights(cut)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    with open(cut / "train.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_a_kill_between_the_last_checkpoint_and_train_csv(tiny, tiny_folder, tmp_path, monkeypatch):
    config = replace(tiny.TRAIN, epochs=2)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            start(tiny_folder, tmp_path / "cut", config)
    table = tmp_path / "cut" / "train.csv"
    whole = table.read_text()
    table.write_text("".join(whole.splitlines(keepends=True)[:2]))
    start(tiny_folder, tmp_path / "cut", config)
    assert table.read_text() == whole


def test_refitted_shapes_are_another_config(tiny, tiny_folder, tmp_path):
    config = replace(tiny.TRAIN, epochs=1)
    shapes = shutil.copytree(tiny_folder / "shapes", tmp_path / "shapes")
    train.run(config, tiny_folder / "cache", shapes, tmp_path / "run")
    path = shapes / "car.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    tensors["scale"] *= 2
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=r"another config \(shapes\.car\.digest"):
        train.run(config, tiny_folder / "cache", shapes, tmp_path / "run")


def test_interrupted_run_of_another_config_is_refused(tiny, tiny_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            start(tiny_folder, tmp_path / "run", tiny.TRAIN)
    with pytest.raises(ValueError, match=r"texture_momentum.*--overwrite"):
        start(tiny_folder, tmp_path / "run", replace(tiny.TRAIN, texture_momentum=0.8))


def test_finished_run_is_kept(tiny, tiny_folder, tmp_path):
    run = shutil.copytree(tiny_folder / "ntdm", tmp_path / "run")
    before = (run / "model.safetensors").stat().st_mtime_ns
    assert start(tiny_folder, run, tiny.TRAIN) == run
    assert (run / "model.safetensors").stat().st_mtime_ns == before


def test_finished_run_of_another_config_is_refused_and_the_key_named(tiny, tiny_folder, tmp_path):
    run = shutil.copytree(tiny_folder / "ntdm", tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"learning_rate: 0\.001 -> 0\.002") as refused:
        start(tiny_folder, run, replace(tiny.TRAIN, learning_rate=0.002))
    assert "texture_size" not in str(refused.value)  # only what differs is named
    assert (run / "model.safetensors").read_bytes() == before
    start(tiny_folder, run, replace(tiny.TRAIN, learning_rate=0.002, epochs=1), overwrite=True)
    assert (run / "model.safetensors").read_bytes() != before
    assert json.loads((run / "config.json").read_text())["train"]["learning_rate"] == 0.002


def test_nothing_to_resume_is_refused(tiny, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=r"--resume: .*last\.safetensors does not exist"):
        start(tiny_folder, tmp_path / "run", tiny.TRAIN, resume=True)


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_broken_checkpoint_is_refused(tiny, tiny_folder, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            start(tiny_folder, tmp_path / "run", tiny.TRAIN)
    checkpoint = tmp_path / "run" / "checkpoints/last.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000] if damage == "cut" else b"not a checkpoint")
    with pytest.raises(ValueError, match=r"last\.safetensors cannot be read.*--overwrite"):
        start(tiny_folder, tmp_path / "run", tiny.TRAIN)
    start(tiny_folder, tmp_path / "run", replace(tiny.TRAIN, epochs=1), overwrite=True)


def test_cache_without_latents(tiny, tiny_folder, tmp_path):
    tiny.write_cache(tmp_path / "cache", "pascal3d/train", latents=False)
    with pytest.raises(ValueError, match=r"car\.h5 holds no latents; run `ntdm fit-shapes`"):
        train.run(tiny.TRAIN, tmp_path / "cache", tiny_folder / "shapes", tmp_path / "run")


def test_missing_caches_and_shapes(tiny, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=r"no cache file in .*nowhere"):
        start(tiny_folder, tmp_path / "run", tiny.TRAIN, train_on=["pascal3d/nowhere"])
    with pytest.raises(ValueError, match=r"no cache file .*boat\.h5; the categories there are car, sofa"):
        start(tiny_folder, tmp_path / "run", tiny.TRAIN, categories=["car", "boat"])
    with pytest.raises(ValueError, match="run `ntdm fit-shapes`"):
        train.run(tiny.TRAIN, tiny_folder / "cache", tmp_path / "no_shapes", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_image_size_that_is_no_multiple(tiny, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.write_cache.__globals__, "SIZE", (64, 72))
    tiny.write_cache(tmp_path / "cache", "pascal3d/train")
    with pytest.raises(ValueError, match=r"\(64, 72\).*multiples of 16.*--image-size"):
        train.run(tiny.TRAIN, tmp_path / "cache", tiny_folder / "shapes", tmp_path / "run")
    pooled = replace(tiny.CLASSIFIER, epochs=1)
    run = train.run(pooled, tmp_path / "cache", tiny_folder / "shapes", tmp_path / "classifier")
    model, _ = load.load(run)
    assert model.predict(torch.zeros(2, 3, 64, 72, dtype=torch.uint8)).viewpoint.shape == (2, 3)


def test_loss_that_is_not_a_number(tiny, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=r"loss is nan at step \d+.*lower learning_rate"):
        start(tiny_folder, tmp_path / "run", replace(tiny.TRAIN, learning_rate=1e30, epochs=4))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_epoch_of_one_step(tiny, tiny_folder, tmp_path):
    """The first step has no texture to compare with; what it fills is learned from in the second."""
    start(tiny_folder, tmp_path / "run", replace(tiny.TRAIN, batch_size=12))
    with open(tmp_path / "run" / "train.csv", newline="") as file:
        texels = [float(row["texels"]) for row in csv.DictReader(file)]
    assert texels[0] == 0 < texels[1]


def test_meshes_that_no_photo_shows(tiny, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="an epoch used no texel or vertex"):
        start(tiny_folder, tmp_path / "run", replace(tiny.TRAIN, quad_extent=1e-6))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_configuration_is_of_its_method_alone(tiny):
    with pytest.raises(ValueError, match="train method is 'nemo': want ntdm"):
        replace(tiny.TRAIN, method="nemo")


def test_what_is_no_run_or_a_broken_one_is_not_loaded(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        load.load(tmp_path)
    run = shutil.copytree(tiny_folder / "ntdm", tmp_path / "run")
    state = weights(run)
    state["texture.theta"][0, 0, 0, 0, 0] = float("nan")
    safetensors.torch.save_file(state, run / "model.safetensors")
    with pytest.raises(ValueError, match=r"texture\.theta holds values that are not finite"):
        load.load(run)
    del state["texture.theta"]
    safetensors.torch.save_file(state, run / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds another model than .*config\.json describes"):
        load.load(run)
    (run / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="train again with --overwrite"):
        load.load(run)
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load.load(run)


def test_latents_of_other_shapes_are_refused(tiny, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder / "cache", tmp_path / "cache")
    path = tmp_path / "cache" / "pascal3d" / "train" / "car.h5"
    with cache.CacheFile(path) as file:
        count = len(file)
    cache.write_latents(path, torch.eye(count, 5).numpy())
    with pytest.raises(ValueError, match=r"car\.h5 has latents of 5 entries, .*shapes a shape of 2"):
        train.run(tiny.TRAIN, tmp_path / "cache", tiny_folder / "shapes", tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_the_rate_rises_then_falls_to_the_last(tiny, schedule):
    config = replace(
        tiny.TRAIN, schedule=schedule, learning_rate=0.5, final_learning_rate=0.1, warmup_steps=10
    )
    rates = [learning_rate(config, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.05, rel=0.01)
    assert max(rates) == rates[9]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.05, rel=0.01)
    # The paper's: a constant factor a step.
    constant = all(b / a == pytest.approx(0.1**0.001) for a, b in itertools.pairwise(rates[9:]))
    assert constant == (schedule == "exponential")


def test_a_short_run_warms_up_within_its_first_tenth(tiny):
    config = replace(tiny.TRAIN, warmup_steps=100, schedule="exponential", final_learning_rate=1.0)
    assert learning_rate(config, 3, 40) == config.learning_rate
