"""Evaluation: `ntdm evaluate`. A run and cache splits in, prediction and error files out (docs/formats.md).

Predictions first, batch by batch, then scores against the cache's truth; an interrupted evaluation goes on
where it stopped. Class-free protocol: every photo is fitted under every category that it may show, the lowest
loss names the class; pose and masks of the table are those fitted under the true category, as the papers do,
and the pose under the predicted one is written beside it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ntdm.config.reading import to_dict
from ntdm.config.stages import InferConfig
from ntdm.data import distributed
from ntdm.data.dataset import SampleDataset
from ntdm.evaluation import sheets
from ntdm.evaluation.score import score
from ntdm.io import predictions
from ntdm.io.cache_split import CacheSplit, split_files
from ntdm.io.outputs import sweep, up_to_date
from ntdm.io.prediction_writer import PredictionWriter, remove_parts
from ntdm.io.predictions import DenseOutputs, Prediction
from ntdm.io.progress import say, track
from ntdm.io.run_folder import RunFolder, check_focal
from ntdm.methods import load
from ntdm.methods.ntdm import NTDM
from ntdm.methods.registry import METHODS
from ntdm.nn.base import Guess, Model, Predict


def run(
    run_folder: Path,
    cache: Path,
    splits: Sequence[str],
    config: InferConfig,
    overwrite: bool = False,
    device: str = "cpu",
) -> list[Path]:
    """Predict and score splits ("pascal3d/val", ...); under torchrun, its processes share the photos.

    Args:
        run_folder: of a finished training.
        cache: cache root, or one cache file, which is then all there is of its split (`splits` is not used).
        splits: none for every test split of the cache.
        config: of inference.
        overwrite: replace predictions made with another config or other weights.
        device: "cpu" or "cuda", where photos are fitted.

    Returns:
        the error files, `<run>/errors/<dataset>/<split>.csv`.

    Raises:
        ValueError: not a run; a cache of another image size or with a category the run does not know; a
            sample that the run was trained on; predictions made with another config.
    """
    distributed.join(device)
    first = distributed.rank() == 0  # the process that joins and scores
    if first:
        sweep(run_folder)
    check_config(config)
    model, description = load.load(run_folder, device)
    folder = RunFolder(run_folder)
    weights, trained_on = folder.weights_digest(), folder.trained_on()
    predictor: Predict | None = None
    written = []
    todo = {split: CacheSplit(paths) for split, paths in split_files(cache, splits).items()}
    for files in todo.values():
        _check(files, description, trained_on, run_folder)
    for split, files in todo.items():
        table, paths = folder.predictions(split), files.paths
        made_with = {"infer": to_dict(config), "weights": weights, "data": files.fingerprint}
        kept = table.exists() and up_to_date(table, predictions.made_with(table), made_with, overwrite)
        distributed.barrier()  # every process has looked
        if not kept:
            data = SampleDataset(files)
            if predictor is None:
                method = METHODS[model.config.method]
                predictor = method.predictor(model, config, data.image_size, description["nominal_focal"])
            if first:  # all checks have passed: old files may go
                for stale in (table, folder.errors(split)):
                    stale.unlink(missing_ok=True)
                writer = PredictionWriter(table, made_with, overwrite)
            distributed.barrier()
            if not first:
                writer = PredictionWriter(table, made_with, helps=True)
            distributed.barrier()
            _predict(predictor, model, data, config.batch_size, writer, split)
            distributed.barrier()
            if first:
                writer.finish(data.keys())
        if not first:
            continue
        if kept:
            remove_parts(table)  # a kill may have come between table and removal
        scored = score(table, paths, folder.errors(split))
        say(f"{split}: {scored.samples} samples, {scored.failed} failed predictions")
        if isinstance(model, NTDM):
            sheet = sheets.overview(model, description["nominal_focal"], run_folder, split, paths)
            say(f"{split}: pictures in {sheet}")
        written.append(scored.path)
    return written


def check_config(config: InferConfig) -> None:
    """ValueError where predictions could not hold what the config asks for."""
    if config.refine_principal_point:
        raise ValueError(
            "refine_principal_point: predictions hold no principal point, as crops are centred; `ntdm infer` "
            "refines it"
        )


def _check(split: CacheSplit, description: dict[str, Any], trained_on: set[str], run_folder: Path) -> None:
    for header in split.headers:
        if header.category not in description["categories"]:
            raise ValueError(
                f"{header.path}: category {header.category!r} is unknown to {run_folder}, which was trained "
                f"on {', '.join(description['categories'])}"
            )
        if list(header.image_size) != description["image_size"]:
            raise ValueError(
                f"{header.path} has images of {header.image_size}, {run_folder} was trained on "
                f"{tuple(description['image_size'])} (H, W); prepare the split at that size"
            )
        check_focal(header.path, header.nominal_focal, description)
    seen = sorted(split.names & trained_on)
    if seen:
        where = split.paths[0].parent
        raise ValueError(f"{run_folder} was trained on {len(seen)} samples of {where}, such as {seen[0]}")


def _predict(
    predictor: Predict,
    model: Model,
    data: SampleDataset,
    batch_size: int,
    writer: PredictionWriter,
    split: str,
) -> None:
    keys = data.keys()
    todo = [i for i, key in enumerate(keys) if key not in writer.done]
    groups = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    device = next(model.parameters()).device
    for group in track(groups[distributed.rank() :: distributed.size()], f"evaluate {split}"):
        items = [data[i] for i in group]
        photo = torch.stack([item["image"] for item in items]).to(device)
        start = time.monotonic()
        guess = predictor(photo, [model.categories.index(item["category"]) for item in items])
        # On CUDA the clock waits for the last of them.
        guess = Guess(*(None if field is None else field.cpu() for field in guess))
        seconds = (time.monotonic() - start) / len(items)
        rows = [_row(item, guess, i, model.categories, seconds) for i, item in enumerate(items)]
        writer.add(rows, _geometry(guess))


def _row(item: dict[str, Any], guess: Guess, i: int, categories: Sequence[str], seconds: float) -> Prediction:
    """A sample's line of the prediction file."""
    pose, free = ([None] * 4 if v is None else [*v[i].tolist(), None][:4] for v in guess[:2])
    return Prediction(
        dataset=item["dataset"], split=item["split"], category=item["category"], name=item["name"],
        predicted_category=None if guess.category is None else categories[int(guess.category[i])],
        azimuth=pose[0], elevation=pose[1], theta=pose[2], distance=pose[3],
        score=None if guess.score is None else float(guess.score[i]),
        seconds=seconds,
        free_azimuth=free[0], free_elevation=free[1], free_theta=free[2], free_distance=free[3],
    )  # fmt: skip


def _geometry(guess: Guess) -> DenseOutputs:
    """What of a batch's predictions does not fit a cell."""
    masks, numbers = ("amodal", "visible", "amodal_free"), ("latent", "scale")
    arrays = {name: getattr(guess, name) for name in (*masks, *numbers)}
    return DenseOutputs(**{
        name: array.numpy().astype(np.uint8 if name in masks else np.float32)
        for name, array in arrays.items() if array is not None
    })  # fmt: skip
