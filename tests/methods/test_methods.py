"""Every method through the same two stages on the tiny world: trained, loaded, evaluated, scored."""

import csv
import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ntdm import evaluate, train
from ntdm.config.reading import to_dict
from ntdm.io.error_table import ERROR_COLUMNS, OPTIONAL_ERROR_COLUMNS, read_errors
from ntdm.io.predictions import read_predictions
from ntdm.io.table import KEY_COLUMNS
from ntdm.methods import load
from ntdm.methods.registry import METHODS, configure
from ntdm.reports import tables
from ntdm.training import checkpoints, schedule

SPLITS = ("pascal3d/val", "occluded_pascal3d/L1")
FLAT = {"low": [0, 0], "high": [1, 1, 1], "vertices": 9}
MEASURED = {  # columns of the error file
    "nemo": {"rotation_error", "seconds"},
    "res50-pose": {"rotation_error", "rotation_error_free", "seconds"},
    "res50-class": {"class_correct", "seconds"},
}


@pytest.mark.parametrize("method", MEASURED)
def test_trained_loaded_and_scored(tiny, tiny_folder, tmp_path, method):
    settings = tiny.training(method, epochs=2)
    run = train.run(settings, tiny_folder / "cache", tmp_path / "no shapes", tmp_path / "run")
    with open(run / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    model, description = load.load(run)
    assert description["method"] == method
    assert set(description["shapes"]) == ({"car", "sofa"} if method == "nemo" else set())
    assert not any(p.requires_grad for p in model.parameters())
    for split, path in zip(SPLITS, evaluate.run(run, tiny_folder / "cache", SPLITS, tiny.INFER), strict=True):
        errors = read_errors(path)
        measured = {c for c in (*ERROR_COLUMNS, *OPTIONAL_ERROR_COLUMNS) if errors.measured(c)}
        assert measured - set(KEY_COLUMNS) == MEASURED[method]
        table = read_predictions(run / "predictions" / f"{split}.csv")
        assert table.measured("predicted_category") == ("class_correct" in MEASURED[method])


def test_interrupted_nemo_ends_as_if_it_had_not_been(tiny, tiny_folder, tmp_path, monkeypatch):
    settings = tiny.training("nemo", epochs=2, augment=0.5)
    whole = train.run(settings, tiny_folder / "cache", tmp_path, tmp_path / "whole")
    save, saved = checkpoints.save, []

    def interrupt(*args):
        save(*args)
        saved.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train.run(settings, tiny_folder / "cache", tmp_path, tmp_path / "cut")
    cut = train.run(settings, tiny_folder / "cache", tmp_path, tmp_path / "cut", resume=True)
    assert saved == [1]
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()


def test_a_run_of_sgd_in_steps_goes_on_where_it_stopped(tiny, tiny_folder, tmp_path, monkeypatch):
    settings = replace(
        tiny.CLASSIFIER, epochs=3, optimiser="sgd", learning_rate=0.01, schedule="steps", decay_every=2
    )
    assert [schedule.learning_rate(settings, step, 9) for step in (0, 5, 6, 8)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001]
    )
    whole = train.run(settings, tiny_folder / "cache", tmp_path, tmp_path / "whole")
    save = checkpoints.save

    def interrupt(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train.run(settings, tiny_folder / "cache", tmp_path, tmp_path / "cut")
    cut = train.run(settings, tiny_folder / "cache", tmp_path, tmp_path / "cut", resume=True)
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()


def test_a_run_before_there_were_other_methods_is_loaded(tiny_folder, tmp_path):
    """config.json of an older ntdm lacks the newer keys."""
    run = shutil.copytree(tiny_folder / "classifier", tmp_path / "run")
    description = json.loads((run / "config.json").read_text()) | {"schema_version": 1}
    for key in ("optimiser", "decay_every", "resize"):
        del description["train"][key]
    description["train"] |= {"texture_size": 64, "far_angle": 0.245}
    (run / "config.json").write_text(json.dumps(description))
    assert load.load(run)[0].config.method == "pose-classifier"


@pytest.fixture(scope="module")
def nemo_run(tiny, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nemo")
    return train.run(tiny.training("nemo", epochs=1), tiny_folder / "cache", folder, folder / "run")


def test_a_run_of_version_1_is_finished(tiny, tiny_folder, nemo_run, tmp_path, capsys):
    """Its config.json had the keys of all methods."""
    config, run = tiny.training("nemo", epochs=1), shutil.copytree(nemo_run, tmp_path / "run")
    description = json.loads((run / "config.json").read_text())
    every = {key: value for m in METHODS for key, value in to_dict(METHODS[m].config()).items()}
    (run / "config.json").write_text(
        json.dumps(description | {"schema_version": 1, "train": every | description["train"]})
    )
    train.run(config, tiny_folder / "cache", tmp_path, run)
    assert "finished already, with the same config" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"made with another config \(train\.near_distance: 0\.08 -> 0\.1\)"):
        train.run(replace(config, near_distance=0.1), tiny_folder / "cache", tmp_path, run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, r"schema version 3, this ntdm reads \(1, 2\)"),
        ({"train": {"method": "nerf"}}, "train.method is 'nerf', want ntdm or nemo"),
        ({"train": {"method": ["nemo"]}}, r"train.method is \['nemo'\], want"),
        ({"categories": [3]}, r"categories is \[3\], want names"),
        ({"shapes": {"car": {}}}, "shapes is not one object a category"),
        ({"shapes": {"car": {}, "sofa": {}}}, "low is None"),
        ({"shapes": {"car": FLAT, "sofa": FLAT}}, r"a cuboid from \[0, 0\] to"),
    ],
)  # fmt: skip
def test_a_damaged_description_is_named(nemo_run, tmp_path, change, message):
    run = shutil.copytree(nemo_run, tmp_path / "run")
    description = json.loads((run / "config.json").read_text()) | change
    (run / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=rf"config\.json.*{message}.*--overwrite"):
        load.load(run)


def test_a_fault_of_a_method_is_not_called_damage(tiny_folder, monkeypatch):
    def build(config, categories, shapes):
        raise KeyError("a fault of the program")

    monkeypatch.setitem(METHODS, "ntdm", replace(METHODS["ntdm"], build=build))
    with pytest.raises(KeyError, match="a fault of the program"):
        load.load(tiny_folder / "ntdm")


def test_a_run_has_the_name_it_is_given(tiny, tiny_folder, tmp_path):
    settings = tiny.training("res50-class", epochs=1)
    run = train.run(settings, tiny_folder / "cache", tmp_path, tmp_path / "run", name="Res50, long")
    assert json.loads((run / "config.json").read_text())["method"] == "Res50, long"
    assert load.load(run)[0].config.method == "res50-class"


def test_nemo_without_cads_is_refused(tiny, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ntdm.io.cache.CacheFile.cads", lambda self: {})
    with pytest.raises(ValueError, match="caches of car hold no CAD to build nemo's cuboid"):
        train.run(tiny.training("nemo"), tiny_folder / "cache", tmp_path, tmp_path / "run")
    assert not Path(tmp_path / "run").exists()


def test_the_example_of_a_new_method(checkout, tiny, tiny_folder, tmp_path, monkeypatch):
    """docs/methods.md as it stands: learns, is loaded again, evaluated, and gets its rows in a table."""
    (code,) = re.findall(r"```python\n(.*?)```", (checkout / "docs" / "methods.md").read_text(), re.DOTALL)
    path = tmp_path / "regressor.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("regressor", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "regressor", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, module.METHOD.name, module.METHOD)
    (tmp_path / "mine.toml").write_text("[train]\nepochs = 30\n[train.regressor]\ntheta_weight = 0.5\n")
    settings = configure(str(tmp_path / "mine.toml"), method="regressor")
    assert (settings.epochs, settings.theta_weight) == (30, 0.5)
    settings = tiny.training("regressor", epochs=30)
    run = train.run(settings, tiny_folder / "cache", tmp_path / "no shapes", tmp_path / "run")
    with open(run / "train.csv", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.5 * losses[0]
    evaluate.run(run, tiny_folder / "cache", SPLITS, tiny.INFER)
    table = tables.report(1, [run], tmp_path / "report", published=False)
    with open(table, newline="") as file:
        assert [row["metric"] for row in csv.DictReader(file)] == ["pose_acc_pi_6", "pose_acc_pi_18"]
