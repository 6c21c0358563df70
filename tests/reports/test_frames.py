"""Runs as pandas frames: what a cell holds is what was scored, and a table is what is printed."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ntdm
from ntdm.config.protocol import ABLATIONS, NUISANCES
from ntdm.io.error_table import write_errors
from ntdm.io.prediction_writer import write_predictions
from ntdm.io.predictions import Prediction
from ntdm.reports import tables

METRICS = ("pose_acc_pi_6", "pose_acc_pi_18", "amodal_iou", "class_acc")


def write_run(
    folder: Path, method: str, rotation_error: list[float], split: str = "pascal3d/val", **columns
) -> Path:
    """A run's error file of a split, categories car and sofa in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"method": method}))
    n, (dataset, name) = len(rotation_error), split.split("/")
    rows = {
        "dataset": [dataset] * n, "split": [name] * n, "category": ["car", "sofa"] * (n // 2),
        "name": [f"n{i}" for i in range(n)], "rotation_error": rotation_error,
    }  # fmt: skip
    write_errors(folder / "errors" / f"{split}.csv", rows | columns)
    return folder


def with_seed(folder: Path, seed: object) -> Path:
    (folder / "run.json").write_text(json.dumps({"seed": seed}))
    return folder


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    """The truth as prediction."""
    ones = [1.0] * 4
    return write_run(
        tmp_path / "perfect", "perfect", [0.0] * 4, amodal_iou=ones, visible_iou=ones, class_correct=[1] * 4
    )


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """Three failed predictions of four, and nothing but poses."""
    return write_run(tmp_path / "failing", "failing", [math.pi] * 3 + [0.1])


def test_errors_are_those_of_the_file(perfect, failing) -> None:
    frame = ntdm.reports.errors([with_seed(perfect, 7), failing])
    assert frame.dtypes.astype(str).to_dict() == {
        "method": "string", "seed": "Int64", "dataset": "string", "split": "string", "category": "string",
        "name": "string", "rotation_error": "float64", "amodal_iou": "float64", "visible_iou": "float64",
        "class_correct": "boolean", "seconds": "float64", "rotation_error_free": "float64",
        "amodal_iou_free": "float64", "predicted_category": "string",
    }  # fmt: skip
    assert frame["method"].tolist() == ["perfect"] * 4 + ["failing"] * 4
    assert frame["name"].tolist() == ["n0", "n2", "n1", "n3"] * 2, "by category, then name"
    assert frame["seed"].tolist() == [7] * 4 + [pd.NA] * 4
    first, second = frame.iloc[:4], frame.iloc[4:]
    assert first["rotation_error"].tolist() == [0.0] * 4 and first["class_correct"].all()
    assert second["rotation_error"].tolist() == [math.pi, math.pi, math.pi, 0.1]
    assert second[["amodal_iou", "class_correct"]].isna().all(axis=None), "not measured, and not 0"
    assert frame["predicted_category"].isna().all()
    medians = frame.groupby(["method", "split"])["rotation_error"].median()
    assert medians["perfect", "val"] == 0 and medians["failing", "val"] == math.pi
    assert ntdm.reports.errors(str(failing)).equals(ntdm.reports.errors([failing]))


def test_errors_of_no_run_have_the_columns(perfect) -> None:
    frame, some = ntdm.reports.errors([]), ntdm.reports.errors(perfect)
    assert len(frame) == 0 and frame.dtypes.equals(some.dtypes)


def test_errors_of_all_splits_in_the_protocols_order(perfect) -> None:
    for split in ("ood_cv/weather", "occluded_pascal3d/L2", "mine/b", "ood_cv/iid", "mine/a"):
        write_run(perfect, "perfect", [0.1, 0.2], split)
    (perfect / "errors/mine/._a.csv").write_bytes(b"\0\5\26\7")  # as another system leaves beside a file
    keys = ntdm.reports.errors(perfect)[["dataset", "split"]].drop_duplicates()
    assert ["/".join(key) for key in keys.to_numpy()] == [
        "pascal3d/val", "ood_cv/iid", "ood_cv/weather", "occluded_pascal3d/L2", "mine/a", "mine/b",
    ]  # fmt: skip


def test_seeds_of_one_method(tmp_path) -> None:
    runs = [write_run(tmp_path / f"s{seed}", "ntdm", [0.1 * seed] * 2) for seed in (1, 2)]
    with pytest.raises(ValueError, match=r"s1 and .*s2 are runs of 'ntdm', both without a seed: name every"):
        ntdm.reports.errors(runs)
    for seed, run in enumerate(runs, 1):
        with_seed(run, seed)
    by_seed = ntdm.reports.errors(runs).groupby("seed")["rotation_error"].mean()
    assert by_seed.to_dict() == pytest.approx({1: 0.1, 2: 0.2})
    with pytest.raises(ValueError, match=r"s1 and .*s1 are runs of 'ntdm', both with seed 1"):
        ntdm.reports.errors([runs[0], runs[0]])
    for seed in ("1", 1.5, True, 2**63):
        with pytest.raises(ValueError, match=r"s1/run.json: seed is .*, want a whole number of 64 bits"):
            ntdm.reports.errors(with_seed(runs[0], seed))


def test_predicted_categories_stand_beside_the_errors(failing) -> None:
    keys = [("pascal3d", "val", "car" if i % 2 == 0 else "sofa", f"n{i}") for i in range(4)]
    rows = [Prediction(*key, f"guess {key[3]}", *[math.nan] * 4, 0.5, 0.1) for key in reversed(keys)]
    write_predictions(failing / "predictions/pascal3d/val.csv", rows)
    frame = ntdm.reports.errors(failing)
    assert (frame["predicted_category"] == "guess " + frame["name"]).all()


def test_truth_as_prediction_is_perfect(perfect, failing) -> None:
    table = ntdm.reports.table(1, [perfect, failing])
    printed = ["L0", "L1", "L2", "L3"]
    assert table.index.names == ["method", "metric"]
    assert table.columns.tolist() == [*printed, "n", *(f"{c}_{b}" for b in ("low", "high") for c in printed)]
    assert table.loc["perfect", "L0"].to_dict() == dict.fromkeys(METRICS, 100.0)
    assert (table.loc["perfect", ["L0_low", "L0_high"]] == 100.0).all(axis=None)
    assert table.loc[("failing", "pose_acc_pi_6"), "L0"] == 25.0
    assert ("failing", "amodal_iou") not in table.index and table["L1"].isna().all()
    assert table["n"].tolist() == [4] * len(table) and table["n"].dtype == "Int64"
    low, high = table.loc[("failing", "pose_acc_pi_6"), ["L0_low", "L0_high"]]
    assert low == 0.0 and 50 <= high <= 100
    pd.concat([table, table])  # nothing hangs on a frame that pandas could not carry on


def test_table_3_has_a_column_a_metric(tmp_path) -> None:
    runs = [write_run(tmp_path / name, name, [0.1] * 4) for name in reversed(ABLATIONS)]
    table = ntdm.reports.table(3, runs)
    assert table.index.tolist() == list(ABLATIONS) and table.index.name == "method"
    assert table.columns.tolist()[:4] == ["pose_acc_pi_6", "pose_acc_pi_18", "amodal_iou", "n"]
    assert (
        table["pose_acc_pi_6_low"].tolist() == [100.0] * len(ABLATIONS) and table["amodal_iou"].isna().all()
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_frames_are_what_report_writes(number: int, tmp_path) -> None:
    generator, runs = np.random.default_rng(0), []
    splits = ["pascal3d/val", "occluded_pascal3d/L1", *(f"ood_cv/{nuisance}" for nuisance in NUISANCES)]
    for method in ("a", "b"):
        for split in splits:
            n = 20
            ious = {} if method == "b" else {"amodal_iou": generator.random(n)}
            write_run(tmp_path / method, method, generator.random(n).tolist(), split, **ious)
        runs.append(tmp_path / method)
    path = tables.report(number, runs, tmp_path / "out")
    for frame, name in (
        (ntdm.reports.table(number, runs, published=True), path.name),
        (ntdm.reports.breakdown(number, runs), f"{path.stem}_breakdown.csv"),
    ):
        printed = frame.loc[:, : frame.columns[frame.columns.get_loc("n")]]
        written = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert printed.to_csv(float_format="%.4f", lineterminator="\n") == written
        assert len(printed) >= 6 and printed["n"].notna().any()
    published = ntdm.reports.table(number, runs, published=True).index.get_level_values("method")
    assert published.str.endswith("(published)").sum() == len(published) - len(
        ntdm.reports.table(number, runs)
    )


def test_a_breakdown_has_every_category(perfect, failing) -> None:
    breakdown = ntdm.reports.breakdown(1, [perfect, failing])
    assert breakdown.index.names == ["method", "metric", "category", "column"]
    assert breakdown.columns.tolist() == ["value", "low", "high", "n"]
    accuracy = breakdown["value"].loc["failing", "pose_acc_pi_6", :, "L0"]
    assert accuracy.to_dict() == {"all": 25.0, "car": 0.0, "sofa": 50.0, "class mean": 25.0}


def test_refusals_are_those_of_the_command(tmp_path, perfect) -> None:
    with pytest.raises(ValueError, match=r"config.json does not exist: is .*nowhere a run folder\?"):
        ntdm.reports.errors(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="table 4 is unknown: want 1, 2 or 3"):
        ntdm.reports.table(4, [perfect])
    with pytest.raises(ValueError, match="nothing to show in table 2"):
        ntdm.reports.table(2, perfect)
    errors = perfect / "errors/pascal3d/val.csv"
    errors.write_text(errors.read_text().replace(",0.0,", ",90.0,", 1))
    with pytest.raises(ValueError, match=r"val\.csv, line 2: rotation_error is 90; .* is it in degrees"):
        ntdm.reports.errors(perfect)
    errors.unlink()
    with pytest.raises(ValueError, match=r"perfect has no errors/<dataset>/<split>.csv: run evaluate first"):
        ntdm.reports.errors(perfect)


def test_pandas_comes_with_the_first_frame() -> None:
    code = (
        "import sys, ntdm.reports, ntdm.reports.estimates; assert 'pandas' not in sys.modules; "
        "ntdm.reports.errors; assert 'pandas' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
