"""ntdm import: other programs' predictions become a run's, are scored, and stand in the tables."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from ntdm import export, import_predictions
from ntdm.config.protocol import NUISANCES, OCCLUSION_LEVELS
from ntdm.evaluation import ood_cv_challenge
from ntdm.evaluation.ood_cv_challenge import OOD_CV_COLUMNS
from ntdm.evaluation.score import score
from ntdm.geometry.camera_np import rotation_from_angles
from ntdm.geometry.metrics import rotation_error
from ntdm.io.cache import CacheFile
from ntdm.io.cache_split import find
from ntdm.io.error_table import read_errors
from ntdm.io.prediction_writer import write_predictions
from ntdm.io.predictions import DenseOutputs, Prediction, SampleKey
from ntdm.reports import tables

SPLIT = "pascal3d/val"
HEADER = ["dataset", "split", "category", "name", "azimuth", "elevation", "theta"]


@pytest.fixture(scope="module")
def cache(tiny, tmp_path_factory) -> Path:
    """pascal3d/val and ood_cv/pose, three samples of each of two categories, photo_00 to photo_02."""
    root = tmp_path_factory.mktemp("external") / "cache"
    for split in (SPLIT, "ood_cv/pose"):
        tiny.write_cache(root, split, count=3, prefix="photo_0", latents=False)
    for path in root.rglob("*.h5"):
        with CacheFile(path) as file:
            assert file["name"] == ["photo_0_0", "photo_0_1", "photo_0_2"]
    return root


def truth(cache: Path, split: str) -> dict[tuple[str, str], np.ndarray]:
    found = {}
    for path in find(cache, split):
        with CacheFile(path) as file:
            for name, viewpoint in zip(file["name"], file["viewpoint"], strict=True):
                found[file.category, name] = viewpoint
    return found


def write(path: Path, header: list[str], rows: list[list]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def our_rows(cache: Path) -> list[list]:
    return [["pascal3d", "val", *key, *view[:3]] for key, view in truth(cache, SPLIT).items()]


def challenge_rows(cache: Path) -> list[list]:
    return [
        [f"{ood_cv_challenge.challenge_name(*key)}.jpg", key[0], *np.degrees(view[:3]), view[3]]
        for key, view in truth(cache, "ood_cv/pose").items()
    ]


def cell(report: Path, metric: str, column: str) -> str:
    with report.open(newline="") as file:
        return next(row[column] for row in csv.DictReader(file) if row["metric"] == metric)


def test_the_truth_as_our_csv_is_a_hundred(cache, tmp_path):
    rows = [[*row, row[2]] for row in our_rows(cache)]
    path = write(tmp_path / "theirs.csv", [*HEADER, "predicted_category"], rows)
    errors = import_predictions.run("csv", [path], tmp_path / "run", "theirs", SPLIT, cache)
    assert errors == tmp_path / "run/errors/pascal3d/val.csv"
    assert read_errors(errors)["rotation_error"] == pytest.approx(np.zeros(6), abs=1e-12)
    assert json.loads((tmp_path / "run/config.json").read_text())["method"] == "theirs"
    report = tables.report(1, [tmp_path / "run"], tmp_path / "report", published=False)
    for metric in ("pose_acc_pi_6", "pose_acc_pi_18", "class_acc"):
        assert cell(report, metric, "L0") == "100.0000"
    assert (tmp_path / "report/table_1_confusion.png").exists()


def test_the_truth_with_its_masks_is_a_hundred_everywhere(tiny, tmp_path):
    """Poses, classes, amodal and visible masks, through files, scorer and report: all three tables."""
    root, run = tmp_path / "cache", tmp_path / "run"
    levels = [SPLIT, *(f"occluded_pascal3d/{level}" for level in OCCLUSION_LEVELS)]
    for split in (*levels, *(f"ood_cv/{nuisance}" for nuisance in NUISANCES)):
        tiny.write_cache(root, split, count=2, latents=False)
        rows, amodal, visible = [], [], []
        for path in find(root, split):
            with CacheFile(path) as file:
                for i, (name, view) in enumerate(zip(file["name"], file["viewpoint"], strict=True)):
                    pose = [float(value) for value in view]
                    key = (*split.split("/"), file.category, name)
                    rows.append(Prediction(*key, file.category, *pose, 1.0, 0.1, *pose))
                    amodal.append(file.read("amodal_mask", i))
                    visible.append(file.read("visible_mask", i))
        masks = DenseOutputs(np.stack(amodal), np.stack(visible), amodal_free=np.stack(amodal))
        written = write_predictions(run / "predictions" / f"{split}.csv", rows, masks)
        score(written, find(root, split), run / "errors" / f"{split}.csv")
    (run / "config.json").write_text('{"method": "truth"}')
    for table, count in ((1, 4), (2, 4), (3, 1)):
        path = tables.report(table, [run], tmp_path / "report", published=False)
        with path.open(newline="") as file:
            found = list(csv.DictReader(file))
        assert len(found) == count
        for row in found:
            cells = {k: v for k, v in row.items() if k not in ("method", "metric", "n")}
            assert set(cells.values()) == {"100.0000"}, cells
        with path.with_name(f"table_{table}_breakdown.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        metrics = {row["metric"] for row in found}
        assert {"amodal_iou", "class_acc", "amodal_iou_free", "pose_acc_pi_18_free"} < metrics
        assert ("visible_iou" in metrics) == (table == 1), "only where the dataset has occluders"
        for row in found:
            assert float(row["value"]) == (0 if row["metric"] == "median_error_deg" else 100), row


def test_the_challenges_csv_and_back(cache, tmp_path):
    exported = export.ood_cv(find(cache, "ood_cv/pose"), None, tmp_path / "truth.csv")
    errors = read_errors(
        import_predictions.run("ood-cv", [exported], tmp_path / "run", "m", "ood_cv/pose", cache)
    )
    assert errors["rotation_error"] == pytest.approx(np.zeros(6), abs=1e-7)
    assert not errors.measured("class_correct") and not errors.measured("amodal_iou")


def test_nemos_npz(cache, tmp_path):
    files = []
    for category in ("car", "sofa"):
        poses = {name: v for (c, name), v in truth(cache, SPLIT).items() if c == category}
        fields = {name: np.array([v[3], v[2], v[1], v[0], 0.1, 0.2]) for name, v in poses.items()}
        files.append(tmp_path / f"{category}_val.npz")
        np.savez(files[-1], **fields)
    errors = read_errors(import_predictions.run("nemo", files, tmp_path / "run", "NeMo", SPLIT, cache))
    assert errors["rotation_error"] == pytest.approx(np.zeros(6), abs=1e-12)
    both = tmp_path / "all.npz"
    shutil.copy(files[0], both)
    with pytest.raises(ValueError, match=r"all.npz, field photo_0_0: photo_0_0 stands for several samples"):
        import_predictions.run("nemo", [both], tmp_path / "other", "NeMo", SPLIT, cache)
    degrees = {**np.load(files[0]), "photo_0_1": np.array([5.0, 0.0, 10.0, 200.0])}
    np.savez(files[0], **degrees)
    with pytest.raises(
        ValueError, match=r"field photo_0_1: azimuth is 200; radians are wanted; is it in deg"
    ):
        import_predictions.run("nemo", files, tmp_path / "other", "NeMo", SPLIT, cache)
    np.savez(files[0], total_error=np.zeros(3))
    with pytest.raises(ValueError, match="holds total_error, errors without the names of their photos"):
        import_predictions.run("nemo", files, tmp_path / "other", "NeMo", SPLIT, cache)
    np.savez(files[0], photo_0_0=np.array([None]))
    with pytest.raises(ValueError, match=r"car_val.npz is not a readable .npz file"):
        import_predictions.run("nemo", files, tmp_path / "other", "NeMo", SPLIT, cache)
    assert not (tmp_path / "other").exists()


def test_nemos_names_without_the_objects_number():
    samples = (SampleKey("car", "n1_2_00"), SampleKey("car", "n1_2_01"))
    from ntdm.evaluation.prediction_formats import _nemo_names

    names = _nemo_names(import_predictions.Truth(Path("x"), "d", "s", samples, "", None), "car")
    assert names == {"n1_2_00": [samples[0]], "n1_2": [samples[0]], "n1_2_01": [samples[1]]}


def test_a_failed_prediction_counts_as_wrong(cache, tmp_path):
    rows = our_rows(cache)
    rows[2][4:] = [math.nan] * 3
    path = write(tmp_path / "theirs.csv", HEADER, rows)
    errors = read_errors(import_predictions.run("csv", [path], tmp_path / "run", "m", SPLIT, cache))
    assert (errors["rotation_error"] == math.pi).sum() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop(3), r"no prediction for 1 of the 6 .*val, the first .*'photo_0_0'\)"),
        (lambda r: r.append(list(r[1])), r"theirs.csv, line 8: sample .*photo_0_1'\) stands already in li"),
        (lambda r: r[4].__setitem__(4, 200.0), r"theirs.csv, line 6: azimuth is 200; radians .* in degrees"),
        (lambda r: r[4].__setitem__(4, ""), r"theirs.csv, line 6: column azimuth has 1 holes in 6 rows"),
        (lambda r: r[0].__setitem__(3, "x_00"), r"theirs.csv, line 2: .*'x_00'\) is none of the samples"),
        (lambda r: r[0].__setitem__(1, "train"), r"theirs.csv, line 2: split is 'train', want 'val'"),
        (lambda r: r[0].__setitem__(3, "x" * 1001), r"theirs.csv, line 2: a cell of more than 1000 charact"),
        (lambda r: [x.__setitem__(5, "") for x in r], r"theirs.csv: column elevation is empty, but azimuth"),
        (
            lambda r: [x.__setitem__(slice(4, 7), ["", "", ""]) for x in r],
            r"theirs.csv: azimuth and predicted_category are both empty: nothing is predicted",
        ),
    ],
)  # fmt: skip
def test_bad_rows_of_our_csv(cache, tmp_path, change, message):
    rows = our_rows(cache)
    change(rows)
    path = write(tmp_path / "theirs.csv", HEADER, rows)
    with pytest.raises(ValueError, match=message):
        import_predictions.run("csv", [path], tmp_path / "run", "m", SPLIT, cache)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop(3), r"no prediction for 1 of the 6 samples"),
        (
            lambda r: r.append([*r[1][:2], 1, 2, 3, 4]),
            r"line 8: car photo_0_1 is predicted already in .*line 3",
        ),
        (lambda r: r[4].__setitem__(2, "far"), r"line 6: azimuth is 'far', want a number, or nan"),
        (lambda r: r[4].pop(), r"line 6: 5 cells under 6 columns"),
        (lambda r: r[0].__setitem__(0, "x.jpg"), r"line 2: x.jpg is none of the samples of .*ood_cv/pose"),
    ],
)
def test_bad_rows_of_the_challenges_csv(cache, tmp_path, change, message):
    rows = challenge_rows(cache)
    change(rows)
    path = write(tmp_path / "pose.csv", list(OOD_CV_COLUMNS), rows)
    with pytest.raises(ValueError, match=message):
        import_predictions.run("ood-cv", [path], tmp_path / "run", "m", "ood_cv/pose", cache)
    assert not (tmp_path / "run").exists()


def test_a_label_table_scored_against_itself_whatever_its_photos_are_called(tmp_path):
    """The source cannot be told from these names: `collection` would be guessed of all of them."""
    rows = [[rf"{source}_car_n0_10{i}_0.jpg", "car", 40.0 * i, 5.0, 0.0, 5.0]
            for i, source in enumerate(("imagenet", "pascal", "collection"))]  # fmt: skip
    labels = write(tmp_path / "labels.csv", list(OOD_CV_COLUMNS), rows)
    windows = [[rf"Images\car\{row[0]}", *row[1:]] for row in rows]
    for name, guesses in (("same", rows), ("windows", windows)):
        path = write(tmp_path / f"{name}.csv", list(OOD_CV_COLUMNS), guesses)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        run = tmp_path / name
        errors = read_errors(
            import_predictions.run("ood-cv", [path], run, "m", "ood_cv/shape", labels=labels)
        )
        assert errors["rotation_error"] == pytest.approx(np.zeros(3), abs=1e-12)


def test_what_else_is_refused(cache, tmp_path):
    path = write(tmp_path / "theirs.csv", HEADER, our_rows(cache))
    with pytest.raises(ValueError, match="OOD-CV has no nuisance 'fog'; want iid, shape, pose"):
        import_predictions.run("ood-cv", [path], tmp_path / "run", "m", "ood_cv/fog", cache)
    with pytest.raises(ValueError, match=r"theirs.csv, line 1: missing column 'imgs'; want imgs,labels"):
        import_predictions.run("ood-cv", [path], tmp_path / "run", "m", "ood_cv/pose", cache)
    import_predictions.run("csv", [path], tmp_path / "run", "m", SPLIT, cache)
    import_predictions.run("csv", [path], tmp_path / "run", "m", SPLIT, cache)
    with pytest.raises(ValueError, match=r"run holds another run, 'm': name another"):
        import_predictions.run("csv", [path], tmp_path / "run", "n", SPLIT, cache)
    rows = our_rows(cache)
    rows[0][4] += 0.1
    changed = write(tmp_path / "changed.csv", HEADER, rows)
    with pytest.raises(ValueError, match=r"was made with another config \(rows: .*pass --overwrite"):
        import_predictions.run("csv", [changed], tmp_path / "run", "m", SPLIT, cache)
    errors = import_predictions.run("csv", [changed], tmp_path / "run", "m", SPLIT, cache, overwrite=True)
    assert read_errors(errors)["rotation_error"].max() == pytest.approx(0.1, abs=0.01)


def test_a_method_without_a_pose_has_no_pose_accuracy(cache, tmp_path):
    rows = [[*row[:4], "", "", "", row[2]] for row in our_rows(cache)]
    path = write(tmp_path / "theirs.csv", [*HEADER, "predicted_category"], rows)
    errors = read_errors(import_predictions.run("csv", [path], tmp_path / "run", "m", SPLIT, cache))
    assert not errors.measured("rotation_error")
    assert errors["class_correct"].tolist() == [1.0] * 6
    true = [[f"imagenet_{row[2]}_{row[3]}.jpg", row[2], 1, 2, 3, 4] for row in rows]
    labels = write(tmp_path / "labels.csv", list(OOD_CV_COLUMNS), true)
    for row in rows:  # photo_0_1 is object 1 of photo_0: photo_0_01
        row[3] = f"{row[3][:-1]}0{row[3][-1]}"
    path = write(tmp_path / "theirs.csv", [*HEADER, "predicted_category"], rows)
    errors = read_errors(import_predictions.run("csv", [path], tmp_path / "other", "m", SPLIT, labels=labels))
    assert not errors.measured("rotation_error") and errors.measured("class_correct")


def test_files_of_one_split_that_predict_different_things(cache, tmp_path):
    rows = our_rows(cache)
    first = write(tmp_path / "bus.csv", HEADER, rows[:3])
    second = write(tmp_path / "car.csv", [*HEADER, "seconds"], [[*row, 0.5] for row in rows[3:]])
    with pytest.raises(ValueError, match=r"bus.csv, line 2: seconds is empty, but .*car.csv, line 2 has it"):
        import_predictions.run("csv", [first, second], tmp_path / "run", "m", SPLIT, cache)
    second = write(tmp_path / "car.csv", [*HEADER, "seconds"], [[*row, -0.5] for row in rows[3:]])
    with pytest.raises(ValueError, match=r"car.csv, line 2: seconds is -0.5; a non-negative number"):
        import_predictions.run("csv", [second], tmp_path / "run", "m", SPLIT, cache)
    assert not (tmp_path / "run").exists()


def test_failed_predictions_are_not_taken_for_radians(real_data, tmp_path):
    """Twenty objects and not one answer; of twenty that are all in radians the file is still refused."""
    labels = labels_of(real_data, "shape")
    lines = labels.read_text().splitlines()[:21]
    some = tmp_path / "labels.csv"
    some.write_text("\n".join(lines) + "\n")
    rows = [line.split(",") for line in lines[1:]]
    failed = write(
        tmp_path / "nan.csv", list(OOD_CV_COLUMNS), [[*r[:2], "nan", "nan", "nan", 1] for r in rows]
    )
    errors = read_errors(
        import_predictions.run("ood-cv", [failed], tmp_path / "run", "m", "ood_cv/shape", labels=some)
    )
    assert (errors["rotation_error"] == math.pi).all()
    radians = [[*r[:2], *(math.radians(float(angle)) for angle in r[2:5]), 1] for r in rows]
    wrong = write(tmp_path / "radians.csv", list(OOD_CV_COLUMNS), radians)
    with pytest.raises(ValueError, match=r"this format is in degrees; is the file in radians\?"):
        import_predictions.run("ood-cv", [wrong], tmp_path / "other", "m", "ood_cv/shape", labels=some)


def labels_of(real_data: Path, name: str) -> Path:
    folder = real_data / "OOD-CV" / "pose_ref" / "ref"
    path = folder / ("iid_test" if name == "iid" else f"nuisances/{name}") / "labels.csv"
    if not path.exists():
        pytest.skip(f"no label table at {path}")
    return path


def test_known_accuracies_on_the_challenges_own_labels(real_data, tmp_path):
    """Made-up predictions of known accuracy for every object of OOD-CV: each cell and both means."""
    right, fine, classes, sizes = {}, {}, {}, {}
    for k, name in enumerate(NUISANCES):
        labels = labels_of(real_data, name)
        with labels.open(newline="") as file:
            rows = list(csv.DictReader(file))
        sizes[name], right[name], fine[name] = len(rows), len(rows) * (k + 2) // 8, len(rows) * (k + 1) // 10
        for i, row in enumerate(rows):
            # About the axis of sight, theta is the rotation error itself.
            off = 9.9 if i < fine[name] else 29.9 if i < right[name] else 30.1
            row["theta"] = repr(float(row["theta"]) + off)
        predicted = write(
            tmp_path / f"{name}.csv", list(OOD_CV_COLUMNS), [[r[c] for c in OOD_CV_COLUMNS] for r in rows]
        )
        import_predictions.run(
            "ood-cv", [predicted], tmp_path / "poses", "poses", f"ood_cv/{name}", labels=labels
        )
        # The challenge's format has no class: our own says the poses again, and a class.
        with (tmp_path / f"poses/predictions/ood_cv/{name}.csv").open(newline="") as file:
            ours = list(csv.DictReader(file))
        classes[name] = len(ours) * (7 - k) // 9
        for i, row in enumerate(ours):
            row["predicted_category"] = row["category"] if i < classes[name] else "none"
        predicted = write(tmp_path / f"our_{name}.csv", list(ours[0]), [list(row.values()) for row in ours])
        import_predictions.run("csv", [predicted], tmp_path / "run", "m", f"ood_cv/{name}", labels=labels)
    assert list(sizes.values()) == [981, 1075, 565, 567, 1348]
    report = tables.report(2, [tmp_path / "run", tmp_path / "poses"], tmp_path / "report", published=True)
    with report.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["metric"]: row for row in rows if row["method"] == "m"}
    for row in (row for row in rows if row["method"] == "poses"):
        assert row == found[row["metric"]] | {"method": "poses"}
    for metric, counts in (("pose_acc_pi_6", right), ("pose_acc_pi_18", fine), ("class_acc", classes)):
        shares = {name: 100 * counts[name] / sizes[name] for name in NUISANCES}
        for name in NUISANCES:
            assert float(found[metric][name]) == pytest.approx(shares[name], abs=6e-5)
        pooled = 100 * sum(counts.values()) / sum(sizes.values())
        assert float(found[metric]["mean"]) == pytest.approx(pooled, abs=6e-5)
        assert float(found[metric]["mean_macro"]) == pytest.approx(sum(shares.values()) / 5, abs=6e-5)
        assert found[metric]["n"] == "4536"


def test_the_challenges_labels_as_predictions(real_data, tmp_path):
    """iid lists four objects twice, and so does whoever predicts it row by row."""
    labels = labels_of(real_data, "iid")
    errors = read_errors(
        import_predictions.run("ood-cv", [labels], tmp_path / "run", "m", "ood_cv/iid", labels=labels)
    )
    assert len(errors) == 4848 and errors["rotation_error"].max() < 1e-7
    with labels.open(newline="") as file:
        rows = list(csv.DictReader(file))
    radians = [
        [r["imgs"], r["labels"], *(math.radians(float(r[c])) for c in OOD_CV_COLUMNS[2:5]), 5] for r in rows
    ]
    path = write(tmp_path / "radians.csv", list(OOD_CV_COLUMNS), radians)
    with pytest.raises(ValueError, match=r"radians.csv: no angle .* exceeds 6.28: this format is in degrees"):
        import_predictions.run("ood-cv", [path], tmp_path / "other", "m", "ood_cv/iid", labels=labels)


def test_theta_is_the_error_itself():
    """What the known accuracies above rest on."""
    angles = np.random.default_rng(0).uniform(-3, 3, (50, 3))
    turned = angles + np.array([0, 0, 0.3])
    found = rotation_error(rotation_from_angles(turned), rotation_from_angles(angles))
    assert found == pytest.approx(np.full(50, 0.3))
