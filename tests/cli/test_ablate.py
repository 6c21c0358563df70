"""The ablations of Table 3 on the tiny world: what is trained, what is shared, resuming, and the table."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

from ntdm import ablate, evaluate, train
from ntdm.io.predictions import made_with
from ntdm.io.run_folder import RunFolder
from ntdm.methods import load
from ntdm.reports import tables

NAMES = (
    "full", "no-background", "single-alpha", "fixed-shape", "latent-random", "latent-average",
    "hard-silhouette",
)  # fmt: skip


def start(tiny, tiny_folder, out: Path, **options) -> list[Path]:
    inference = options.pop("inference", tiny.INFER)
    training = options.pop("training", replace(tiny.TRAIN, epochs=1))
    return ablate.run(training, inference, tiny_folder / "cache", tiny_folder / "shapes", out, **options)


@pytest.fixture(scope="module")
def ablated(tiny, tiny_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ablations")
    assert start(tiny, tiny_folder, out) == [out / name for name in NAMES]
    return out


def test_each_is_a_run_of_its_own_name(ablated):
    for name in NAMES:
        model, description = load.load(ablated / name)
        assert description["method"] == name
        assert model.config.method == "ntdm"
        assert model.config.view_bins == (1 if name == "single-alpha" else 7)
    digests = {name: RunFolder(ablated / name).weights_digest() for name in NAMES}
    assert digests.pop("single-alpha") != digests["full"]
    assert set(digests.values()) == {digests["full"]}


def test_each_changes_what_it_says(ablated, tiny):
    full = made_with(ablated / "full/predictions/pascal3d/val.csv")["infer"]
    changed = {}
    for name in NAMES:
        used = made_with(ablated / name / "predictions/pascal3d/val.csv")["infer"]
        changed[name] = {key: value for key, value in used.items() if value != full[key]}
    assert changed == {
        "full": {},
        "no-background": {"background_term": False},
        "single-alpha": {},
        "fixed-shape": {"refine_shape": False, "latent_start": "average"},
        "latent-random": {"latent_start": "random"},
        "latent-average": {"latent_start": "average"},
        "hard-silhouette": {"silhouette": "hard"},
    }


def test_table_3(ablated, tmp_path):
    path = tables.report(3, [ablated / name for name in NAMES], tmp_path, False)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == list(NAMES)
    assert {row["n"] for row in rows} == {"6"}


def test_what_is_finished_is_kept(ablated, tiny, tiny_folder, tmp_path, monkeypatch):
    out = shutil.copytree(ablated, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.parent.name != "sheets"}
    monkeypatch.setattr(train, "_fit", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(evaluate, "_predict", lambda *_: pytest.fail("predicted again"))
    start(tiny, tiny_folder, out)
    kept = {path for path, time in before.items() if path.stat().st_mtime_ns == time}
    assert {
        p for p in before if p.name in ("model.safetensors", "config.json") or "predictions" in p.parts
    } <= kept


def test_an_interrupted_ablation_goes_on(ablated, tiny, tiny_folder, tmp_path):
    out = shutil.copytree(ablated, tmp_path / "out")
    shutil.rmtree(out / "latent-average")
    (out / "latent-random" / "config.json").unlink()  # cut short while its folder was made
    shutil.rmtree(out / "fixed-shape" / "errors")
    start(tiny, tiny_folder, out)
    for name in NAMES:
        found, wanted = (
            [
                {k: v for k, v in row.items() if k != "seconds"}
                for row in csv.DictReader(path.open(newline=""))
            ]
            for path in (root / name / "errors/pascal3d/val.csv" for root in (out, ablated))
        )
        assert found == wanted


def test_another_config_is_refused_and_overwritten_on_demand(ablated, tiny, tiny_folder, tmp_path):
    out = shutil.copytree(ablated, tmp_path / "out")
    changed = replace(tiny.TRAIN, epochs=1, learning_rate=2e-3)
    with pytest.raises(
        ValueError, match=r"full was made with another config .*learning_rate: 0\.001 -> 0\.002"
    ):
        start(tiny, tiny_folder, out, training=changed)
    train.run(
        changed, tiny_folder / "cache", tiny_folder / "shapes", out / "full", overwrite=True, name="full"
    )
    with pytest.raises(ValueError, match=r"no-background has other weights than .*full; pass --overwrite"):
        start(tiny, tiny_folder, out, training=changed)
    start(tiny, tiny_folder, out, training=changed, overwrite=True)
    assert RunFolder(out / "fixed-shape").weights_digest() == RunFolder(out / "full").weights_digest()
    assert json.loads((out / "fixed-shape/config.json").read_text())["train"]["learning_rate"] == 2e-3
    assert RunFolder(out / "full").weights_digest() != RunFolder(ablated / "full").weights_digest()


def test_full_may_be_a_run_there_is(tiny, tiny_folder, tmp_path, monkeypatch):
    config = replace(tiny.TRAIN, epochs=1)
    places = (tiny_folder / "cache", tiny_folder / "shapes", tmp_path / "ntdm")
    given = train.run(config, *places)
    out = tmp_path / "ablations"
    with pytest.raises(
        ValueError, match=r"ntdm was made with another config .*train\.epochs: 1 -> 2.* not full"
    ):
        start(tiny, tiny_folder, out, training=replace(config, epochs=2), full=given)
    shapes = shutil.copytree(places[1], tmp_path / "shapes")
    refitted = safetensors.torch.load_file(shapes / "car.safetensors")
    with safetensors.safe_open(shapes / "car.safetensors", "pt") as file:
        metadata = file.metadata()
    refitted["scale"] *= 2
    safetensors.torch.save_file(refitted, shapes / "car.safetensors", metadata)
    with pytest.raises(ValueError, match=r"shapes\.car\.digest.* not full"):
        ablate.run(config, tiny.INFER, places[0], shapes, out, full=given)
    assert not out.exists()
    single_alpha = []
    fit = train._fit
    monkeypatch.setattr(train, "_fit", lambda *a: single_alpha.append(a[2].view_bins) or fit(*a))
    start(tiny, tiny_folder, out, full=given)
    assert single_alpha == [1], "nothing else is trained"
    assert RunFolder(out / "full").weights_digest() == RunFolder(given).weights_digest()
    assert json.loads((out / "full/config.json").read_text())["method"] == "full"


def test_what_evaluation_refuses_is_refused_before_training(tiny, tiny_folder, tmp_path, monkeypatch):
    out = tmp_path / "ablations"
    with pytest.raises(ValueError, match="predictions hold no principal point"):
        start(tiny, tiny_folder, out, inference=replace(tiny.INFER, refine_principal_point=True))
    cache = shutil.copytree(tiny_folder / "cache", tmp_path / "cache")
    monkeypatch.setitem(tiny.write_cache.__globals__, "SCALE", 2 * tiny.SCALE)
    shutil.rmtree(cache / "pascal3d/val")
    tiny.write_cache(cache, "pascal3d/val", seed=1, prefix="unseen")
    with pytest.raises(ValueError, match="were prepared at different scales"):
        ablate.run(tiny.TRAIN, tiny.INFER, cache, tiny_folder / "shapes", out)
    assert not out.exists()


def test_other_methods_have_no_such_ablations(tiny, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="ablations are of the method ntdm, not of 'nemo'"):
        start(tiny, tiny_folder, tmp_path, training=tiny.training("nemo"))
