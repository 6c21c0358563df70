"""reports: every cell against made-up errors of known answer, the published rows, and what is refused."""

import csv
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ntdm.config.protocol import ABLATIONS, NUISANCES
from ntdm.io.error_table import write_errors
from ntdm.io.prediction_writer import write_predictions
from ntdm.io.predictions import Prediction
from ntdm.reports import figures, tables
from ntdm.reports.typeset import latex, markdown

SIZES = {"shape": 981, "pose": 1075, "texture": 565, "context": 567, "weather": 1348}  # of OOD-CV


def errors_of(n: int, right: int, fine: int = 0, iou: float | None = 0.5, classes: int | None = None) -> dict:
    """n samples: `fine` errors below pi/18, `right` below pi/6, one on the threshold, the others failed."""
    rotation = np.full(n, math.pi)
    rotation[: right + 1] = math.pi / 6
    rotation[:right] = 0.4
    rotation[:fine] = 0.1
    columns: dict = {"rotation_error": rotation}
    if iou is not None:
        columns["amodal_iou"] = np.full(n, iou)
    if classes is not None:
        columns["class_correct"] = (np.arange(n) < classes).astype(int)
    return columns


def put(run: Path, split: str, columns: dict) -> Path:
    dataset, name = split.split("/")
    n = len(columns["rotation_error"])
    keys = {"dataset": [dataset] * n, "split": [name] * n, "category": ["bus"] * n}
    return write_errors(
        run / "errors" / f"{split}.csv", keys | {"name": [f"im{i}_00" for i in range(n)]} | columns
    )


def make_run(path: Path, method: str, **described: object) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"method": method}))
    if described:
        (path / "run.json").write_text(json.dumps(described))
    return path


def cells(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    with path.open(newline="") as file:
        return {(row["method"], row.get("metric", "")): row for row in csv.DictReader(file)}


def test_table_2(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "mine")
    rights = dict(zip(NUISANCES, (1, 2, 3, 4, 5), strict=True))
    sizes = dict(zip(NUISANCES, (10, 10, 20, 20, 50), strict=True))
    for name in NUISANCES:
        put(run, f"ood_cv/{name}", errors_of(sizes[name], rights[name], fine=1, iou=rights[name] / 10))
    path = tables.report(2, [run], tmp_path / "out", published=False)
    got = cells(path)
    assert path == tmp_path / "out/table_2.csv"
    row = got["mine", "pose_acc_pi_6"]
    assert [row[c] for c in NUISANCES] == ["10.0000", "20.0000", "15.0000", "20.0000", "10.0000"]
    assert row["mean"] == f"{100 * 15 / 110:.4f}", "over samples"
    assert row["mean_macro"] == "15.0000", "over columns"
    assert row["n"] == "110"
    assert got["mine", "amodal_iou"]["weather"] == "50.0000"
    assert ("mine", "class_acc") not in got
    endings = (".csv", ".html", ".md", ".png", ".tex", "_breakdown.csv", "_curves.png")
    assert sorted(p.name for p in path.parent.iterdir()) == [f"table_2{ending}" for ending in endings]
    text = path.with_suffix(".md").read_text()
    assert "| mine | **10.0** | **20.0** | **15.0** |" in text and "counted as wrong: 90" in text


def test_missing_split_is_an_empty_cell_and_an_empty_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "mine")
    for name in NUISANCES[1:]:
        put(run, f"ood_cv/{name}", errors_of(10, 5))
    path = tables.report(2, [run], tmp_path / "out", published=False)
    row = cells(path)["mine", "pose_acc_pi_6"]
    assert (row["shape"], row["pose"], row["mean"], row["mean_macro"], row["n"]) == (
        "",
        "50.0000",
        "",
        "",
        "40",
    )
    assert "not evaluated on shape" in path.with_suffix(".md").read_text()


def test_table_1_and_3(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", "full"), make_run(tmp_path / "b", "pose only")
    for i, split in enumerate(("pascal3d/val", *(f"occluded_pascal3d/L{k}" for k in (1, 2, 3)))):
        put(a, split, errors_of(20, 16 - 4 * i, fine=4, classes=20))
        put(b, split, errors_of(20, 12 - 2 * i, fine=2, iou=None))
    got = cells(tables.report(1, [a, b], tmp_path / "out", published=False))
    assert [got["full", "pose_acc_pi_6"][c] for c in ("L0", "L3", "n")] == ["80.0000", "20.0000", "80"]
    assert got["full", "class_acc"]["L2"] == "100.0000"
    assert [got["pose only", "pose_acc_pi_18"][c] for c in ("L0", "L3")] == ["10.0000", "10.0000"]
    assert ("pose only", "amodal_iou") not in got
    got = cells(tables.report(3, [a, b], tmp_path / "out", published=True))
    full = {"pose_acc_pi_6": "80.0000", "pose_acc_pi_18": "20.0000", "amodal_iou": "50.0000", "n": "20"}
    assert got["full", ""] == {"method": "full"} | full
    assert got["pose only", ""]["amodal_iou"] == ""
    assert got["w/o background (published)", ""]["pose_acc_pi_6"] == "89.5000"


def test_perfect_errors_are_a_hundred(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "truth")
    for name in NUISANCES:
        perfect = {"rotation_error": np.zeros(7), "amodal_iou": np.ones(7), "class_correct": np.ones(7, int)}
        put(run, f"ood_cv/{name}", perfect)
    for row in cells(tables.report(2, [run], tmp_path, published=False)).values():
        assert {row[c] for c in (*NUISANCES, "mean", "mean_macro")} == {"100.0000"}


def test_a_published_row_has_the_colour_of_its_measured_one() -> None:
    names = ["nemo", "NeMo (published)", "mask-rcnn", "MT Mask R-CNN (published)", "Other 2 (published)"]
    colours = figures._paired_colours(names)
    assert colours["nemo"] == colours["NeMo (published)"]
    assert colours["mask-rcnn"] == colours["MT Mask R-CNN (published)"]
    assert len({colours[name] for name in names}) == 3
    ablations = [*ABLATIONS, *tables.read_published(3).index.unique("method")]
    assert len(set(figures._paired_colours(ablations).values())) == len(ABLATIONS)


def test_published_means_are_sample_weighted() -> None:
    rows = tables.read_published(2)["value"]
    assert len(rows) == 10
    weights = np.array([SIZES[name] for name in NUISANCES]) / sum(SIZES.values())
    mean = rows[list(NUISANCES)].to_numpy() @ weights
    assert (abs(mean - rows["mean"]) <= 0.06).all()


def test_published_rows_have_neither_n_nor_interval() -> None:
    for table in (1, 2, 3):
        rows = tables.read_published(table)
        assert rows[["low", "high", "n"]].isna().all(axis=None)
        assert rows.index.get_level_values("method").str.endswith(" (published)").all()


def test_same_input_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "mine")
    put(run, "pascal3d/val", errors_of(10, 5))
    first, second = (tables.report(1, [run], tmp_path / name) for name in ("x", "y"))
    names = sorted(path.name for path in first.parent.iterdir())
    assert len(names) == 7
    for name in names:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes(), name


def test_typeset_escapes_and_bolds_ties() -> None:
    columns = pd.MultiIndex.from_product([["value", "low", "high"], ["x_y", "z"]])
    cells = [[51.24, math.nan, 40, math.nan, 60, math.nan], [51.16, 2.0, *[math.nan] * 4]]
    block = pd.DataFrame(cells, ["a_b|50%", "c"], columns)
    block["n", ""] = pd.array([3, None], "Int64")
    text = markdown("Table 1", "T", {"IoU": block}, ["note"], "f.png")
    assert r"| a\_b\|50% | **51.2** |  | 3 |" in text and "| c | **51.2** | **2.0** |  |" in text
    text = latex("Table 1", "T", {"IoU": block}, ["50 % of α"])
    assert r"a\_b|50\% & \textbf{51.2} &  & 3 \\" in text and r"x\_y" in text and r"50 \% of $\alpha$" in text


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", "mine", data_fingerprint="1"), make_run(tmp_path / "b", "mine")
    for run in (a, b):
        put(run, "pascal3d/val", errors_of(10, 5))
    with pytest.raises(
        ValueError, match=r"a/config.json and .*b/config.json both have the method name 'mine'"
    ):
        tables.report(1, [a, b], tmp_path / "out")
    with pytest.raises(ValueError, match=r"a is given twice: name every run once"):
        tables.report(1, [a, tmp_path / "b" / ".." / "a"], tmp_path / "out")
    (b / "config.json").write_text('{"method": "other"}')
    tables.report(1, [a, b], tmp_path / "out")
    put(b, "pascal3d/val", errors_of(9, 5))
    with pytest.raises(ValueError, match=r"b/errors/pascal3d/val.csv lacks the sample .*im9_00.*line 11"):
        tables.report(1, [a, b], tmp_path / "out")
    (b / "run.json").write_text('{"data_fingerprint": "2"}')
    with pytest.raises(ValueError, match=r"runs on different data \(data_fingerprint 1 and 2"):
        tables.report(1, [a, b], tmp_path / "out")


def test_bad_runs_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "mine")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="table 4 is unknown"):
        tables.report(4, [run], out)
    with pytest.raises(ValueError, match=r"no run given has errors that it shows in errors/pascal3d/val.csv"):
        tables.report(3, [run], out, published=False)
    path = put(run, "pascal3d/val", errors_of(4, 2))
    (run / "errors/ood_cv").mkdir()
    path.rename(run / "errors/ood_cv/pose.csv")
    with pytest.raises(ValueError, match=r"pose.csv, line 2: dataset is 'pascal3d', want 'ood_cv'"):
        tables.report(2, [run], out)
    holes = (run / "errors/ood_cv/pose.csv").read_text().replace("pascal3d,val", "ood_cv,pose")
    (run / "errors/ood_cv/pose.csv").write_text(holes.replace("0.4", "", 1))
    with pytest.raises(ValueError, match=r"pose.csv, line 2: column rotation_error has 1 holes in 4 rows"):
        tables.report(2, [run], out)
    (run / "config.json").write_text('{"name": "mine"}')
    with pytest.raises(ValueError, match="no line of text under the key 'method'"):
        tables.report(1, [run], out)
    (run / "config.json").write_text('{"method": "a\\nb"}')
    with pytest.raises(ValueError, match="no line of text under the key 'method'"):
        tables.report(1, [run], out)
    (run / "config.json").write_text('{"method": "NTDM (published)"}')
    with pytest.raises(
        ValueError, match=r"config.json: the method is 'NTDM \(published\)', and \(published\) marks"
    ):
        tables.report(1, [run], out)
    for text in ("{", "[" * 100_000):
        (run / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config.json is not JSON"):
            tables.report(1, [run], out)
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config.json does not exist: is .*a a run folder"):
        tables.report(1, [run], out)
    assert not out.exists()


@pytest.mark.parametrize("seconds", ['"long"', "NaN", "1e999", "-1"])
def test_a_training_time_that_is_none(tmp_path: Path, seconds: str) -> None:
    run = make_run(tmp_path / "a", "mine")
    put(run, "pascal3d/val", errors_of(4, 2))
    (run / "run.json").write_text(f'{{"seconds": {seconds}}}')
    with pytest.raises(ValueError, match=r"a/run.json: seconds is .*, want a number from 0 on"):
        tables.report(1, [run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reports_do_not_import_torch() -> None:
    modules = "ntdm.reports.tables, ntdm.io.predictions, ntdm.viz.pictures"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_table_3_is_in_the_papers_order(tmp_path: Path) -> None:
    for name in sorted(ABLATIONS):
        put(make_run(tmp_path / name, name, seed=0), "pascal3d/val", errors_of(10, 5))
    found = cells(tables.report(3, sorted(tmp_path.iterdir()), tmp_path / "out", published=False))
    assert [method for method, _ in found] == list(ABLATIONS)
    assert "Seeds: full 0, no-background 0," in (tmp_path / "out/table_3.md").read_text()


def test_table_3_has_no_row_of_what_it_does_not_show(tmp_path: Path) -> None:
    classes = make_run(tmp_path / "classes", "classes")
    put(classes, "pascal3d/val", errors_of(10, 5, classes=4))
    path = classes / "errors/pascal3d/val.csv"
    text = path.read_text()
    for error in ("0.4", repr(math.pi / 6), repr(math.pi)):
        text = text.replace(f"_00,{error},0.5,", "_00,,,")
    path.write_text(text)
    with pytest.raises(ValueError, match=r"no run given has errors that it shows in errors/pascal3d/val.csv"):
        tables.report(3, [classes], tmp_path / "out", published=False)
    poses = make_run(tmp_path / "poses", "full")
    put(poses, "pascal3d/val", errors_of(10, 5))
    found = cells(tables.report(3, [classes, poses], tmp_path / "out", published=False))
    assert [method for method, _ in found] == ["full"]


def test_a_report_leaves_no_figure_of_another(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "mine", seconds=3.0)
    put(run, "pascal3d/val", errors_of(4, 2))
    predict(run, "pascal3d/val", ["bus", "bus", "car", "bus"], "one")
    out = tables.report(1, [run], tmp_path / "out").parent
    assert (out / "table_1_confusion.png").exists() and (out / "table_1_seconds.png").exists()
    other = make_run(tmp_path / "b", "other")
    put(other, "pascal3d/val", errors_of(4, 2))
    tables.report(1, [other], out)
    assert sorted(path.name for path in out.glob("*.png")) == ["table_1.png", "table_1_curves.png"]


def test_a_refused_picture_leaves_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "mine")
    put(run, "pascal3d/val", errors_of(4, 2))

    def refuse(splits: object, folder: Path) -> list[tuple[Path, str]]:
        raise ValueError("no such cache")

    with pytest.raises(ValueError, match="no such cache"):
        tables.report(1, [run], tmp_path / "out", pictures=refuse)
    assert not (tmp_path / "out").exists()


def test_misspelt_splits_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "mine")
    put(run, "ood_cv/pose", errors_of(4, 2))
    put(run, "ood_cv/wether", errors_of(4, 2))
    with pytest.raises(ValueError, match=r"wether.csv: ood_cv has no split 'wether'; its splits are iid"):
        tables.report(2, [run], tmp_path / "out")
    put(run, "occluded_pascal3d/L4", errors_of(4, 2))
    (run / "errors/ood_cv/wether.csv").unlink()
    with pytest.raises(ValueError, match=r"L4.csv: occluded_pascal3d has no split 'L4'"):
        tables.report(2, [run], tmp_path / "out")
    (run / "errors/occluded_pascal3d/L4.csv").unlink()
    put(run, "pascal3d/vall", errors_of(4, 2))
    with pytest.raises(ValueError, match=r"vall.csv: pascal3d has no split 'vall'; its splits are val, "):
        tables.report(2, [run], tmp_path / "out")
    (run / "errors/pascal3d/vall.csv").unlink()
    put(run, "ood_cv/train", errors_of(4, 2))  # evaluated for its own sake, in no table
    assert tables.report(2, [run], tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.4", "22.9", r"val.csv, line 3: rotation_error is 22.9; radians .* is it in degrees\?"),
        (",0.5,", ",50,", r"val.csv, line 2: amodal_iou is 50; a share in \[0, 1\] is wanted, not percent"),
        ("im1_00", "im0_00", r"val.csv, line 3: sample \('bus', 'im0_00'\) stands already in line 2"),
    ],
)
def test_bad_error_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    run = make_run(tmp_path / "a", "mine")
    path = put(run, "pascal3d/val", errors_of(4, 2, fine=1))
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        tables.report(1, [run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def predict(run: Path, split: str, guesses: list[str], data: str) -> None:
    rows = [
        Prediction(*split.split("/"), "bus", f"im{i}_00", guess, 0.1, 0.0, 0.0, 5.0, 1.0, 0.1)
        for i, guess in enumerate(guesses)
    ]
    write_predictions(run / "predictions" / f"{split}.csv", rows, made_with={"data": data})


def test_runs_on_other_test_data_are_refused(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, name) for name in "ab")
    for run, data in ((a, "one"), (b, "two")):
        put(run, "pascal3d/val", errors_of(4, 2))
        predict(run, "pascal3d/val", ["bus", "bus", "car", "bus"], data)
    with pytest.raises(ValueError, match=r"pascal3d/val of .*a and of .*b was predicted on different data"):
        tables.report(1, [a, b], tmp_path / "out")
    path = tables.report(1, [a], tmp_path / "out")
    assert path.with_name("table_1_confusion.png").exists()
    put(a, "pascal3d/val", errors_of(3, 2))
    with pytest.raises(ValueError, match=r"val.csv has 4 samples, not 3, unlike .*errors/pascal3d/val.csv"):
        tables.report(1, [a], tmp_path / "out")


def test_intervals_reach_the_caption_the_breakdown_and_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a<b>", "a<b>", seed=3)
    put(run, "pascal3d/val", errors_of(100, 60, fine=20, classes=90))
    path = tables.report(1, [run], tmp_path / "out", published=True)
    text = path.with_suffix(".md").read_text()
    assert "95 % intervals (bootstrap, 1000 resamples) reach at most" in text
    assert "Seeds: a\\<b\\> 3." in text and "Pose and masks: under the true category" in text
    with path.with_name("table_1_breakdown.csv").open(newline="") as file:
        rows = {(r["metric"], r["category"], r["column"]): r for r in csv.DictReader(file)}
    row = rows["pose_acc_pi_6", "all", "L0"]
    assert row["value"] == "60.0000" and row["n"] == "100"
    assert float(row["low"]) == pytest.approx(50.4, abs=1.5) and float(row["high"]) == pytest.approx(
        69.6, abs=1.5
    )
    assert rows["pose_acc_pi_6", "bus", "L0"]["value"] == rows["pose_acc_pi_6", "class mean", "L0"]["value"]
    html = path.with_suffix(".html").read_text()
    assert f"<b>60.0</b><small>{float(row['low']):.1f} to {float(row['high']):.1f}</small>" not in html
    assert f"60.0<small>{float(row['low']):.1f} to {float(row['high']):.1f}</small>" in html
    assert "a&lt;b&gt;" in html and "a<b>" not in html
    assert html.count('<tr class="published">') == 5 + 5 + 3 + 3, "Table 1's four blocks"


class Page(HTMLParser):
    """What a browser would have to find for the page to need nothing beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.rows: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [
            v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:image/png")
        ]
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "mine")
    for name in NUISANCES[:3]:
        put(run, f"ood_cv/{name}", errors_of(10, 5))
    picture = tables.report(2, [run], tmp_path / "out").with_suffix(".png")
    tables.report(2, [run], tmp_path / "out", pictures=lambda *_: [(picture, "again & again")])
    text = (tmp_path / "out/table_2.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open and not page.outside
    assert set(page.rows) == {1 + 7 + 1, 2 + 7 + 1}, "cells of the table's rows, and of the breakdown's"
    assert "again &amp; again" in text and text.count("data:image/png;base64,") == 3
