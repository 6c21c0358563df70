"""Prediction files and sample tables: truth scores perfect, writing resumes, bad files are named."""

import csv
import errno
import fcntl
import math
from pathlib import Path

import numpy as np
import pytest

from ntdm.evaluation.score import score
from ntdm.io import cache, predictions
from ntdm.io import table as sample_table
from ntdm.io.error_table import ERROR_COLUMNS, read_errors, write_errors
from ntdm.io.prediction_writer import PredictionWriter, remove_parts, write_predictions
from ntdm.io.predictions import DenseOutputs, Prediction, read_predictions

SIZE = (24, 32)
CADS = {0: (np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32))}


def make_cache(folder: Path, category: str, count: int = 4, occluded: bool = False, cad: int = 0) -> Path:
    rng = np.random.default_rng(len(category))
    path = folder / "pascal3d" / "val" / f"{category}.h5"
    key = {"dataset": "pascal3d", "split": "val", "category": category, "config": {}, "cads": CADS}
    optional = ("occluder_mask",) if occluded else ()
    with cache.CacheWriter(path, image_size=SIZE, optional=optional, **key) as writer:
        for i in range(count):
            amodal = np.zeros(SIZE, np.uint8)
            amodal[2 : 10 + i, 3:20] = 1
            occluder = np.zeros(SIZE, np.uint8)
            occluder[:, :8] = occluded
            writer.add(
                cache.Sample(
                    name=f"im{i}_00",
                    source=f"Images/im{i}.JPEG",
                    image=np.zeros((*SIZE, 3), np.uint8),
                    amodal_mask=amodal,
                    visible_mask=amodal & (1 - occluder),
                    viewpoint=np.array([*rng.uniform(0, [6, 1, 1]), 5.0]),
                    focal=300.0,
                    principal_point=np.array([16.0, 12.0]),
                    bbox=np.array([0.0, 0.0, 5.0, 5.0]),
                    cad_index=cad,
                    occluder_mask=occluder if occluded else None,
                )
            )
    return path


def truth(path: Path) -> tuple[list[Prediction], DenseOutputs]:
    """Ground truth in the shape of predictions."""
    with cache.CacheFile(path) as file:
        rows = [
            Prediction("pascal3d", "val", file.category, name, file.category, *view, 0.5, 0.1, *view)
            for name, view in zip(file["name"], file["viewpoint"].tolist(), strict=True)
        ]
        n = len(file)
        latent, scale = np.full((n, len(file.category)), 0.5, np.float32), np.ones(n, np.float32)
        return rows, DenseOutputs(
            file["amodal_mask"], file["visible_mask"], latent, scale, file["amodal_mask"]
        )


def predict(csv_path: Path, caches: list[Path], geometry: bool = True) -> Path:
    writer = PredictionWriter(csv_path, {"seed": 0})
    for path in caches:
        rows, arrays = truth(path)
        writer.add(rows, arrays if geometry else None)
    return writer.finish()


def edit(path: Path, change) -> Path:
    rows = list(csv.reader(path.read_text().splitlines()))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(change(rows))
    return path


def test_truth_scores_exactly_perfect(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path, name, occluded=True) for name in ("bus", "aeroplane")]
    made = predict(tmp_path / "run/predictions/pascal3d/val.csv", caches)
    scored = score(made, caches, tmp_path / "run/errors/pascal3d/val.csv")
    table = read_errors(scored.path)
    assert (scored.samples, scored.failed, len(table)) == (8, 0, 8)
    assert table.keys() == sorted(table.keys())
    for name in ("rotation_error", "rotation_error_free"):
        assert (table[name] < 1e-15).all()
    for name in ("amodal_iou", "visible_iou", "amodal_iou_free", "class_correct"):
        assert (table[name] == 1).all()
    assert sorted(p.name for p in made.parent.iterdir()) == ["val.csv", "val.h5"]


def test_unknown_truth_is_left_empty(tmp_path: Path) -> None:
    clean = [make_cache(tmp_path, "bus")]
    made = predict(tmp_path / "p.csv", clean)
    table = read_errors(score(made, clean, tmp_path / "e.csv").path)
    assert table.measured("amodal_iou") and not table.measured("visible_iou")
    without = [make_cache(tmp_path / "b", "bus", cad=-1)]
    table = read_errors(score(predict(tmp_path / "q.csv", without), without, tmp_path / "f.csv").path)
    assert not table.measured("amodal_iou") and table.measured("rotation_error")
    masks_missing = predict(tmp_path / "r.csv", clean, geometry=False)
    table = read_errors(score(masks_missing, clean, tmp_path / "g.csv").path)
    assert not table.measured("amodal_iou") and (table["class_correct"] == 1).all()


def test_failed_prediction_is_pi_and_no_overlap(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path, "bus")]
    rows, geometry = truth(caches[0])
    nan = dict.fromkeys(("azimuth", "elevation", "theta", "distance"), math.nan)
    rows[2] = rows[2]._replace(**nan, predicted_category="car")
    scored = score(write_predictions(tmp_path / "p.csv", rows, geometry), caches, tmp_path / "e.csv")
    table = read_errors(scored.path)
    assert scored.failed == 1
    assert table["rotation_error"][2] == math.pi and table["amodal_iou"][2] == 0
    assert table["class_correct"].tolist() == [1, 1, 0, 1]


def test_classifier_without_pose(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path, "bus")]
    rows = [
        row._replace(**dict.fromkeys(Prediction._fields[5:9] + Prediction._fields[11:]))
        for row in truth(caches[0])[0]
    ]
    scored = score(write_predictions(tmp_path / "p.csv", rows), caches, tmp_path / "e.csv")
    table = read_errors(scored.path)
    assert scored.failed == 0 and not table.measured("rotation_error") and table.measured("class_correct")


def test_missing_and_extra_samples_are_named(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path, name) for name in ("bus", "car")]
    made = predict(tmp_path / "p.csv", caches)
    with pytest.raises(ValueError, match=r"line 6: sample \('car', 'im0_00'\) is in none"):
        score(made, caches[:1], tmp_path / "e.csv")
    edit(made, lambda rows: rows[:3] + rows[4:])
    with pytest.raises(ValueError, match=r"no prediction for 1 of the 4 samples of .*bus.h5.*im2_00"):
        score(made, caches, tmp_path / "e.csv")
    edit(made, lambda rows: [[c.replace("val", "train") for c in row] for row in rows])
    with pytest.raises(ValueError, match=r"split is 'train', but .*car.h5 is 'val'"):
        score(made, caches[1:], tmp_path / "e.csv")
    assert not (tmp_path / "e.csv").exists()


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path, "bus")]
    rows, _ = truth(caches[0])
    made = write_predictions(tmp_path / "p.csv", rows, DenseOutputs(amodal=np.zeros((4, 8, 8), np.uint8)))
    with pytest.raises(ValueError, match=r"masks are \(8, 8\)"):
        score(made, caches, tmp_path / "e.csv")


def test_interrupted_writing_goes_on(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path, name) for name in ("bus", "aeroplane")]
    whole = predict(tmp_path / "whole/val.csv", caches)
    path = tmp_path / "parts/val.csv"
    PredictionWriter(path, {"seed": 0}).add(*truth(caches[0]))
    assert not path.exists()
    with pytest.raises(ValueError, match="another config"):
        PredictionWriter(path, {"seed": 1})
    again = PredictionWriter(path, {"seed": 0})
    assert again.done == {("bus", f"im{i}_00") for i in range(4)}
    with pytest.raises(ValueError, match="predicted twice"):
        again.add(*truth(caches[0]))
    again.add(*truth(caches[1]))
    assert again.finish().read_bytes() == whole.read_bytes()
    keys = [("bus", "im1_00"), ("aeroplane", "im3_00")]
    a, b = predictions.read_geometry(path, keys), predictions.read_geometry(whole, keys)
    for (name, x), (_, y) in zip(a.items(), b.items(), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)
    assert a.latent is not None
    assert np.isfinite(a.latent).sum(1).tolist() == [3, 9], "K of the category, NaN beyond"
    assert predictions.made_with(path) == {"seed": 0}


def test_batches_that_a_removal_left_are_not_taken_over(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path, name) for name in ("bus", "aeroplane")]
    path = tmp_path / "val.csv"
    begun = PredictionWriter(path, {"seed": 0})
    begun.add(*truth(caches[0]))
    (begun.folder / "config.json").unlink()  # a removal was killed when it had come so far
    del begun
    writer = PredictionWriter(path, {"seed": 1})
    assert writer.done == set()
    with pytest.raises(ValueError, match="another process predicts this split"):
        PredictionWriter(path, {"seed": 1}, overwrite=True)
    writer.add(*truth(caches[1]))
    assert writer.finish() == path
    (path.with_name(".val.parts")).mkdir()
    remove_parts(path)
    assert not path.with_name(".val.parts").exists()


def test_angles_are_wrapped(tmp_path: Path) -> None:
    row = Prediction("d", "s", "bus", "a", "bus", -0.5, 0.25, 4.0, 5.0, 0.0, 0.1)
    table = read_predictions(write_predictions(tmp_path / "p.csv", [row]))
    want = [2 * math.pi - 0.5, 0.25, 4.0 - 2 * math.pi]
    np.testing.assert_allclose([table[c][0] for c in ("azimuth", "elevation", "theta")], want, atol=1e-15)


@pytest.mark.parametrize(
    ("column", "value", "want"),
    [
        ("azimuth", -1e-20, 0.0),
        ("azimuth", 2 * math.pi, 0.0),
        ("free_azimuth", -1e-20, 0.0),
        ("theta", -math.pi, math.pi),
        ("theta", 3 * math.pi, math.pi),
        ("theta", math.pi, math.pi),
        ("free_theta", -1e-20, -1e-20),
    ],
)
def test_wrapped_angles_stay_below_the_full_turn(tmp_path: Path, column: str, value: float, want) -> None:
    row = Prediction("d", "s", "bus", "a", "bus", 0.0, 0.0, 0.0, 5.0, 0.0, 0.1, 0.0, 0.0, 0.0, 5.0)
    table = read_predictions(write_predictions(tmp_path / "p.csv", [row._replace(**{column: value})]))
    assert table[column][0] == want


def test_degrees_in_predictions_are_refused(tmp_path: Path) -> None:
    row = Prediction("d", "s", "bus", "a", "bus", 0.5, 0.25, 0.0, 5.0, 0.0, 0.1)
    path = write_predictions(tmp_path / "p.csv", [row, row._replace(name="b")])
    edit(path, lambda rows: [[c.replace("0.5", "210.0") for c in row] for row in rows])
    with pytest.raises(ValueError, match=r"p.csv, line 2: azimuth is 210; .*degrees"):
        read_predictions(path)


def errors(path: Path, n: int = 5) -> Path:
    columns = dict.fromkeys(ERROR_COLUMNS[4:], [0.5] * n) | {"class_correct": [1] * n}
    keys = {
        "dataset": ["d"] * n,
        "split": ["s"] * n,
        "category": ["bus"] * n,
        "name": [f"im{i}" for i in range(n)],
    }
    return write_errors(path, keys | columns)


def put(row: int, column: str, value: str):
    def change(rows: list[list[str]]) -> list[list[str]]:
        rows[row][rows[0].index(column)] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (put(3, "rotation_error", ""), r"line 4: column rotation_error has 1 holes in 5 rows"),
        (put(3, "rotation_error", "nan"), r"line 4: rotation_error is 'nan'"),
        (put(2, "rotation_error", "57.3"), r"line 3: rotation_error is 57.3; radians .*degrees"),
        (put(2, "amodal_iou", "81.5"), r"line 3: amodal_iou is 81.5; .*not percent"),
        (put(5, "class_correct", "0.5"), r"line 6: class_correct is 0.5; 0 or 1"),
        (put(5, "seconds", "fast"), r"line 6: seconds is 'fast', want a number"),
        (put(5, "seconds", "1_0"), r"line 6: seconds is '1_0', want a number"),
        (put(2, "seconds", "inf"), r"line 3: seconds is 'inf', want a finite number"),
        (put(2, "name", "im\0"), r"line 3: a NUL byte; is it a text file\?"),
        (put(4, "name", "im0"), r"line 5: sample \('bus', 'im0'\) stands already in line 2"),
        (put(4, "category", ""), r"line 5: column category has 1 holes"),
        (put(0, "seconds", "Seconds"), r"line 1: missing column 'seconds'; want .*; found .*,Seconds"),
        (lambda rows: [], r"line 1: missing column 'dataset'; want .*; found nothing"),
        (put(0, "seconds", "name"), r"line 1: duplicate column 'name'"),
        (lambda rows: [[*row, "0"] for row in rows], r"line 1: unknown column '0'"),
        (lambda rows: [*rows[:2], rows[2][:-1]], r"line 3: 8 cells under 9 columns"),
    ],
)
def test_bad_error_files_are_refused(tmp_path: Path, change, match: str) -> None:
    path = edit(errors(tmp_path / "e.csv"), change)
    with pytest.raises(ValueError, match=r"e\.csv, " + match):
        read_errors(path)


def test_a_byte_order_mark_and_dos_line_ends_are_taken(tmp_path: Path) -> None:
    path = errors(tmp_path / "e.csv")
    want = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + want.replace(b"\n", b"\r\n"))
    assert read_errors(path).keys() == [("bus", f"im{i}") for i in range(5)]


def test_what_pandas_and_excel_make_of_a_table(tmp_path: Path) -> None:
    """Whole numbers with a decimal point are read; an index, semicolons and UTF-16 are told as such."""
    path = errors(tmp_path / "e.csv")
    want = path.read_text()
    edit(path, put(3, "class_correct", "1.0"))
    assert read_errors(path)["class_correct"].tolist() == [1.0] * 5
    path.write_text(want.replace(",", ";"))
    with pytest.raises(ValueError, match=r"line 1: missing column 'dataset'; .*; save it with commas, not s"):
        read_errors(path)
    path.write_text("".join(f"{line - 1 if line else ''},{text}\n" for line, text in enumerate(want.split())))
    with pytest.raises(ValueError, match=r"line 1: unknown column ''; .* write it with index=False"):
        read_errors(path)
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes("\ufeff".encode(encoding) + want.encode(encoding))
        with pytest.raises(ValueError, match=r"e\.csv is UTF-16: save it as UTF-8"):
            read_errors(path)
    path.write_bytes(want.encode().replace(b"im3", b"im\xe9"))
    with pytest.raises(ValueError, match=r"e\.csv is not a CSV file: 'utf-8' codec can't decode byte 0xe9"):
        read_errors(path)


def test_a_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = errors(tmp_path / "e.csv", 5)
    monkeypatch.setattr(sample_table, "MOST_ROWS", 4)
    with pytest.raises(ValueError, match=r"e\.csv, line 6: more than 4 samples in a split"):
        read_errors(path)


def test_a_failed_pose_is_nan_and_nothing_else(tmp_path: Path) -> None:
    row = Prediction("d", "s", "bus", "a", "bus", math.nan, math.nan, math.nan, math.nan, 0.0, 0.1)
    path = write_predictions(tmp_path / "p.csv", [row])
    assert math.isnan(read_predictions(path)["azimuth"][0])
    path.write_text(path.read_text().replace("nan", "inf", 1))
    with pytest.raises(ValueError, match=r"p\.csv, line 2: azimuth is 'inf', want a finite number"):
        read_predictions(path)


def test_write_errors_leaves_nothing_bad(tmp_path: Path) -> None:
    keys = {"dataset": ["d"], "split": ["s"], "category": ["bus"], "name": ["a"]}
    with pytest.raises(ValueError, match=r"e\.csv, line 2: rotation_error is 90"):
        write_errors(tmp_path / "e.csv", keys | {"rotation_error": [90.0]})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="does not exist"):
        read_errors(tmp_path / "e.csv")


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys):
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    writer = PredictionWriter(tmp_path / "val.csv", {"a": 1})
    assert "this file system has no locks; see that no other process" in capsys.readouterr().err
    assert not writer.done
