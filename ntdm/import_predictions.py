"""Anyone's predictions into a run folder, scored: `ntdm import`. Afterwards it is a run like any other.

The truth is that of a cache split, or a label table as the OOD-CV challenge published it. Every sample of the
truth needs a prediction, a failed one as nan. The formats are those of evaluation/prediction_formats.py.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ntdm.config.protocol import NUISANCES
from ntdm.evaluation.ood_cv_challenge import ANGLES, challenge_angles, challenge_rows, challenge_sample
from ntdm.evaluation.prediction_formats import FORMATS, Imports, Truth
from ntdm.evaluation.score import score
from ntdm.geometry import camera_np, metrics
from ntdm.io.cache_split import CacheSplit
from ntdm.io.error_table import write_errors
from ntdm.io.outputs import sweep, up_to_date
from ntdm.io.prediction_writer import write_predictions
from ntdm.io.predictions import PREDICTION_COLUMNS, Prediction, SampleKey, made_with, read_predictions
from ntdm.io.progress import say
from ntdm.io.run_folder import RunFolder
from ntdm.io.table import KEY_COLUMNS

SCHEMA, SCHEMA_VERSION = "ntdm-external", 1
_OOD_CV_SPLITS = ("iid", *NUISANCES, "occlusion")


def run(
    form: str,
    files: Sequence[Path],
    out: Path,
    method: str,
    split: str,
    cache: Path | None = None,
    labels: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Reads predictions, writes them as a run's, scores them.

    Args:
        form: a key of FORMATS.
        files: one or more; NeMo writes one a category.
        out: the run folder; it may hold other splits of the same method.
        method: the name in the tables.
        split: "ood_cv/pose", ...
        cache: root of the cache that holds the split; gives the truth.
        labels: the challenge's labels.csv in its place; then only the pose is scored.
        overwrite: replace predictions of the split that came from other files.

    Returns:
        The error CSV.

    Raises:
        ValueError: a file that breaks its format (file, line and field named); a sample without a
            prediction or with two; a prediction for no sample; degrees where radians belong, or the other
            way round; a folder of another method.
    """
    sweep(out)
    if (cache is None) == (labels is None):
        raise ValueError("name the truth: either the cache that holds the split, or a label table")
    if not method.strip() or not method.isprintable():
        raise ValueError(
            f"the method's name is {method!r}: it is the name of the table's row, a line of text"
        )
    dataset, _, name = split.partition("/")
    if dataset == "ood_cv" and name not in _OOD_CV_SPLITS:
        raise ValueError(f"{split}: OOD-CV has no nuisance {name!r}; want {', '.join(_OOD_CV_SPLITS)}")
    if cache is not None:
        truth = _cache_truth(cache, dataset, name)
    else:
        assert labels is not None
        truth = _label_truth(labels, dataset, name)
    rows = _in_order(FORMATS[form](files, truth), truth, files)
    folder = RunFolder(out)
    _describe(folder, method)
    target, errors = folder.predictions(split), folder.errors(split)
    wanted = {"import": form, "rows": _digest(rows)} | ({"data": truth.digest} if truth.digest else {})
    if not (target.exists() and up_to_date(target, made_with(target), wanted, overwrite)):
        for stale in (target, target.with_suffix(".h5"), errors):
            stale.unlink(missing_ok=True)
        write_predictions(target, rows, made_with=wanted)
    if truth.viewpoint is None:
        scored = score(target, truth.paths, errors)
        say(f"{split}: {scored.samples} samples, {scored.failed} failed predictions")
        return scored.path
    return _score_labels(target, truth, errors)


def _cache_truth(cache: Path, dataset: str, split: str) -> Truth:
    files = CacheSplit.open(cache, [f"{dataset}/{split}"])
    samples = [SampleKey(header.category, name) for header in files.headers for name in header.names]
    where = cache / dataset / split
    if not samples:
        raise ValueError(f"{where} holds no sample to import predictions of")
    return Truth(where, dataset, split, tuple(samples), files.fingerprint, None, tuple(files.paths))


def _label_truth(labels: Path, dataset: str, split: str) -> Truth:
    """The challenge's label table; a row that stands there twice, as four of iid do, counts once."""
    found: dict[SampleKey, tuple[float, ...]] = {}
    for where, row in challenge_rows(labels):
        sample = challenge_sample(row["imgs"], row["labels"], where)
        angles = tuple(challenge_angles(row, where))
        if not all(map(math.isfinite, angles)):
            raise ValueError(f"{where}: an angle is not a finite number, and this is the truth")
        if found.setdefault(sample, angles) != angles:
            raise ValueError(f"{where}: {row['imgs']} stands in the table with other angles too")
    if not found:
        raise ValueError(f"{labels} has no rows")
    viewpoint = np.radians(np.array(list(found.values())))
    return Truth(labels, dataset, split, tuple(found), "", viewpoint)


def _in_order(imports: Imports, truth: Truth, files: Sequence[Path]) -> list[Prediction]:
    """The predictions in the order of the truth's samples, one of each."""
    samples = set(truth.samples)
    for sample, (where, _) in imports.items():
        if sample not in samples:
            raise ValueError(f"{where}: {tuple(sample)} is none of the samples of {truth.where}")
    missing = [sample for sample in truth.samples if sample not in imports]
    if missing:
        raise ValueError(
            f"{', '.join(map(str, files))}: no prediction for {len(missing)} of the {len(samples)} samples "
            f"of {truth.where}, the first is {tuple(missing[0])}: write a failed prediction with nan as its "
            "pose"
        )
    _check_alike(imports)
    return [imports[sample].prediction for sample in truth.samples]


def _check_alike(imports: Imports) -> None:
    """ValueError where one file predicts what another one leaves out: the columns would have holes."""
    first, *others = imports.values()
    for other in others:
        for name, a, b in zip(PREDICTION_COLUMNS, first.prediction, other.prediction, strict=True):
            if (a is None) != (b is None):
                has, lacks = (other, first) if a is None else (first, other)
                raise ValueError(
                    f"{lacks.where}: {name} is empty, but {has.where} has it: all files of a split must "
                    "predict the same"
                )


def _describe(folder: RunFolder, method: str) -> None:
    """config.json, by which the folder is a run; ValueError where it is another's."""
    wanted = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "method": method}
    if not folder.config.exists():
        folder.describe(wanted)
    elif (before := folder.description()) != wanted:
        raise ValueError(f"{folder.path} holds another run, {before.get('method')!r}: name another --out")


def _digest(rows: Iterable[Prediction]) -> str:
    return hashlib.sha256(repr(list(rows)).encode()).hexdigest()[:16]


def _score_labels(predictions: Path, truth: Truth, errors: Path) -> Path:
    """Rotation errors against a label table, which says nothing of masks."""
    assert truth.viewpoint is not None
    table = read_predictions(predictions)
    place = {key: row for row, key in enumerate(table.keys())}
    rows = [place[sample] for sample in truth.samples]
    angles = np.stack([table[name][rows] for name in ANGLES], -1)
    columns = {name: table[name][rows] for name in KEY_COLUMNS}
    has_pose = table.measured("azimuth")
    if has_pose:
        columns["rotation_error"] = metrics.rotation_error(
            camera_np.rotation_from_angles(angles), camera_np.rotation_from_angles(truth.viewpoint)
        )
    if table.measured("predicted_category"):
        columns["class_correct"] = (columns["category"] == table["predicted_category"][rows]).astype(int)
    if table.measured("seconds"):
        columns["seconds"] = table["seconds"][rows]
    failed = int((~np.isfinite(angles).all(-1)).sum()) if has_pose else 0
    say(f"{truth.dataset}/{truth.split}: {len(rows)} samples, {failed} failed predictions")
    return write_errors(errors, columns)
