"""Files that an earlier version made are read: a cache, a shape, a run with its predictions and errors.

tests/worlds/made_by_0_1_0 was made by training and evaluating on a tiny world before the sub-packages. Of the
weights (3 MB) it holds names, types and shapes; the test fills them.
"""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import ntdm
from ntdm import evaluate, train
from ntdm.config.reading import from_dict, keys_of, to_dict
from ntdm.config.stages import InferConfig
from ntdm.io import predictions
from ntdm.io.cache_split import CacheSplit
from ntdm.io.error_table import read_errors
from ntdm.io.run_folder import RunFolder
from ntdm.methods import load
from ntdm.methods.ntdm import NTDM, NTDMConfig
from ntdm.methods.registry import METHODS
from ntdm.shapes.files import load_shape

MADE = Path(__file__).resolve().parents[1] / "worlds" / "made_by_0_1_0"


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A copy, with weights."""
    folder = tmp_path_factory.mktemp("before") / "files"
    shutil.copytree(MADE, folder)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.1 * torch.randn(shape, generator=generator)
        if dtype == "float32"
        else torch.ones(shape).long()
        for name, (dtype, shape) in json.loads((folder / "state.json").read_text()).items()
    }
    state |= {name: value.abs() + 0.5 for name, value in state.items() if name.endswith("running_var")}
    safetensors.torch.save_file(state, folder / "run" / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def described(before) -> dict:
    return json.loads((before / "run" / "config.json").read_text())


def test_caches(before, described):
    split = CacheSplit.open(before / "cache", ["pascal3d/train"])
    assert split.fingerprint == described["data_fingerprint"]
    assert (split.nominal_focal, split.typical_box) == (described["nominal_focal"], described["typical_box"])
    assert split.names == {f"car/photo_{i}" for i in range(4)}
    with ntdm.CacheFile(split.paths[0]) as file:
        assert file["images"].shape == (4, 32, 32, 3) and file["amodal_mask"].any()


def test_shapes(before, described):
    shape = load_shape(before / "shapes" / "car.safetensors")
    vertices = shape(shape.one_hot())
    half = vertices.abs().amax((0, 1))
    torch.testing.assert_close(half, torch.tensor([0.2, 0.4, 0.15]), atol=0.02, rtol=0)
    assert load_shape.__module__ == "ntdm.shapes.files" and described["shapes"]["car"]["num_latents"] == 2


def test_a_run_is_loaded_and_not_trained_again(before, described, capsys):
    model, description = load.load(before / "run")
    assert isinstance(model, NTDM) and description["shapes"] == described["shapes"]
    config = model.config
    assert (config.texture_size, config.quad_extent) == (8, 0.45)
    weights = (before / "run" / "model.safetensors").read_bytes()
    train.run(config, before / "cache", before / "shapes", before / "run")
    assert "finished already, with the same config" in capsys.readouterr().err
    assert (before / "run" / "model.safetensors").read_bytes() == weights
    estimate = ntdm.load(before / "run", "cpu")(torch.zeros(40, 50, 3, dtype=torch.uint8).numpy())
    assert estimate.category == "car" and estimate.amodal.shape == (40, 50)


def test_predictions_and_errors(before):
    table = before / "run" / "predictions" / "pascal3d" / "val.csv"
    rows = predictions.read_predictions(table)
    assert rows.keys() == [("car", "unseen_0"), ("car", "unseen_1")]
    assert predictions.read_geometry(table, rows.keys()).amodal.shape == (2, 32, 32)
    errors = read_errors(before / "run" / "errors" / "pascal3d" / "val.csv")
    frame = ntdm.reports.errors(before / "run")
    assert frame["rotation_error"].tolist() == errors["rotation_error"].tolist()
    assert ntdm.reports.table(1, [before / "run"])["n"].tolist() == [2, 2, 2, 2]


def test_a_config_that_was_stored_is_the_config_of_today(before, described):
    """Else every run would ask for --overwrite."""
    inference = json.loads((before / "infer.json").read_text())
    assert to_dict(from_dict(InferConfig, inference)) == inference
    description = load.read_description(RunFolder(before / "run"))
    assert to_dict(from_dict(NTDMConfig, description["train"])) == description["train"]
    assert description["train"] == {key: described["train"][key] for key in keys_of(NTDMConfig)}
    made_with = predictions.made_with(before / "run" / "predictions" / "pascal3d" / "val.csv")
    assert made_with["infer"] == inference
    files = CacheSplit.open(before / "cache", ["pascal3d/val"])
    assert made_with["data"] == files.fingerprint


@pytest.mark.parametrize("method", ["nemo", "res50-pose"])
def test_other_methods_keep_their_keys(tmp_path, method):
    """config.json of then has the keys of all methods; of another one's, texture_size, nothing is left."""
    stored = json.loads(shutil.copy(MADE / f"{method}.json", tmp_path / "config.json").read_text())
    description = load.read_description(RunFolder(tmp_path))
    config = from_dict(METHODS[method].config, description["train"])
    assert stored["schema_version"] == 1 and description["schema_version"] == 2
    assert to_dict(config) == {key: stored["train"][key] for key in keys_of(type(config))}
    restore = METHODS[method].shapes.restore
    shapes = {name: restore(shape, "config.json") for name, shape in description["shapes"].items()}
    model = METHODS[method].build(config, description["categories"], shapes)
    assert model.categories == ("car", "sofa") and set(shapes) in ({"car", "sofa"}, set())


def test_an_evaluation_goes_on(before):
    """With these weights the predictions are others': they are made again where that is asked for."""
    inference = from_dict(InferConfig, json.loads((before / "infer.json").read_text()))
    with pytest.raises(ValueError, match=r"was made with another config \(weights: "):
        evaluate.run(before / "run", before / "cache", ["pascal3d/val"], inference)
    evaluate.run(before / "run", before / "cache", ["pascal3d/val"], inference, overwrite=True)
