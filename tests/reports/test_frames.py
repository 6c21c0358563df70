"""Runs as pandas frames: what a cell holds is what was scored, and a table is what is printed."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ntdm
from ntdm.io.error_table import write_errors


def write_run(folder: Path, method: str, rotation_error: list[float], seed: int = 0, **columns) -> Path:
    """A run with one split of Table 1, two photos of two categories each."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"method": method}))
    (folder / "run.json").write_text(json.dumps({"seed": seed}))
    n = len(rotation_error)
    rows = {
        "dataset": ["pascal3d"] * n, "split": ["val"] * n, "category": ["car", "sofa"] * (n // 2),
        "name": [f"n{i}" for i in range(n)], "rotation_error": rotation_error,
    }  # fmt: skip
    write_errors(folder / "errors/pascal3d/val.csv", rows | columns)
    return folder


@pytest.fixture
def perfect(tmp_path) -> Path:
    ones = [1.0] * 4
    return write_run(
        tmp_path / "perfect", "perfect", [0.0] * 4, amodal_iou=ones, visible_iou=ones, class_correct=[1] * 4
    )


@pytest.fixture
def failing(tmp_path) -> Path:
    return write_run(tmp_path / "failing", "failing", [math.pi] * 3 + [0.1])


def test_errors_are_those_of_the_file(perfect, failing):
    frame = ntdm.reports.errors([perfect, failing])
    assert frame["method"].tolist() == ["perfect"] * 4 + ["failing"] * 4
    assert frame["name"].tolist() == ["n0", "n2", "n1", "n3"] * 2  # categories, then names
    assert frame.loc[frame["method"] == "failing", "rotation_error"].tolist() == [
        math.pi,
        math.pi,
        math.pi,
        0.1,
    ]
    assert frame.loc[frame["method"] == "failing", "amodal_iou"].isna().all()  # not measured, and not 0
    assert frame["predicted_category"].isna().all()
    assert frame.dtypes["rotation_error"] == np.float64
    assert ntdm.reports.errors(perfect).equals(ntdm.reports.errors([perfect]))
    by_split = frame.groupby(["method", "split"])["rotation_error"].median()
    assert by_split["perfect", "val"] == 0 and by_split["failing", "val"] == math.pi
    assert ntdm.reports.errors([]).columns.tolist()[0] == "method"


def test_truth_as_prediction_is_perfect(perfect, failing):
    table = ntdm.reports.table(1, [perfect, failing])
    assert table.index.names == ["method", "metric"] and table.columns.tolist() == [
        "L0",
        "L1",
        "L2",
        "L3",
        "n",
    ]
    metrics = ("pose_acc_pi_6", "pose_acc_pi_18", "amodal_iou", "class_acc")
    assert [table.loc[("perfect", m), "L0"] for m in metrics] == [100.0] * 4
    assert table.loc[("failing", "pose_acc_pi_6"), "L0"] == 25.0
    assert ("failing", "amodal_iou") not in table.index and table["L1"].isna().all()
    assert (table["n"] == 4).all()
    intervals = table.attrs["intervals"].set_index(["method", "metric", "category", "column"])
    low, high = intervals.loc[("failing", "pose_acc_pi_6", "all", "L0"), ["low", "high"]]
    assert low == 0.0 and 50 <= high <= 100


def test_a_table_is_what_report_writes(perfect, failing, tmp_path):
    from ntdm.reports import tables

    path = tables.report(1, [perfect, failing], tmp_path / "out")
    written = pd.read_csv(path).set_index(["method", "metric"])
    frame = ntdm.reports.table(1, [perfect, failing], published=True)
    assert written.index.tolist() == frame.index.tolist() and len(frame) > 10
    np.testing.assert_allclose(written.to_numpy(float), frame.astype(float).to_numpy(), atol=5.1e-5)


def test_refusals_are_those_of_the_command(tmp_path, perfect):
    with pytest.raises(ValueError, match="does not exist: is"):
        ntdm.reports.errors(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="table 4 is unknown: want 1, 2 or 3"):
        ntdm.reports.table(4, [perfect])
    with pytest.raises(ValueError, match="nothing to show in table 2"):
        ntdm.reports.table(2, [perfect])
    errors = perfect / "errors/pascal3d/val.csv"
    errors.write_text(errors.read_text().replace("0.0", "90.0", 1))
    with pytest.raises(ValueError, match=r"val\.csv, line 2: rotation_error .* is it in degrees"):
        ntdm.reports.errors(perfect)
